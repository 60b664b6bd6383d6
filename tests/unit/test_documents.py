"""What holds for every README and docs page before any of their commands runs."""

from __future__ import annotations

import ast
import re

import pytest

from documents import INTERPRETERS, ROOT, SHELLS, SHOWN, Block, blocks, pages, prose


@pytest.mark.parametrize("page", pages())
def test_every_block_has_a_language_that_the_runner_knows(page: str) -> None:
    for block in blocks(page):
        assert block.language in {*SHELLS, *INTERPRETERS, *SHOWN}, f"{block}: {block.language!r}"


@pytest.mark.parametrize("page", pages())
def test_a_remark_is_one_that_the_runner_knows_and_gives_its_reason(page: str) -> None:
    for block in filter(lambda one: one.is_runnable and one.remark, blocks(page)):
        assert block.not_run or (block.is_server and block.shown), f"{block}: {block.remark!r}"


@pytest.mark.parametrize("page", pages())
def test_a_command_is_in_a_fenced_block(page: str) -> None:
    text = prose(page)
    command = r"^(?: {4}|\t)(?:\$ |(?:upscaled|make|npm|npx|pip|python3?|go|curl|export) ).*"
    assert re.findall(command, text, re.MULTILINE) == []
    assert re.findall(r"^ +```.*", text, re.MULTILINE) == []


@pytest.mark.parametrize("page", pages())
def test_a_relative_link_leads_to_a_file(page: str) -> None:
    text = prose(page)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not re.match(r"\w+:", target):
            assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_test_that_proves_a_guarantee_exists() -> None:
    named = re.findall(r"`(…?\w+…?)`(?=[^|]*\|$)", prose("docs/guarantees.md"), re.MULTILINE)
    proofs = {name for name in named if name.startswith(("test_", "…"))}
    tests = "\n".join(path.read_text("utf-8") for path in ROOT.glob("tests/**/test_*.py"))
    missing = [name for name in proofs if not re.search(rf"def \w*{name.strip('…')}", tests)]
    assert len(proofs) > 20
    assert missing == []


def functions_of(file: str) -> set[str]:
    """The functions of a Python file, and the methods with the names of their classes."""
    nodes = [*ast.walk(ast.parse((ROOT / file).read_text("utf-8")))]
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    return functions | {
        f"{one.name}.{part.name}"
        for one in classes
        for part in one.body
        if isinstance(part, ast.FunctionDef)
    }


def test_every_step_of_a_job_line_exists_and_there_are_fewer_than_25() -> None:
    step = r"^\| (\d+) \| \[(\S+)\]\(\2\) \| `([\w.]+)` \|"
    steps = re.findall(step, prose("CONTRIBUTING.md"), re.MULTILINE)
    assert [int(number) for number, _file, _function in steps] == [*range(1, len(steps) + 1)]
    assert 20 <= len(steps) < 25
    missing = [function for _, file, function in steps if function not in functions_of(file)]
    assert missing == []


def test_every_function_that_a_contributor_is_sent_to_exists() -> None:
    rows = re.findall(r"^   \| (`\w.*?)\((\S+\.py)\) \|", prose("CONTRIBUTING.md"), re.MULTILINE)
    named = [(name, file) for text, file in rows for name in re.findall(r"`([\w.]+)`", text)]
    assert len(named) >= 4
    assert [name for name, file in named if name not in functions_of(file)] == []


def test_a_console_block_is_its_commands_and_its_shown_lines() -> None:
    text = "$ one | \\\n  two\nsaid\n$ three <<END\n> text\n> END\nsaid …\n"
    block = Block("README.md", 1, "console", "", text)
    assert block.script == "one | \\\n  two\nthree <<END\ntext\nEND\n"
    assert block.shown == ["said", "said …"]
