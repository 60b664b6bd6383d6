"""The words that may come next on a command line of `upscaled`, for a shell's completion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Literal, NamedTuple

from upscaled_cli.__main__ import SUBCOMMANDS
from upscaled_models.catalog import MODEL_FOLDERS, Catalog, default_model_dir, is_file
from upscaled_protocol.optionvalues import given_path

# `run` passes options to the workers, so they are completed too.
_PARSERS = {"run": ("upscaled_supervisor.options", "upscaled_worker.__main__")}


class Candidates(NamedTuple):
    """Words with their descriptions. names: the kind of file names that the shell offers too."""

    words: Mapping[str, str] = {}
    names: Literal["files", "folders", "none"] = "none"

    def lines(self) -> Iterator[str]:
        """The output for a shell's script: `names`, then one line per word, with a tab between word
        and description."""
        yield self.names
        for word, description in self.words.items():
            yield f"{word}\t{' '.join(description.split())}"


def candidates(words: Sequence[str]) -> Candidates:
    """The candidates for the last one of `words`, which follow `upscaled`."""
    *before, current = words or [""]
    found = _candidates(before, current)
    prefix = current.partition("=")[2] if _is_assignment(current) else current
    matching = {word: text for word, text in found.words.items() if word.startswith(prefix)}
    return Candidates(matching, found.names)


def words_of(line: str) -> list[str]:
    """The words after `upscaled`. The last one may be incomplete or empty."""
    return [*line.split()[1:], *([""] if line[-1:].isspace() else [])]


def _candidates(before: Sequence[str], current: str) -> Candidates:
    if not before:
        options = {"--help": "show all subcommands", "--version": "print the version"}
        subcommands = {name: subcommand.summary for name, subcommand in SUBCOMMANDS.items()}
        return Candidates(options if current.startswith("-") else subcommands)
    if before[0] not in SUBCOMMANDS:
        return Candidates()
    line = _Line(_parsers(before[0]))
    for word in before[1:]:
        line.read(word)
    return line.next(current)


def _parsers(subcommand: str) -> list[argparse.ArgumentParser]:
    modules = _PARSERS.get(subcommand, (SUBCOMMANDS[subcommand].module,))
    return [import_module(module).parser() for module in modules]


class _Line:
    """A command line, read word by word as argparse reads it."""

    def __init__(self, parsers: Sequence[argparse.ArgumentParser]) -> None:
        self._values: dict[str, str] = {}
        self._enter(parsers)

    def _enter(self, parsers: Sequence[argparse.ArgumentParser]) -> None:
        # A parser's actions have no public name.
        actions = [action for parser in parsers for action in parser._actions]
        self._options = {name: action for action in actions for name in action.option_strings}
        self._positionals = [action for action in actions if not action.option_strings]
        self._awaiting: argparse.Action | None = None  # the option of the next word
        self._only_positionals = False

    def read(self, word: str) -> None:
        """Read a complete word."""
        if self._awaiting is not None:
            self._values[self._awaiting.dest] = word
            self._awaiting = None
        elif word == "--":
            self._only_positionals = True
        elif word.startswith("-") and word != "-" and not self._only_positionals:
            name, equals, value = word.partition("=")
            option = self._options.get(name)
            if option is not None and equals:
                self._values[option.dest] = value
            elif option is not None and option.nargs != 0:
                self._awaiting = option
        elif self._positionals:
            self._take_positional(word)

    def _take_positional(self, word: str) -> None:
        action = self._positionals[0]
        if isinstance(action, argparse._SubParsersAction):
            self._enter([action.choices[word]] if word in action.choices else [])
        elif action.nargs not in ("*", "+"):
            self._positionals = self._positionals[1:]

    def next(self, current: str) -> Candidates:
        """The candidates for an incomplete word."""
        if self._awaiting is not None:
            return self._candidates_of(self._awaiting)
        if not self._only_positionals and current.startswith("-"):
            option = self._options.get(current.partition("=")[0])
            if option is not None and _is_assignment(current):
                return self._candidates_of(option)
            return Candidates(dict(self._names_of_options()))
        return self._candidates_of(self._positionals[0]) if self._positionals else Candidates()

    def _names_of_options(self) -> Iterator[tuple[str, str]]:
        for name, action in self._options.items():
            if name.startswith("--") and action.help is not argparse.SUPPRESS:
                yield name, (action.help or "") % vars(action)

    def _candidates_of(self, action: argparse.Action) -> Candidates:
        if action.choices is not None:
            helps = {one.dest: one.help or "" for one in getattr(action, "_choices_actions", ())}
            return Candidates({str(one): helps.get(str(one), "") for one in action.choices})
        # The name of a value in the help shows its kind.
        metavar = action.metavar or action.dest.upper()
        if action.dest == "pre_model":
            return Candidates(_models("esrgan", scale=1), "files")
        if metavar == "MODEL":
            return Candidates(_models(self._values.get("method", "esrgan")), "files")
        if isinstance(metavar, str) and metavar in _WORDS:
            return Candidates(dict.fromkeys(_WORDS[metavar](), ""))
        if metavar in _FOLDERS:
            return Candidates(names="folders")
        takes_file = metavar in _FILES or action.type is given_path
        return Candidates(names="files" if takes_file else "none")


def _is_assignment(word: str) -> bool:
    return word.startswith("--") and "=" in word


def _models(method: str, scale: int | None = None) -> dict[str, str]:
    """Names for `--model`: of the catalogue, and the user's own files by their stem.

    scale: only models of it; that of own files is not known.
    """
    catalog, model_dir = Catalog.load(), default_model_dir()
    own = catalog.own_files(model_dir, method) if method in MODEL_FOLDERS else []
    names = {path.stem: "your own" for path in own}
    for model in catalog:
        if model.method == method and model.is_for_jobs and scale in (None, model.scale):
            is_here = is_file(model.path(model_dir))
            names[model.name] = model.description if is_here else "not pulled yet"
    return names


def _catalog_names() -> Iterable[str]:
    return (model.name for model in Catalog.load())


def _benchmarks() -> Iterable[str]:
    from upscaled_cli.bench import BENCHMARKS

    return BENCHMARKS


_WORDS: dict[str, Callable[[], Iterable[str]]] = {
    "BENCHMARK": _benchmarks,
    "NAME": _catalog_names,
}
_FILES = ("FILE", "IN", "OUT", "FILE|URL", "PATH")
_FOLDERS = ("DIR", "MODEL_DIR", "OUTPUT_DIR")
