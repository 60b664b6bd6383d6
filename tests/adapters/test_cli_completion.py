"""What the shells complete, asked of the command and of the shells themselves."""

from __future__ import annotations

import os
import pty
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upscaled_cli import exits
from upscaled_cli.bench import BENCHMARKS
from upscaled_cli.candidates import candidates
from upscaled_cli.completion import main
from upscaled_models.catalog import Catalog

TIMEOUT_S = 60


def environment(folder: Path) -> dict[str, str]:
    """With our command in the path, and without settings of the user's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return os.environ | {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "$ "}


# How a shell without settings is started, and bound to write the line at Ctrl-T and to leave.
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        (
            'source ./script; bind -x \'"\\C-t": printf "%s\\n" "$READLINE_LINE" >> lines; '
            "READLINE_LINE=; READLINE_POINT=0'"
        ),
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        (
            "autoload -Uz compinit; compinit -D -u; source ./script; setopt no_list_ambiguous; "
            "dump() { print -r -- $BUFFER >> lines; BUFFER=; }; zle -N dump; bindkey '^T' dump"
        ),
    ),
}

# What is typed before Tab, and the line after it.
LINES = {
    "upscaled upsc": "upscaled upscale ",
    "upscaled upscale my": "upscaled upscale my\\ photo.jpg ",
    "upscaled batch f": "upscaled batch folder/",
    "upscaled upscale --crop=cen": "upscaled upscale --crop=center ",
    "upscaled upscale --model mi": "upscaled upscale --model mine ",
    "upscaled upscale --width f": "upscaled upscale --width f",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a picture, a file and a folder of similar names, and a model of the user."""
    (tmp_path / "my photo.jpg").touch()
    (tmp_path / "f.txt").touch()
    (tmp_path / "folder").mkdir()
    own = tmp_path / "models" / "upscale_models"
    own.mkdir(parents=True)
    (own / "mine.pth").touch()
    (own / "notes.txt").touch()
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path / "models"))
    return tmp_path


def words(line: str) -> list[str]:
    """What may follow, without its descriptions."""
    return list(candidates(line.split(" ")).words)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ba", ["batch"]),
        ("--v", ["--version"]),
        ("batch --fo", ["--force", "--format"]),
        ("run --metr", ["--metrics-address"]),
        ("run --allow-r", ["--allow-root"]),  # a worker's
        ("models pu", ["pull"]),
        ("models pull flux-", ["flux-ae"]),
        ("upscale a.jpg --crop top-", ["top-left", "top-right"]),
        ("upscale --crop=bottom-", ["bottom-left", "bottom-right"]),
        ("upscale --format p", ["png"]),
        ("upscale --method im", ["imagen"]),
        ("upscale -- --fo", []),
        ("upscale --width ", []),
        ("bench ", list(BENCHMARKS)),
        ("completion f", ["fish"]),
        ("schema h", ["host", "http"]),
        ("nonsense ", []),
    ],
)
def test_what_may_follow_is_known_from_the_parsers(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("upscale ", "files"),
        ("upscale a.jpg -o ", "files"),
        ("upscale --model ", "files"),
        ("upscale --width ", "none"),
        ("batch ", "folders"),
        ("batch a -o ", "folders"),
        ("batch a ", "none"),
        ("run --journal ", "files"),
        ("run --allow-root ", "folders"),
        ("doctor --model-dir ", "folders"),
    ],
)
def test_the_shell_gets_the_kind_of_names_to_add(line: str, names: str) -> None:
    assert candidates(line.split(" ")).names == names


@pytest.mark.usefixtures("folder")
def test_models_are_those_of_the_method_and_the_users_own() -> None:
    esrgan = candidates(["upscale", "--model", ""]).words
    assert esrgan["mine"] == "your own"
    assert esrgan["4x-UltraSharp"] == "not pulled yet"
    assert "faithful" in esrgan["compact-x4"]
    assert "notes" not in esrgan
    flux = words("upscale --method flux --model ")
    assert "flux1-dev-Q8_0" in flux
    assert not {"compact-x4", "mine", "clip_l"} & set(flux)
    # Models of the catalogue enlarge.
    assert words("upscale --method flux --pre-model ") == ["mine"]
    assert set(words("models pull ")) == {model.name for model in Catalog.load()}


def test_every_action_of_every_parser_can_be_asked_for() -> None:
    for subcommand in words(""):
        for option in words(f"{subcommand} --"):
            assert list(candidates([subcommand, option, ""]).lines())


def write_script(shell: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([shell]) == exits.OK
    (folder / "script").write_text(capsys.readouterr().out)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(
    shell: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, setup = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    write_script(shell, folder, capsys)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(folder),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    typed = "".join(f"{line}\t\x14" for line in LINES)
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        terminal.write(f"{setup}\n{typed}exit\n".encode())
        try:
            while terminal.read(4096):
                pass
        except OSError:  # the shell has gone
            pass
    assert process.wait(TIMEOUT_S) == 0
    assert (folder / "lines").read_text().splitlines() == list(LINES.values())


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_what_is_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_script("fish", folder, capsys)
    asked = "\n".join(f"complete -C '{line}'; echo =" for line in LINES)
    command = ["fish", "--no-config", "-c", f"source ./script\n{asked}"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    found = [answer.partition("\t")[0].strip() for answer in done.stdout.split("=\n")[:-1]]
    # fish shows only the word, and escapes it later.
    words = [shlex.split(line)[-1] if line not in LINES else "" for line in LINES.values()]
    assert found == words, done
