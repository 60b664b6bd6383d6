"""The specification, against the messages that it specifies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from upscaled_protocol.codec import decode_host_message, decode_worker_message, encode
from upscaled_protocol.schema import documents

SPECIFICATION = (Path(__file__).parents[2] / "protocol" / "README.md").read_text()
HOST = documents()["host.json"]["$defs"]
WORKER = documents()["worker.json"]["$defs"]


def section(title: str, chapter: str) -> str:
    """The text below a heading, inside a chapter."""
    text = SPECIFICATION.split(f"\n## {chapter}\n")[1].split("\n## ")[0]
    return text.split(f"\n### {title}\n")[1].split("\n### ")[0]


def fields(text: str) -> list[list[str]]:
    """The names in the first column of each table."""
    tables = re.split(r"^\|---.*$", text, flags=re.MULTILINE)[1:]
    return [re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) for table in tables]


def names(definition: dict[str, Any]) -> list[str]:
    return list(definition["properties"])


@pytest.mark.parametrize(
    ("title", "definition"),
    [
        ("`job`", HOST["EsrganJob"]),
        ("`cancel`", HOST["Cancel"]),
        ("`health`", HOST["Health"]),
        ("`trim`", HOST["Trim"]),
        ("`replay`", HOST["Replay"]),
        ("`shutdown`", HOST["Shutdown"]),
    ],
)
def test_every_field_of_a_host_message_is_specified(title: str, definition: dict[str, Any]) -> None:
    (table,) = fields(section(title, "What a host sends"))
    assert sorted(table) == sorted(names(definition))


@pytest.mark.parametrize(
    ("title", "definitions"),
    [
        ("`status`", ["Status"]),
        ("`accepted`", ["Accepted"]),
        ("`progress`", ["Progress"]),
        ("`result`", ["Result"]),
        ("`error`", ["Error"]),
        ("`health`", ["HealthReport", "WorkerHealth"]),
        ("Lanes and causes", ["Cause"]),
        ("Faces", ["Face"]),
    ],
)
def test_every_field_of_a_daemons_message_is_specified(title: str, definitions: list[str]) -> None:
    tables = fields(section(title, "What a daemon sends"))
    assert tables == [names(WORKER[name]) for name in definitions]


def test_every_field_of_a_config_is_specified() -> None:
    title = "`esrgan`, `flux`, `imagen` and `face`"
    common, esrgan, flux, imagen, face = fields(section(title, "Configs"))
    assert sorted(common + esrgan) == sorted(names(HOST["EsrganConfig"]))
    assert sorted(common + flux) == sorted(names(HOST["FluxConfig"]))
    assert sorted(common + imagen) == sorted(names(HOST["ImagenConfig"]))
    assert sorted(common + face) == sorted(names(HOST["FaceConfig"]))
    (fake,) = fields(section("`fake`", "Configs"))
    assert sorted(fake) == sorted(names(HOST["FakeConfig"]))


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in HOST if "enum" in HOST[name] and name != "ErrorCode"),
        *(name for name in WORKER if "enum" in WORKER[name] and name != "ErrorCode"),
    ],
)
def test_every_value_of_an_enumeration_is_specified(name: str) -> None:
    for value in (HOST | WORKER)[name]["enum"]:
        assert f"`{value}`" in SPECIFICATION


def golden_lines(arrow: str) -> list[str]:
    return re.findall(rf"^{arrow} (.+)$", SPECIFICATION, re.MULTILINE)


@pytest.mark.parametrize("line", golden_lines("→"))
def test_every_host_line_shown_is_one_that_daemons_accept(line: str) -> None:
    decode_host_message(line.encode())


@pytest.mark.parametrize("line", golden_lines("←"))
def test_every_daemon_line_shown_is_a_message_in_its_canonical_form(line: str) -> None:
    assert encode(decode_worker_message(line.encode())).decode() == line + "\n"


def test_every_message_type_is_shown_and_has_its_section() -> None:
    shown = {type(decode_host_message(line.encode())).__name__ for line in golden_lines("→")}
    assert {"Cancel", "Health", "Trim", "Replay", "Shutdown"} < shown
    shown = {type(decode_worker_message(line.encode())).__name__ for line in golden_lines("←")}
    assert shown == {"Status", "Accepted", "Progress", "Result", "Error", "HealthReport"}
    for title in documents()["worker.json"]["discriminator"]["mapping"]:
        assert section(f"`{title}`", "What a daemon sends")


def test_every_link_inside_the_page_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", SPECIFICATION, re.MULTILINE)
    anchors: set[str] = set()
    for heading in headings:
        anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{anchor}-1" if anchor in anchors else anchor)
    for link in re.findall(r"\]\(#([\w-]+)\)", SPECIFICATION):
        assert link in anchors
