"""Imagen jobs through `upscaled run`, against a strict stand-in for the service."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips

from upscaled_models.imagen.loopback import ANSWERS, Loopback, enlarged
from upscaled_models.registry import is_installed

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)

TIMEOUT_S = 60.0
CANARY = "ya29.canary-that-must-not-sing"
SUPERVISOR = ("upscaled_supervisor", "--methods", "imagen")
# Whatever this machine knows of Google stays out of the tests.
NOBODY = {
    "GOOGLE_APPLICATION_CREDENTIALS": "",
    "GOOGLE_OAUTH_ACCESS_TOKEN": "",
    "GCP_PROJECT_ID": "",
    "GCP_REGION": "",
    "CLOUDSDK_CONFIG": "/nonexistent",
    "NO_GCE_CHECK": "true",
}


@contextmanager
def serving(**options: Any) -> Iterator[Loopback]:
    """A server of our own."""
    with Loopback(**options) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(TIMEOUT_S)


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come about")
        time.sleep(0.01)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def shared_daemon(shared_server: Loopback, start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon(
        *SUPERVISOR, "--cloud-calls-per-minute", "10000", "--cloud-jobs", "4",
        "--cancel-grace-s", "5",
        env=NOBODY | shared_server.environment(),
    )  # fmt: skip


@pytest.fixture
def server(shared_server: Loopback) -> Loopback:
    """The server, with nothing to remember and in its best mood."""
    shared_server.answers = ["right"]
    shared_server.delay_s = 0.0
    shared_server.retry_after = None
    shared_server.questions.clear()
    shared_server.refusals.clear()
    shared_server.abandoned = shared_server.most_at_once = 0
    return shared_server


class Host:
    """Sends jobs of one test, under names of its own."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self._name = name
        self._count = 0

    def send(self, path: Path, **config: Any) -> str:
        """Start a job; its id."""
        self._count += 1
        job_id = f"{self._name}-{self._count}"
        self.daemon.job(job_id, "imagen", image_path=str(path), **config)
        return job_id

    def run(self, path: Path, **config: Any) -> dict[str, Any]:
        """One job and its end."""
        return self.daemon.wait_terminal(self.send(path, **config))


@pytest.fixture
def host(shared_daemon: Daemon, server: Loopback, request: pytest.FixtureRequest) -> Host:
    return Host(shared_daemon, request.node.name)


def save(path: Path, pixels: np.ndarray) -> Path:
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))
    return path


def load(path: str | Path) -> np.ndarray:
    pixels: np.ndarray = pyvips.Image.new_from_file(str(path)).numpy()
    return pixels


def photo(width: int = 80, height: int = 60) -> np.ndarray:
    """Smooth colours and some noise, (h, W, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(rows / (7 + band)) * np.cos(columns / 11) for band in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return (np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8)


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_picture_comes_back_enlarged(
    host: Host, server: Loopback, tmp_path: Path, factor: int
) -> None:
    path = save(tmp_path / "in.png", photo())
    result = host.run(path, upscale_factor=f"x{factor}")
    assert result["type"] == "result", result
    assert result["output_size"] == {"width": 80 * factor, "height": 60 * factor}
    assert (result["scale_factor"], result["upstream_calls"]) == (factor, 1)
    assert (result["model"], result["device"]) == ("imagen-4.0-upscale-preview", "remote")
    assert result["output_path"] == str(tmp_path / f"in_imagen_{factor}x.png")
    assert np.array_equal(load(result["output_path"]), enlarged(photo(), factor))
    # The server lets only what it knows through, down to each field.
    assert server.refusals == []
    assert [question.factor for question in server.questions] == [factor]
    assert np.array_equal(server.questions[0].rgb, photo())


def test_alpha_profile_exif_and_dpi_survive_a_service_that_sees_rgb(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    alpha = np.zeros((60, 80, 1), np.uint8)
    alpha[10:50, 20:60] = 255
    picture = pyvips.Image.new_from_array(np.concatenate([photo(), alpha], axis=2))
    picture = picture.copy(interpretation="srgb", xres=300 / 25.4, yres=300 / 25.4)
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    picture.set_type(pyvips.GValue.blob_type, "icc-profile-data", profile)
    picture.set_type(pyvips.GValue.gstr_type, "exif-ifd0-Artist", "A. Painter")
    picture.write_to_file(str(tmp_path / "in.png"))
    result = host.run(tmp_path / "in.png", upscale_factor="x2")
    assert result["type"] == "result", result
    output = pyvips.Image.new_from_file(result["output_path"])
    pixels = output.numpy()
    assert pixels.shape == (120, 160, 4)
    assert bytes(output.get("icc-profile-data")) == profile
    assert "A. Painter" in output.get("exif-ifd0-Artist")
    assert output.xres * 25.4 == pytest.approx(300, rel=0.001)
    assert (pixels[22:98, 42:118, 3] == 255).all()
    assert (pixels[:16, :, 3] == 0).all()
    inside = np.abs(pixels[24:96, 44:116, :3].astype(int) - enlarged(photo(), 2)[24:96, 44:116])
    assert inside.max() <= 1
    assert server.questions[0].rgb.shape == (60, 80, 3)


def test_sixteen_bits_become_eight_and_the_host_is_told(host: Host, tmp_path: Path) -> None:
    deep = photo().astype(np.uint16) * 257
    image = pyvips.Image.new_from_array(deep).copy(interpretation="rgb16")
    image.write_to_file(str(tmp_path / "in.tif"))
    result = host.run(tmp_path / "in.tif", upscale_factor="x2")
    assert "8 bits a channel" in result["warnings"][0]
    assert np.array_equal(load(result["output_path"]), enlarged(photo(), 2))


def test_a_gray_picture_stays_gray(host: Host, server: Loopback, tmp_path: Path) -> None:
    gray = photo()[:, :, :1]
    result = host.run(save(tmp_path / "in.png", gray), upscale_factor="x2")
    wanted = enlarged(np.repeat(gray, 3, axis=2), 2)[:, :, 0]
    assert np.array_equal(load(result["output_path"]).reshape(wanted.shape), wanted)
    assert server.questions[0].rgb.shape == (60, 80, 3)


def test_a_print_size_is_reached_by_the_least_factor_a_resample_and_a_crop(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    path = save(tmp_path / "in.png", photo())
    result = host.run(
        path, target_width_inches=2.0, target_height_inches=2.0, target_dpi=70, crop="center"
    )
    assert result["output_size"] == {"width": 140, "height": 140}
    assert result["crop_info"]["direction"] == "horizontal"
    output = pyvips.Image.new_from_file(result["output_path"])
    assert (output.width, output.height) == (140, 140)
    assert output.xres * 25.4 == pytest.approx(70, rel=0.01)
    assert [question.factor for question in server.questions] == [3]


def test_a_target_no_larger_than_the_picture_needs_no_call(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    result = host.run(save(tmp_path / "in.png", photo()), target_width=40)
    assert (result["output_size"]["width"], result["upstream_calls"]) == (40, 0)
    assert server.questions == []


def test_a_target_beyond_the_factor_is_resampled_with_a_warning(host: Host, tmp_path: Path) -> None:
    result = host.run(save(tmp_path / "in.png", photo()), target_width=200, upscale_factor="x2")
    assert result["output_size"] == {"width": 200, "height": 150}
    assert "larger than x2" in result["warnings"][0]


def test_a_picture_over_the_limit_is_refused_before_any_call(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    path = save(tmp_path / "in.png", np.zeros((1500, 1500, 3), np.uint8))
    error = host.run(path)
    assert error["code"] == "input_too_large"
    assert "x2, the largest that fits" in error["error"]
    assert (server.questions, server.refusals) == ([], [])
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_is_cut_into_tiles_where_that_is_allowed(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    pixels = photo(500, 400)
    alpha = np.full((400, 500, 1), 255, np.uint8)
    path = save(tmp_path / "in.png", np.concatenate([pixels, alpha], axis=2))
    job_id = host.send(path, upscale_factor="x2", tile=True, tile_size=256)
    result = host.daemon.wait_terminal(job_id)
    assert result["type"] == "result", result
    assert result["upstream_calls"] == len(server.questions) == 6
    assert all(max(question.rgb.shape) <= 256 for question in server.questions)
    joined = load(result["output_path"])
    assert (joined[:, :, 3] == 255).all()
    # The kernel sees less at a tile's edge; the blend leaves next to nothing of that.
    error = joined[:, :, :3].astype(float) - enlarged(pixels, 2)
    assert 10 * np.log10(255**2 / (error**2).mean()) > 55
    told = [line for line in host.daemon.lines if line.get("job_id") == job_id]
    progress = [line for line in told if line["type"] == "progress" and line["stage"] == "received"]
    assert [line["done"] for line in progress][-1] == progress[-1]["total"] == 6


# --- outcomes -----------------------------------------------------------------------------------

OUTCOMES = {
    "right": None,
    "late": "upstream_unavailable",
    "quota": "upstream_quota",
    "unavailable": "upstream_unavailable",
    "denied": "upstream_auth",
    "filtered": "upstream_filtered",
    "empty": "upstream_unavailable",
    "garbage": "upstream_unavailable",
    "no-json": "upstream_unavailable",
    "half": "upstream_unavailable",
    "closed": "upstream_unavailable",
}
RETRIED = {"quota", "unavailable", "half", "closed"}


def test_every_answer_ends_in_one_event_with_its_code_and_without_the_token(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    assert set(OUTCOMES) == set(ANSWERS)
    path = save(tmp_path / "in.png", photo())
    with serving(token=CANARY) as server:
        env = NOBODY | server.environment() | {"GOOGLE_API_KEY": f"{CANARY}-key"}
        daemon = start_daemon(*SUPERVISOR, "--cloud-budget-s", "4", "--cloud-jobs", "11", env=env)
        for answer in OUTCOMES:
            output = str(tmp_path / f"{answer}.png")
            daemon.job(
                answer, "imagen", image_path=str(path), output_path=output, gcp_region=answer
            )
        ends = {answer: daemon.wait_terminal(answer) for answer in OUTCOMES}
        assert daemon.finish() == 1
    assert {answer: end.get("code") for answer, end in ends.items()} == OUTCOMES
    assert sorted(line["job_id"] for line in daemon.terminals()) == sorted(OUTCOMES)
    assert "Support code: 42" in ends["filtered"]["error"]
    for answer in OUTCOMES:
        assert ("tried" in ends[answer].get("error", "")) == (answer in RETRIED | {"late"}), answer
    assert not any(line.get("traceback") for line in daemon.lines)
    # Every output stays whole or away.
    assert {one.name for one in tmp_path.iterdir()} == {"in.png", "right.png"}
    assert len(server.questions) > len(OUTCOMES)
    assert (server.refusals, server.abandoned) == ([], 1)
    for said in (*daemon.raw, daemon.stderr):
        assert CANARY.encode() not in said


def test_a_job_goes_on_after_429_and_503_and_counts_its_calls(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.answers = ["quota", "unavailable", "closed", "right"]
    result = host.run(save(tmp_path / "in.png", photo()))
    assert result["type"] == "result", result
    assert result["upstream_calls"] == len(server.questions) == 4


def test_retry_after_is_obeyed(host: Host, server: Loopback, tmp_path: Path) -> None:
    server.answers = ["quota", "right"]
    server.retry_after = "2"
    result = host.run(save(tmp_path / "in.png", photo()))
    assert result["upstream_calls"] == 2
    assert server.questions[1].asked_at - server.questions[0].asked_at >= 1.9


def test_a_pause_beyond_the_budget_ends_the_job_at_once(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.answers = ["quota"]
    server.retry_after = "3600"
    error = host.run(save(tmp_path / "in.png", photo()))
    assert (error["code"], error["retryable"]) == ("upstream_quota", True)
    assert "3600 s" in error["error"]
    assert len(server.questions) == 1


def test_a_refusal_is_not_tried_again(host: Host, server: Loopback, tmp_path: Path) -> None:
    error = host.run(save(tmp_path / "in.png", photo()), gcp_region="denied")
    assert (error["code"], error["retryable"]) == ("upstream_auth", False)
    assert len(server.questions) == 1


def test_a_late_answer_is_waited_for_and_its_phases_are_told(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.delay_s = 0.3
    job_id = host.send(save(tmp_path / "in.png", photo()))
    assert host.daemon.wait_terminal(job_id)["type"] == "result"
    told = [line for line in host.daemon.lines if line.get("job_id") == job_id]
    stages = [line["stage"] for line in told if line["type"] == "progress"]
    assert stages[-3:] == ["sent", "waiting", "received"]
    percents = [line["progress"] for line in told if line["type"] == "progress"]
    assert percents == sorted(percents)


def test_a_cancel_closes_the_request_and_the_next_job_is_unaffected(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    path = save(tmp_path / "in.png", photo())
    job_id = host.send(path, gcp_region="late")
    wait_until(lambda: server.questions, "the request")
    host.daemon.send({"type": "cancel", "job_id": job_id})
    assert host.daemon.wait_terminal(job_id)["code"] == "cancelled"
    wait_until(lambda: server.abandoned, "the end of the connection")
    assert host.run(path)["type"] == "result"
    assert host.daemon.ask_health()["workers"][0]["restarts"] == 0


def test_a_deadline_ends_a_call_that_is_under_way(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    config = {"image_path": str(save(tmp_path / "in.png", photo())), "gcp_region": "late"}
    job = {"job_id": "deadline", "method": "imagen", "config": config, "timeout_s": 1}
    host.daemon.send(job)
    assert host.daemon.wait_terminal("deadline")["code"] == "deadline_exceeded"
    wait_until(lambda: server.abandoned, "the end of the connection")
    assert host.daemon.ask_health()["workers"][0]["restarts"] == 0


def test_one_tile_that_fails_stops_the_others(host: Host, server: Loopback, tmp_path: Path) -> None:
    server.answers = ["filtered", "late"]
    path = save(tmp_path / "in.png", photo(300, 60))
    error = host.run(path, upscale_factor="x2", tile=True, tile_size=120)
    assert error["code"] == "upstream_filtered"
    wait_until(lambda: server.abandoned == len(server.questions) - 1, "the end of the others")


# --- lanes --------------------------------------------------------------------------------------


def test_as_many_calls_run_at_once_as_the_operator_allows(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.delay_s = 0.1
    path = save(tmp_path / "in.png", photo(500, 60))
    jobs = [
        host.send(
            path,
            output_path=str(tmp_path / f"{number}.png"),
            upscale_factor="x2",
            tile=True,
            tile_size=200,
        )
        for number in range(6)
    ]
    ends = [host.daemon.wait_terminal(job) for job in jobs]
    assert [end.get("upstream_calls") for end in ends] == [3] * 6
    assert 1 < server.most_at_once <= 4


def test_no_more_calls_are_made_in_a_minute_than_the_operator_allows(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    daemon = start_daemon(
        *SUPERVISOR, "--cloud-calls-per-minute", "2", env=NOBODY | server.environment()
    )
    host = Host(daemon, "rate")
    path = save(tmp_path / "in.png", photo())
    assert [host.run(path)["type"] for _ in range(2)] == ["result"] * 2
    third = host.send(path)
    waits = daemon.wait_for(
        lambda line: line.get("job_id") == third and line.get("stage") == "waiting"
    )
    daemon.send({"type": "cancel", "job_id": third})
    assert daemon.wait_terminal(third)["code"] == "cancelled"
    assert waits["budget_s"] > 0
    assert len(server.questions) == 2


def test_a_cloud_call_and_a_device_job_never_wait_for_each_other(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    daemon = start_daemon(
        "upscaled_supervisor", "--methods", "imagen,fake", env=NOBODY | server.environment()
    )
    host = Host(daemon, "lanes")
    path = save(tmp_path / "in.png", photo())
    calls = [host.send(path, gcp_region="late") for _ in range(9)]
    wait_until(lambda: len(server.questions) == 9, "the calls")
    for number in range(3):
        daemon.job(f"local-{number}", steps=3)
    assert all(daemon.wait_terminal(f"local-{number}")["type"] == "result" for number in range(3))
    daemon.job("hanging-1", hang=True)
    daemon.job("hanging-2", hang=True)
    assert host.run(path)["type"] == "result"
    for job_id in (*calls, "hanging-1", "hanging-2"):
        daemon.send({"type": "cancel", "job_id": job_id})
        assert daemon.wait_terminal(job_id)["code"] == "cancelled"


def test_a_worker_killed_in_mid_call_loses_no_job(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    server.answers = ["late", "late", "late", "right"]
    daemon = start_daemon(*SUPERVISOR, env=NOBODY | server.environment())
    host = Host(daemon, "kill")
    path = save(tmp_path / "in.png", photo())
    outputs = [tmp_path / f"{number}.png" for number in range(3)]
    jobs = [host.send(path, output_path=str(output)) for output in outputs]
    wait_until(lambda: len(server.questions) == 3, "the calls")
    os.kill(daemon.ask_health()["workers"][0]["pid"], signal.SIGKILL)
    for job_id in jobs:
        result = daemon.wait_terminal(job_id)
        # Of the second attempt alone: what the first one called, nobody is left to tell.
        assert (result["attempt"], result["upstream_calls"]) == (2, 1)
    assert sorted(line["job_id"] for line in daemon.terminals()) == sorted(jobs)
    assert all(np.array_equal(load(output), enlarged(photo(), 4)) for output in outputs)
    wait_until(lambda: server.abandoned == 3, "the end of the dead worker's calls")


# --- accounts -----------------------------------------------------------------------------------


def test_what_is_missing_is_named_at_the_job_and_nothing_is_sent(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    env = NOBODY | {"GOOGLE_VERTEX_BASE_URL": server.url, "HOME": str(tmp_path)}
    daemon = start_daemon("upscaled_supervisor", "--methods", "imagen,fake", env=env)
    ready = daemon.wait_status("ready")
    assert ready["methods"] == ["imagen", "fake"]
    host = Host(daemon, "missing")
    path = save(tmp_path / "in.png", photo())
    for config, code, text in (
        ({}, "upstream_auth", "GCP_PROJECT_ID"),
        ({"gcp_project_id": "loopback-project"}, "upstream_auth", "GOOGLE_OAUTH_ACCESS_TOKEN"),
        ({"gcp_project_id": "p/../q"}, "invalid_job", "gcp_project_id"),
        ({"gcp_project_id": "p", "gcp_region": "evil.example/"}, "invalid_job", "gcp_region"),
        ({"gcp_project_id": "p", "model": "m:predict?x="}, "invalid_job", "model"),
    ):
        error = host.run(path, **config)
        assert (error["code"], error["retryable"]) == (code, False)
        assert text in error["error"]
    daemon.job("local")
    assert daemon.wait_terminal("local")["type"] == "result"
    assert (server.questions, server.refusals) == ([], [])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("GOOGLE_OAUTH_ACCESS_TOKEN", f"{CANARY}\nX-Other: 1", "GOOGLE_OAUTH_ACCESS_TOKEN"),
        ("GOOGLE_OAUTH_ACCESS_TOKEN", CANARY, "(401)"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "key.json", "names key.json"),
        ("GOOGLE_VERTEX_BASE_URL", f"ftp://{CANARY}", "GOOGLE_VERTEX_BASE_URL"),
    ],
)
def test_a_wrong_setting_is_named_without_its_secret(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path, name: str, value: str, text: str
) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"type": "service_account", "x": CANARY}))
    env = NOBODY | {"GOOGLE_VERTEX_BASE_URL": server.url, "GCP_PROJECT_ID": "loopback-project"}
    daemon = start_daemon(*SUPERVISOR, env=env | {name: value})
    error = Host(daemon, "wrong").run(save(tmp_path / "in.png", photo()))
    wanted = "invalid_job" if name == "GOOGLE_VERTEX_BASE_URL" else "upstream_auth"
    assert error["code"] == wanted
    assert text in error["error"]
    daemon.finish()
    assert server.questions == []
    for said in (*daemon.raw, daemon.stderr):
        assert CANARY.encode() not in said


def test_a_service_account_signs_in_with_its_file(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "painter@loopback-project.example",
        "token_uri": f"{server.url}/token",
        "private_key": pem.decode(),
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    env = NOBODY | server.environment() | {"GOOGLE_OAUTH_ACCESS_TOKEN": ""}
    env["GOOGLE_APPLICATION_CREDENTIALS"] = str(tmp_path / "key.json")
    host = Host(start_daemon(*SUPERVISOR, env=env), "account")
    assert host.run(save(tmp_path / "in.png", photo()))["type"] == "result"


def test_a_service_that_cannot_be_reached_is_unavailable(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        env = NOBODY | server.environment() | {"GOOGLE_VERTEX_BASE_URL": url}
        daemon = start_daemon(*SUPERVISOR, "--cloud-budget-s", "2", env=env)
        error = Host(daemon, "refused").run(save(tmp_path / "in.png", photo()))
    assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)


def test_the_server_by_hand_tells_the_environment_that_a_daemon_needs(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "upscaled_models.imagen.loopback", "--answers", "quota,right"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        words = process.stdout.readline().removeprefix("export ").split()
        env = NOBODY | dict(word.split("=", 1) for word in words)
        host = Host(start_daemon(*SUPERVISOR, env=env), "hand")
        result = host.run(save(tmp_path / "in.png", photo()))
        process.kill()
    assert result["upstream_calls"] == 2
