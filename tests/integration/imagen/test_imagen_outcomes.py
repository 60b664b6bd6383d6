"""Every answer of the service, and the one event that it ends in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagen_host import (
    CANARY,
    NOBODY,
    SUPERVISOR,
    Host,
    photo,
    save,
    serving,
    wait_until,
)
from upscaled_models.imagen.loopback import ANSWERS, Loopback

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


OUTCOMES = {
    "right": None,
    "late": "upstream_unavailable",
    "quota": "upstream_quota",
    "unavailable": "upstream_unavailable",
    "proxy": "upstream_unavailable",
    "denied": "upstream_auth",
    "filtered": "upstream_filtered",
    "empty": "upstream_unavailable",
    "garbage": "upstream_unavailable",
    "no-json": "upstream_unavailable",
    "redirect": "upstream_unavailable",
    "endless": "upstream_unavailable",
    "half": "upstream_unavailable",
    "closed": "upstream_unavailable",
}
RETRIED = {"quota", "unavailable", "proxy", "half", "closed"}


def test_every_answer_ends_in_one_event_with_its_code_and_without_the_token(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    assert set(OUTCOMES) == set(ANSWERS)
    path = save(tmp_path / "in.png", photo())
    with serving(token=CANARY) as server:
        env = NOBODY | server.environment() | {"GOOGLE_API_KEY": f"{CANARY}-key"}
        daemon = start_daemon(*SUPERVISOR, "--cloud-budget-s", "8", "--cloud-jobs", "14", env=env)
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


def test_waits_for_our_own_limits_are_not_charged_to_the_services_time(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    budget_s = 5
    server.answers = ["quota", "right"]
    server.delay_s = 1.0
    env = NOBODY | server.environment()
    daemon = start_daemon(
        *SUPERVISOR, "--cloud-jobs", "1", "--cloud-budget-s", str(budget_s), env=env
    )
    path = save(tmp_path / "in.png", photo(500, 60))
    result = Host(daemon, "turns").run(path, upscale_factor="x2", tile=True, tile_size=128)
    assert result["type"] == "result", result
    asked_at = [question.asked_at for question in server.questions]
    # The first tile's second turn comes after those of all the others.
    assert asked_at[-1] - asked_at[0] > budget_s
    assert result["upstream_calls"] == len(asked_at) > budget_s


def test_a_refusal_is_not_tried_again(host: Host, server: Loopback, tmp_path: Path) -> None:
    error = host.run(save(tmp_path / "in.png", photo()), gcp_region="denied")
    assert (error["code"], error["retryable"]) == ("upstream_auth", False)
    assert len(server.questions) == 1


def test_a_jobs_phases_are_told(host: Host, server: Loopback, tmp_path: Path) -> None:
    job_id = host.send(save(tmp_path / "in.png", photo()))
    assert host.daemon.wait_terminal(job_id)["type"] == "result"
    told = [line for line in host.daemon.lines if line.get("job_id") == job_id]
    stages = [line["stage"] for line in told if line["type"] == "progress"]
    # The answer is taken over: nothing is encoded.
    assert stages[-2:] == ["sent", "received"]
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
    path = save(tmp_path / "in.png", photo())
    assert host.run(path)["type"] == "result"  # the SDK is there from now on
    config = {"image_path": str(path), "gcp_region": "late"}
    job = {"job_id": "deadline", "method": "imagen", "config": config, "timeout_s": 2}
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
