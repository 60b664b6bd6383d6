"""`upscaled upscale` with a stand-in daemon that behaves as its jobs ask."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from upscaled.channel import Channel
from upscaled.errors import DaemonGoneError
from upscaled_cli import exits, sizes
from upscaled_cli.session import Session
from upscaled_cli.upscale import main
from upscaled_imaging.dimensions import plan_size
from upscaled_protocol.configs import DEFAULT_DPI, EsrganConfig
from upscaled_protocol.errors import JobError
from upscaled_protocol.messages import Size

TIMEOUT_S = 60

# Answers as upscaled does; `config` may ask it to fail, to die, to wait for a cancel, to print.
DAEMON = """
import json, os, signal, sys
stubborn = False
folder = next((given[13:] for given in sys.argv if given.startswith("--output-dir=")), None)
def say(**message):
    print(json.dumps(message), flush=True)
say(type="status", message="loading_models")
say(type="status", message="ready", protocol=1, a_field_of_tomorrow=True)
say(type="a_message_of_tomorrow")
for line in sys.stdin:
    job = json.loads(line)
    if job.get("type") == "cancel":
        sys.stderr.write(f"cancelled {job['job_id']}\\n")
        sys.stderr.flush()
        if stubborn:
            continue
        say(type="error", job_id=job["job_id"], error="cancelled", code="cancelled")
        continue
    job_id, config = job["job_id"], job["config"]
    say(type="accepted", job_id=job_id, position=0)
    say(type="progress", job_id=job_id, progress=50, stage="inference")
    if "noise" in config:
        print("this is no JSON", flush=True)
        print("[1, 2]", flush=True)
    if "wait" in config:
        stubborn = "stubborn" in config
        sys.stderr.write("waiting\\n")
        sys.stderr.flush()
        continue
    if "die" in config:
        sys.stderr.write("the last words\\n")
        sys.stderr.flush()
        os._exit(7)
    if "fail" in config:
        sentence = config["fail"] if isinstance(config["fail"], str) else "it failed"
        say(type="error", job_id=job_id, error=sentence, code="internal")
        continue
    say(type="result", job_id=job_id, status="completed", processing_time=1.23, config=config,
        input_size={"width": 640, "height": 448}, output_size={"width": 2560, "height": 1792},
        output_path=config.get("output_path", f"{folder}/out.png"), **config.get("more", {}))
if stubborn:
    signal.pause()
"""


@pytest.fixture
def daemon(tmp_path: Path) -> list[str]:
    script = tmp_path / "daemon.py"
    script.write_text(DAEMON)
    return [sys.executable, "-u", str(script)]


def run(daemon: Sequence[str], *arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments], daemon)


def sent(daemon: Sequence[str], *arguments: str, capsys: Any) -> list[dict[str, Any]]:
    """The configs that the daemon got."""
    assert run(daemon, "--json", *arguments) == exits.OK
    return [json.loads(line)["config"] for line in capsys.readouterr().out.splitlines()]


def test_each_picture_gets_a_line_with_its_sizes_and_time(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "b.jpg", "-o", tmp_path / "out") == exits.OK
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{name} 640x448 -> {tmp_path}/out/out.png 2560x1792 in 1.2 s"
        for name in ("a.jpg", "b.jpg")
    ]


def test_a_failure_is_told_and_does_not_stop_the_others(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "--config", "fail=true") == exits.FAILED
    captured = capsys.readouterr()
    assert captured.err == "a.jpg: it failed\n"
    assert captured.out == ""


def test_a_name_that_no_job_line_can_hold_fails_alone(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # as ever
    # Cut through an emoji, which no file name can be.
    assert run(daemon, "caf\ud83d.jpg", "b.jpg", "-o", "out/") == exits.FAILED
    captured = capsys.readouterr()
    assert "half a surrogate pair" in captured.err
    assert captured.out.startswith("b.jpg 640x448")


def test_more_pictures_than_a_daemon_holds_are_given_to_it_in_turn(
    daemon: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight = []

    class Watched(Session):
        def submit(self, *given: Any, **named: Any) -> str:
            job_id = super().submit(*given, **named)
            in_flight.append(len(self.pending))
            return job_id

    monkeypatch.setattr("upscaled_cli.upscale.Session", Watched)
    assert run(daemon, *(f"{number}.jpg" for number in range(2500)), "-o", tmp_path) == exits.OK
    assert len(in_flight) == 2500
    assert max(in_flight) == 1000


def test_an_output_folder_may_begin_with_a_dash(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "-o=-large/") == exits.OK
    assert " -> -large//out.png " in capsys.readouterr().out


def test_the_options_become_the_config_that_the_protocol_knows(
    daemon: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    options = (
        "a.jpg -o b.tiff --factor 2.5 --model mine --dpi 300 --width-inches 8 --height-inches 10.5 "
        "--crop top-left --format tiff --quality 90 --tile-size 256 --config denoise=0.3 "
        "--config prompt=oil"
    )
    assert sent(daemon, *options.split(), capsys=capsys) == [
        {
            "image_path": str(tmp_path / "a.jpg"),
            "output_path": str(tmp_path / "b.tiff"),
            "upscale_factor": 2.5,
            "model": "mine",
            "target_dpi": 300,
            "target_width_inches": 8.0,
            "target_height_inches": 10.5,
            "crop": "top-left",
            "output_format": "tiff",
            "quality": 90,
            "tile_size": 256,
            "denoise": 0.3,
            "prompt": "oil",
        }
    ]
    configs = sent(daemon, "a.jpg", "--width", "800", "--height", "600", capsys=capsys)
    assert (configs[0]["target_width"], configs[0]["target_height"]) == (800, 600)


def test_what_is_not_asked_for_is_left_to_the_daemon(daemon: list[str], capsys: Any) -> None:
    assert sent(daemon, "/in/a.jpg", capsys=capsys) == [{"image_path": "/in/a.jpg"}]


def test_a_factor_for_imagen_is_written_its_way(daemon: list[str], capsys: Any) -> None:
    configs = sent(daemon, "a.jpg", "--method", "imagen", "--factor", "2", capsys=capsys)
    assert configs[0]["upscale_factor"] == "x2"


def test_several_pictures_and_existing_folders_make_the_output_a_folder(
    daemon: list[str], tmp_path: Path, capsys: Any
) -> None:
    for arguments in (
        ["a.jpg", "b.jpg", "-o", str(tmp_path / "new")],
        ["a.jpg", "-o", str(tmp_path)],
    ):
        assert all(
            "output_path" not in config for config in sent(daemon, *arguments, capsys=capsys)
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.jpg", "--config", "denoise"],
        ["a.jpg", "--config", "=1"],
        ["a.jpg", "--config", "image_path=b.jpg"],
        ["a.jpg", "--factor", "2", "--config", "upscale_factor=3"],
        ["a.jpg", "--config", "denoise=1", "--config", "denoise=0"],
        ["a.jpg", "-o", ""],
        ["a.jpg", "-o", "b.png", "--config", "output_path=c.png"],
        ["a.jpg", "b.jpg", "--config", "output_path=c.png"],
        ["a.jpg", "-o", "b.png", "--config", "output_base64=true", "--json"],
        ["a.jpg", "--config", "output_base64=true"],
        ["a.jpg", "--crop", "center"],
        ["a.jpg", "--crop", "center", "--width", "800"],
        ["a.jpg", "--crop", "center", "--width", "800", "--height-inches", "2"],
        ["a.jpg", "--crop", "middle", "--width", "8", "--height", "8"],
        ["a.jpg", "--width", "800", "--height-inches", "2"],
        ["a.jpg", "--width-cm", "8", "--height", "9"],
        ["a.jpg", "--width-cm", "8", "--width-inches", "3"],
        ["a.jpg", "--width-cm", "nan"],
        ["a.jpg", "--height-cm", "-1"],
        ["a.jpg", "--paper", "A4", "--height-cm", "8"],
        ["a.jpg", "--paper", "A9"],
        ["a.jpg", "--paper", "A4", "--config", "target_width_inches=8"],
        ["a.jpg", "--landscape"],
        ["a.jpg", "--factor", "17"],
        ["a.jpg", "--factor", "2.5", "--method", "imagen"],
        ["a.jpg", "--quality", "0"],
        ["a.jpg", "--format", "bmp"],
        ["a.jpg", "--dpi", "0"],
        ["a.jpg", "--factor", "much"],
        ["a.jpg", "--factor", "nan"],
        ["a.jpg", "--config", "denoise=1e999"],
        ["a.jpg", "--config", 'prompt="\\ud800"'],
        ["a.jpg", "--method", "magic"],
        [],
    ],
)
def test_wrong_usage_starts_nothing(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments, ["/this/daemon/does/not/exist"])
    assert left.value.code == exits.USAGE


@pytest.mark.parametrize("name", ["out.png", "out", "many.png", "many.JPEG"])
def test_several_pictures_into_one_file_is_wrong_usage(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if name.startswith("out"):
        file.write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        main(["a.jpg", "b.jpg", "-o", str(file)], [])
    assert left.value.code == exits.USAGE
    assert f"{file} " in capsys.readouterr().err


def test_a_folder_may_have_the_name_of_a_picture(daemon: list[str], tmp_path: Path) -> None:
    (tmp_path / "many.png").mkdir()
    for output in ("many.png", "new.png/"):
        assert run(daemon, "a.jpg", "b.jpg", "-o", f"{tmp_path}/{output}") == exits.OK


def test_a_folder_among_the_pictures_fails_alone(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("-s", "2.5", "--config", 'prompt="oil on canvas"')
    assert run(daemon, tmp_path, "b.jpg", "-o", "out/", *options) == exits.FAILED
    captured = capsys.readouterr()
    assert captured.err == (
        f"{tmp_path}: it is a folder: run `upscaled batch {tmp_path} -o out/ --factor 2.5 "
        "--config 'prompt=\"oil on canvas\"'`\n"
    )
    assert captured.out.startswith("b.jpg 640x448")


@pytest.mark.parametrize(
    ("options", "remark"),
    [
        ("--factor 2 --width-inches 8", "--factor has no effect beside --width-inches"),
        ("-s 2 --width 8 --height 9", "--factor has no effect beside --width 8 and --height 9"),
        ("--factor 2 --paper a4", "--factor has no effect beside --paper A4\n"),
        ("--quality 90", "--quality has no effect on png"),
        ("--quality 90 --format tiff", "--quality has no effect on tiff"),
        ("-o b.jpg --format png", "b.jpg will hold png, as --format says, not jpeg"),
        ("--method imagen --tile-size 512", "--tile-size has no effect on imagen"),
        ("--model a --config upscale_model=b", "--config upscale_model has no effect"),
        ("-o b.jpg --quality 90", None),
        ("-o b.tif --format tiff --dpi 300", None),
        ("--method imagen --factor 2 --width 800", None),
        ("--method imagen --tile-size 512 --config tile=true", None),
        ("--crop none", None),
    ],
)
def test_an_option_without_effect_is_told_and_the_picture_made(
    daemon: list[str], options: str, remark: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", *options.split()) == exits.OK
    error = capsys.readouterr().err
    assert error.startswith(f"upscaled upscale: {remark}") if remark else error == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--quality 900", "error: --quality 900: Input should be less than or equal to 100"),
        ("--crop middle", "argument --crop: invalid choice: 'middle'"),
        ("--paper A9", "argument --paper: invalid choice: 'A9' (choose from 'A0', 'A1'"),
        ("--height-cm -2 --width-cm 3", "error: --height-cm -2 is no length"),
        ("--width-inches -2", "error: --width-inches -2: Input should be greater than 0"),
        ("--method flux --config denoise=2", "error: --config denoise: Input should be less"),
        ("--width 8 --height-cm 2", "--width 8 and --height-cm 2 exclude each other"),
        ("--paper letter --width-cm 2", "--width-cm 2 and --paper letter both give the width"),
    ],
)
def test_a_wrong_value_is_told_by_its_option(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["a.jpg", *options.split()], [])
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--width-inches 18 --height-inches 24.5", "--width-inches 18 and --height-inches 24.5"),
        ("--paper a3 --landscape", "--paper A3"),
        ("--width-cm 80", "--width-cm 80"),
    ],
)
def test_the_daemon_errors_about_a_size_name_the_options_too(
    daemon: list[str], options: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (asked,) = sent(daemon, "a.jpg", *options.split(), capsys=capsys)
    config, size = EsrganConfig(**asked), Size(width=20, height=20)
    with pytest.raises(JobError) as refused:
        plan_size(config, size, factor=4, default_dpi=300)
    sentence = refused.value.message
    more = ("--config", f"fail={json.dumps(sentence)}")
    assert run(daemon, "a.jpg", *options.split(), *more) == exits.FAILED
    error = capsys.readouterr().err
    assert error.startswith(f"a.jpg: {told}")
    assert "target_" not in error


@pytest.mark.parametrize(
    ("options", "width", "height"),
    [
        ("--paper A4 --dpi 300", 2480, 3508),
        ("--paper a4 --dpi 300 --landscape", 3508, 2480),
        ("--paper A4", 1240, 1754),
        ("--paper Letter --dpi 300", 2550, 3300),
        ("--paper tabloid --dpi 300 --landscape", 5100, 3300),
        ("--width-cm 10 --height-inches 8 --dpi 254", 1000, 2032),
    ],
)
def test_a_print_gets_the_pixels_that_a_print_shop_expects(
    daemon: list[str], options: str, width: int, height: int, capsys: Any
) -> None:
    (asked,) = sent(daemon, "a.jpg", *options.split(), "--crop", "center", capsys=capsys)
    plan = plan_size(
        EsrganConfig(**asked), Size(width=1000, height=900), factor=4, default_dpi=DEFAULT_DPI
    )
    assert plan.output == Size(width=width, height=height)


@pytest.mark.parametrize(
    ("options", "dpi"),
    [
        ("--paper A4 --crop center", 38),  # 448 px of height, which is enlarged more, on 29.7 cm
        ("--width-inches 10", 64),
        ("--width 2560", None),
    ],
)
def test_a_print_is_told_its_effective_resolution(
    daemon: list[str], options: str, dpi: int | None, capsys: Any
) -> None:
    assert run(daemon, "a.jpg", *options.split()) == exits.OK
    told = capsys.readouterr().out.splitlines()[1:]
    line = f"  effective resolution {dpi} dpi: the input's pixels per inch"
    assert told == ([line] if dpi else [])


def test_the_options_of_realesrgan_ncnn_vulkan_are_accepted(daemon: list[str], capsys: Any) -> None:
    typed = "-i /in/a.jpg -o /out/b.jpg -s 2 -n realesrgan-x4plus -t 200 -f jpg"
    assert sent(daemon, *typed.split(), capsys=capsys) == [
        {
            "image_path": "/in/a.jpg",
            "output_path": "/out/b.jpg",
            "upscale_factor": 2.0,
            "model": "realesrgan-x4plus",
            "tile_size": 200,
            "output_format": "jpeg",
        }
    ]
    (asked,) = sent(daemon, "-t", "0", "/in/a.jpg", "-f", "TIF", capsys=capsys)
    assert asked == {"image_path": "/in/a.jpg", "output_format": "tiff"}


def test_the_dpi_of_a_print_is_the_protocols() -> None:
    assert sizes.DEFAULT_DPI == DEFAULT_DPI


def test_a_crop_that_nobody_asked_for_is_pointed_out(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = {
        "crop_info": {"direction": "vertical", "amount_px": 150, "amount_inches": 0.5},
        "warnings": ["a warning of the engine"],
    }
    run(daemon, "a.jpg", "-o", "b.png", "--config", f"more={json.dumps(more)}")
    out = capsys.readouterr().out
    assert "the picture is 150 px (0.50 in) taller than the target; --crop center cuts it" in out
    assert "a warning of the engine" in out
    size = ("--width", "8", "--height", "9")
    crop = ("--crop", "top", *size)
    run(daemon, "a.jpg", "-o", "b.png", *crop, "--config", f"more={json.dumps(more)}")
    assert "than the target" not in capsys.readouterr().out


def test_a_daemon_that_dies_is_told_with_its_last_words(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "--config", "die=1") == exits.FAILED
    error = capsys.readouterr().err
    assert "ended with status 7" in error
    assert "the last words" in error


def test_what_is_no_message_is_passed_over(daemon: list[str]) -> None:
    assert run(daemon, "a.jpg", "--config", "noise=1") == exits.OK


# Takes two jobs, ends one of them and has more to say, and exits.
DYING = """
import json, sys
def say(**message):
    print(json.dumps(message), flush=True)
say(type="status", message="ready")
first, second = (json.loads(sys.stdin.readline())["job_id"] for _ in range(2))
say(type="accepted", job_id=second)
say(type="result", job_id=first)
say(type="status", message="tired")
sys.exit(7)
"""


def test_what_a_daemon_said_before_its_death_comes_before_that() -> None:
    with Session([sys.executable, "-c", DYING]) as client:
        client.submit("esrgan", {})
        client.submit("esrgan", {})
        said = [client.receive() for _ in range(4)]
        assert [one.get("message", one.get("job_id")) for one in said] == [
            *("ready", "2", "1", "tired"),
        ]
        with pytest.raises(DaemonGoneError, match="status 7"):
            client.receive()


RUN = (
    "import json, sys; from upscaled_cli.upscale import main;"
    "sys.exit(main(sys.argv[2:], json.loads(sys.argv[1])))"
)


def start(daemon: list[str], *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(daemon), "a.jpg", *arguments]
    return subprocess.Popen(command, text=True, start_new_session=True, **streams)


def press_ctrl_c(cli: subprocess.Popen[str]) -> None:
    """As a terminal does: every process of the foreground group gets the signal."""
    os.killpg(cli.pid, signal.SIGINT)


def test_ctrl_c_cancels_the_jobs_and_waits_for_their_end(daemon: list[str]) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(daemon, "-v", "--config", "wait=1", **streams) as cli:
        assert cli.stderr is not None
        assert cli.stderr.readline() == "waiting\n"
        press_ctrl_c(cli)
        out, error = cli.communicate(timeout=TIMEOUT_S)
    assert cli.returncode == exits.INTERRUPTED
    assert error == "cancelled 1\ninterrupted\n"
    assert out == ""


def test_ctrl_c_right_after_a_job_was_sent_cancels_it_too(
    daemon: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupts = iter([KeyboardInterrupt])
    send = Channel.send

    def interrupted(channel: Channel, line: bytes) -> None:
        send(channel, line)
        for interrupt in interrupts:
            raise interrupt

    monkeypatch.setattr(Channel, "send", interrupted)
    assert run(daemon, "-v", "a.jpg", "--config", "wait=1") == exits.INTERRUPTED
    assert capfd.readouterr().err.splitlines() == ["waiting", "cancelled 1", "interrupted"]


def test_a_second_ctrl_c_kills_a_daemon_that_does_not_obey(daemon: list[str]) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(daemon, "-v", "--config", "wait=1", "--config", "stubborn=1", **streams) as cli:
        assert cli.stderr is not None
        assert cli.stderr.readline() == "waiting\n"
        press_ctrl_c(cli)
        assert cli.stderr.readline() == "cancelled 1\n"
        press_ctrl_c(cli)
        # The daemon holds stderr too: its end shows that nobody is left.
        _, error = cli.communicate(timeout=TIMEOUT_S)
    assert cli.returncode == exits.INTERRUPTED
    assert "Traceback" not in error


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(daemon: list[str]) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with start(daemon, stdout=subprocess.PIPE, stderr=theirs) as cli:
        os.close(theirs)
        out, _ = cli.communicate(timeout=TIMEOUT_S)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "%|" in shown
    assert "a.jpg 640x448" in out

    with start(daemon, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as cli:
        _, error = cli.communicate(timeout=TIMEOUT_S)
    assert error == ""


def test_the_client_answers_each_job_and_ends_its_daemon(daemon: list[str]) -> None:
    with Session(daemon) as client:
        ids = [client.submit("esrgan", {"image_path": "a"}) for _ in range(1000)]
        ended = [m["job_id"] for m in client.events() if m["type"] == "result"]
    assert ended == ids


def test_the_client_tells_of_a_daemon_that_cannot_start() -> None:
    def ask(client: Session) -> None:
        client.submit("esrgan", {})
        list(client.events())

    with (
        Session([sys.executable, "-c", "raise SystemExit('no room')"]) as client,
        pytest.raises(DaemonGoneError, match="no room"),
    ):
        ask(client)
