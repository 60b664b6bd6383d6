"""Lines on their way to a slow reader, and log lines on theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from upscaled_protocol.lines import decode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.outbox import Outbox


class SlowReader:
    """Takes as many bytes a write as the test allows."""

    fd = -1

    def __init__(self) -> None:
        self.received = b""
        self.room = 0

    def write(self, data: memoryview) -> int:
        taken = min(self.room, len(data))
        self.received += bytes(data[:taken])
        self.room -= taken
        return taken


# A line of a job's progress, any other line, or the reader taking some bytes.
STEPS = st.lists(
    st.tuples(st.just("progress"), st.sampled_from("ab"))
    | st.tuples(st.just("line"), st.just(""))
    | st.tuples(st.just("read"), st.integers(1, 40)),
    max_size=60,
)


@settings(max_examples=300)
@given(STEPS)
def test_nothing_but_progress_is_ever_dropped_and_the_newest_of_a_job_always_comes(
    steps: list[tuple[str, str | int]],
) -> None:
    reader = SlowReader()
    outbox = Outbox(reader)
    lines: list[bytes] = []
    progress: dict[str, list[bytes]] = {"a": [], "b": []}
    for number, (kind, detail) in enumerate(steps):
        if kind == "read":
            reader.room = int(detail)
            assert outbox.flush() is (outbox.waiting_bytes == 0)
        elif kind == "line":
            lines.append(b"line %d\n" % number)
            outbox.put(lines[-1])
        else:
            job_id = str(detail)
            progress[job_id].append(b"%s %d\n" % (job_id.encode(), number))
            outbox.put_progress(job_id, progress[job_id][-1])
    reader.room = 1_000_000
    assert outbox.flush()
    received = reader.received.splitlines(keepends=True)
    assert [line for line in received if line.startswith(b"line")] == lines
    kept = 0
    for job_id, sent in progress.items():
        came = [line for line in received if line.startswith(job_id.encode())]
        assert came == [line for line in sent if line in came], "out of order"
        assert came[-1:] == sent[-1:]
        kept += len(came)
    assert outbox.dropped_progress == sum(map(len, progress.values())) - kept
    assert outbox.waiting_bytes == 0


def test_progress_is_not_dropped_for_a_reader_that_keeps_up() -> None:
    reader = SlowReader()
    outbox = Outbox(reader)
    for number in range(100):
        reader.room = 100
        outbox.put_progress("a", b"%d\n" % number)
        assert outbox.flush()
    assert len(reader.received.splitlines()) == 100
    assert outbox.dropped_progress == 0


def test_a_reader_that_never_reads_costs_at_most_one_progress_line_per_job() -> None:
    outbox = Outbox(SlowReader())
    for _ in range(1000):
        outbox.put_progress("a", b"x" * 100)
        assert not outbox.flush()
    assert outbox.waiting_bytes <= 200


def test_log_lines_that_are_not_read_are_dropped_and_counted_without_a_wait() -> None:
    read_fd, write_fd = os.pipe()
    try:
        log = Logger(write_fd, component="test")
        for number in range(10_000):
            log.log("info", "step", number=number)
        text = os.read(read_fd, 1_000_000)
        log.log("info", "last")
        text += os.read(read_fd, 1_000_000)
    finally:
        os.close(read_fd)
        os.close(write_fd)
    lines = [orjson.loads(line) for line in text.splitlines()]
    steps = [line["number"] for line in lines if line["event"] == "step"]
    (dropped,) = (line["count"] for line in lines if line["event"] == "log_lines_dropped")
    assert steps == list(range(len(steps)))
    assert len(steps) + dropped == 10_000
    assert lines[-1]["event"] == "last"


LOG_TO_A_FULL_DISK = """
import resource
from upscaled_protocol.log import Logger
log = Logger(1, component="test")
# The kernel's file size limit stands for the disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(100):
    log.log("info", "step", number=number)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.log("info", "last")
"""


def test_log_lines_are_written_again_when_a_full_disk_has_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        subprocess.run([sys.executable, "-c", LOG_TO_A_FULL_DISK], stdout=file, check=True)
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    steps = [line["number"] for line in lines if line["event"] == "step"]
    (dropped,) = (line["count"] for line in lines if line["event"] == "log_lines_dropped")
    assert 0 < len(steps) < 100
    assert len(steps) + dropped == 100
    assert lines[-1]["event"] == "last"


def test_a_log_line_takes_any_value_and_any_text(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        Logger(file.fileno(), component="test").log(
            "warning", "odd", path=tmp_path, name="caf\udce9", error=ValueError("no"), none=None
        )
    line = decode_line(path.read_bytes())
    assert line["level"] == "warning"
    assert (line["component"], line["event"], line["pid"]) == ("test", "odd", os.getpid())
    assert (line["path"], line["name"], line["error"]) == (str(tmp_path), "caf\udce9", "no")
    assert "none" not in line


def test_a_closed_stderr_stops_no_daemon() -> None:
    read_fd, write_fd = os.pipe()
    log = Logger(write_fd)
    os.close(read_fd)
    log.log("info", "unheard")
    os.close(write_fd)
    Logger(write_fd).log("info", "unheard")
