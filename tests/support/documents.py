"""The READMEs and the pages of `docs/`, and the fenced blocks in them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Blocks that run as they stand, from the root of a checkout, and with what.
SHELLS = ("console", "sh", "bash")
INTERPRETERS = {"python": "python {}.py", "js": "node {}.mjs", "go": "go run {}.go"}
# Blocks that are read only.
SHOWN = ("", "json", "jsonl", "text", "ts", "toml", "yaml", "ini", "diff", "html", "dockerfile")

NOT_RUN = "not run: "
SERVER = "server"


@dataclass(frozen=True)
class Block:
    """A fenced block; `remark` is what its info string holds besides the language."""

    page: str
    line: int
    language: str
    remark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_runnable(self) -> bool:
        """Whether it is in a language that is run, also if it is marked as not run."""
        return self.language in SHELLS or self.language in INTERPRETERS

    @property
    def not_run(self) -> str | None:
        """Why it is not run, as the page says."""
        return self.remark.removeprefix(NOT_RUN) if self.remark.startswith(NOT_RUN) else None

    @property
    def is_server(self) -> bool:
        """Whether it runs until its page ends."""
        return self.remark == SERVER

    @property
    def script(self) -> str:
        """The block as one script for bash: a console's commands without their output."""
        return "".join(f"{line}\n" for line in self._lines(commands=True))

    @property
    def shown(self) -> list[str]:
        """The lines that a console prints, as the page shows them."""
        return self._lines(commands=False)

    def _lines(self, *, commands: bool) -> list[str]:
        if self.language != "console":
            return self.text.splitlines() if commands else []
        found, goes_on = [], False
        for line in self.text.splitlines():
            prompt = "$ " if line.startswith("$ ") else "> " if line.startswith("> ") else ""
            is_command = goes_on or prompt != ""
            if is_command == commands:
                found.append(line.removeprefix(prompt))
            goes_on = is_command and line.endswith("\\")
        return found


def files() -> list[str]:
    """What git tracks, or would: the checkout, without what was built in it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    names = set(done.stdout.split("\0")) - {""}
    return sorted(name for name in names if (ROOT / name).is_file())


def pages() -> list[str]:
    """Every README, every page of `docs/`, and what contributors read."""
    return [
        name
        for name in files()
        if re.fullmatch(r"docs/.*\.md|(.*/)?README\.md|CONTRIBUTING\.md|SECURITY\.md", name)
    ]


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text("utf-8")
    for found in re.finditer(r"^```(\w*) *(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, *found.groups())


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    text = (ROOT / page).read_text("utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
