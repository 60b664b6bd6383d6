"""`upscaled upscale` and the demo with the real daemon and the bundled model."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
from PIL import Image

from upscaled_cli import exits

TIMEOUT_S = 200
UPSCALE = [sys.executable, "-m", "upscaled_cli", "upscale"]
DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def picture(path: Path, width: int, height: int) -> Path:
    pixels = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_pictures_come_out_four_times_as_large_and_a_missing_one_is_told(tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "a.png", 40, 30), picture(tmp_path / "b.png", 20, 50)]
    output = tmp_path / "out"
    done = subprocess.run(
        [*UPSCALE, *inputs, tmp_path / "missing.png", "-o", output],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == exits.FAILED
    assert f"{tmp_path}/missing.png: there is no file" in done.stderr
    for name, size in (("a", (160, 120)), ("b", (80, 200))):
        with Image.open(output / f"{name}_esrgan_4x.png") as image:
            assert image.size == size
    assert f"{inputs[0]} 40x30 -> {output}/a_esrgan_4x.png 160x120 in " in done.stdout
    assert sorted(path.name for path in output.iterdir()) == [
        "a_esrgan_4x.png",
        "b_esrgan_4x.png",
    ]


def test_ctrl_c_in_the_middle_of_a_picture_leaves_no_file(tmp_path: Path) -> None:
    large = picture(tmp_path / "large.png", 1500, 1500)
    output = tmp_path / "out"
    output.mkdir()
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with subprocess.Popen(
        [*UPSCALE, large, "--factor", "16", "-o", output / "large.png"],
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as cli:
        os.close(theirs)
        shown = ""
        while not re.search(r"[1-9]\d?%\|.*upscale", shown):
            shown += os.read(ours, 4096).decode(errors="replace")
        cli.send_signal(signal.SIGINT)
        out, _ = cli.communicate(timeout=TIMEOUT_S)
    os.close(ours)
    assert cli.returncode == exits.INTERRUPTED
    assert out == b""
    assert list(output.iterdir()) == []


def test_the_demo_shows_both_ways_and_makes_its_pictures(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, DEMO],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'host   -> {"job_id": "four-times"' in done.stdout
    assert 'daemon <- {"type":"result","job_id":"four-times"' in done.stdout
    with Image.open(tmp_path / "demo-output" / "astronaut_4x.png") as image:
        assert image.size == (1024, 1024)
    with Image.open(tmp_path / "demo-output" / "before-after.jpg") as image:
        assert image.size == (2 * 448 + 6, 448)
    with Image.open(tmp_path / "demo-output" / "astronaut_4x5in.jpg") as image:
        assert image.size == (800, 1000)
        assert image.info["dpi"] == (200, 200)
