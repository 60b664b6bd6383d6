"""Lines that a daemon cannot read as a whole, and text that is not UTF-8: answered under the id."""

from __future__ import annotations

import codecs
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import nearest_engine
from upscaled_models.catalog import bundled_weights_dir
from upscaled_protocol.lines import decode_line, encode_line

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

MODULES = pytest.mark.parametrize("module", ["upscaled_worker", "upscaled_supervisor"])
# The locale of a container without settings, and nothing of Python's own remedies for it.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

LINES = {
    "half": rb'{"job_id":"half","method":"fake","config":{"output_text":"cut \ud83d"}}',
    "cut\ud83d": rb'{"method":"fake","job_id":"cut\ud83d"}',
    "bytes": b'{"note":"caf\xe9","job_id":"bytes","method":"fake"}',
    "deep": b'{"note":%b1%b,"job_id":"deep"}' % (b"[" * 5000, b"]" * 5000),
    "huge": b'{"job_id":"huge","method":"fake","timeout_s":1e999}',
    "twice": b'{"job_id":"x","job_id":"twice","method":"fake","method":}',
    "long": b'{"method":"fake","config":{"output_text":"%b"},"job_id":"long"}' % (b"x" * 20_000),
}
NO_IDS = {"": b'""', "12": b"12", "true": b"true", "i" * 128: b'"%b"' % (b"i" * 200)}


@MODULES
def test_a_line_that_cannot_be_read_is_answered_with_its_id(
    start_daemon: StartDaemon, module: str
) -> None:
    daemon = start_daemon(module, "--methods", "fake", "--line-limit-bytes", "12000")
    for job_id, line in LINES.items():
        daemon.send(line + b"\n")
        assert daemon.wait_terminal(job_id)["type"] == "error"
    for value in NO_IDS.values():
        daemon.send(b'{"method":"fake","job_id":%b}\n' % value)
    daemon.job("good")
    assert daemon.wait_terminal("good")["type"] == "result"
    daemon.send(b'{"job_id":"last","method":"fake","config":{')
    daemon.finish()
    assert daemon.wait_terminal("last")["code"] == "invalid_json"
    nameless = [line for line in daemon.terminals() if line["job_id"] is None]
    assert [line["refused_job_id"] for line in nameless] == list(NO_IDS)
    assert {line["code"] for line in nameless} == {"invalid_job"}
    assert len(daemon.terminals()) == len(LINES) + len(NO_IDS) + 2


@MODULES
def test_a_bad_line_never_ends_the_job_in_flight_of_its_id(
    start_daemon: StartDaemon, module: str
) -> None:
    daemon = start_daemon(module, "--methods", "fake")
    daemon.job("a", hang=True)
    daemon.wait_accepted("a")
    daemon.send(b'{"job_id":"a","note":"\xff"}\n')
    error = daemon.wait_for(lambda line: line["type"] == "error")
    assert (error["job_id"], error["refused_job_id"]) == (None, "a")
    daemon.send({"type": "cancel", "job_id": "a"})
    assert daemon.wait_terminal("a")["code"] == "cancelled"


@MODULES
def test_utf_16_is_one_error_and_no_success(
    start_daemon: StartDaemon, module: str, tmp_path: Path
) -> None:
    daemon = start_daemon(module, "--methods", "fake")
    daemon.send(('{"job_id":"1","method":"fake"}\r\n' * 5).encode("utf-16"))
    assert daemon.finish() == 1
    (error,) = daemon.terminals()
    assert "UTF-16" in error["error"]
    daemon = start_daemon(module, "--methods", "fake")
    daemon.send(codecs.BOM_UTF8 + b'{"job_id":"1","method":"fake"}\n')
    assert daemon.finish() == 0
    assert daemon.wait_terminal("1")["type"] == "result"


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """A picture in a folder, both of names that are no UTF-8."""
    folder = os.fsencode(tmp_path) + b"/f\xfcr 1"
    os.mkdir(folder)  # noqa: PTH102 - bytes
    path = tmp_path / "picture.png"
    Image.new("RGB", (20, 14), "teal").save(path)
    os.rename(path, folder + b"/caf\xe9 \xe7\x8c\xab.png")  # noqa: PTH104 - bytes
    return folder + b"/caf\xe9 \xe7\x8c\xab.png"


@pytest.mark.parametrize(
    ("module", "options", "env"),
    [
        ("upscaled_supervisor", ["--journal", "j"], ASCII),
        ("upscaled_worker", [], ASCII | nearest_engine.variables()),
    ],
    ids=["supervisor", "worker"],
)
def test_a_file_name_is_its_bytes_whatever_the_locale_says(
    start_daemon: StartDaemon,
    picture: bytes,
    module: str,
    options: list[str],
    env: dict[str, str],
) -> None:
    text = picture.decode(errors="surrogateescape")
    daemon = start_daemon(module, "--methods", "esrgan", *options, env=env)
    weights = picture.replace(b".png", b".safetensors")
    shutil.copy(os.fsencode(bundled_weights_dir() / "compact-x2.safetensors"), weights)
    model = weights.decode(errors="surrogateescape")
    config = {"model": model, "image_path": text, "upscale_factor": 2}
    daemon.job("default", "esrgan", **config)
    daemon.job("given", "esrgan", **config, output_path=text.replace(".png", "größ\udcff.png"))
    daemon.job("gone", "esrgan", **config | {"image_path": text + "\udc80"})
    for job_id, name in (("default", b"_esrgan_2x.png"), ("given", "größ".encode() + b"\xff.png")):
        result = daemon.wait_terminal(job_id)
        assert result["type"] == "result", result
        expected = picture.removesuffix(b".png") + name
        assert result["output_path"].encode(errors="surrogateescape") == expected
        assert os.path.isfile(expected)  # noqa: PTH113 - bytes
    gone = daemon.wait_terminal("gone")
    assert gone["code"] == "input_not_found"
    assert "caf\udce9" in gone["error"]
    daemon.finish()


@pytest.mark.parametrize("env", [ASCII, {}])
def test_the_command_takes_names_that_are_not_utf_8(picture: bytes, env: dict[str, str]) -> None:
    output = picture.replace(b".png", b"-out\xff.png")
    command = [sys.executable, "-m", "upscaled_cli", "upscale"]
    done = subprocess.run(
        [*command, picture, "-o", output, "--model", "compact-x2", "--factor", "2"],
        env=nearest_engine.environment(**env),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert os.path.isfile(output)  # noqa: PTH113 - bytes


def test_the_supervisor_forwards_and_records_a_workers_half_pair(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    name = "caf\udce9"
    daemon = start_supervisor("--journal", str(tmp_path / name))
    daemon.job("a", output_path=str(tmp_path / name / "no folder" / "x"))
    event = daemon.wait_terminal("a")
    assert name in event["error"]
    known = len(daemon.raw)
    daemon.send(encode_line({"type": "replay", "job_ids": ["\udce9"]}))
    daemon.wait_for(lambda line: line.get("code") == "invalid_job", "the refusal")
    daemon.send({"type": "replay", "job_ids": ["a"]})
    daemon.finish()
    assert decode_line(next(line for line in daemon.raw[known:] if b'"a"' in line)) == event
