"""Every answer of the service, and the one event that it ends in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_host import (
    CANARY,
    NOBODY,
    SUPERVISOR,
    Host,
    photo,
    save,
    serving,
)
from upscaled_models.imagen.loopback import ANSWERS, Loopback
from waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


OUTCOMES = {
    "right": None,
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
    assert set(OUTCOMES) == set(ANSWERS) - {"late"}
    path = save(tmp_path / "in.png", photo())
    with serving(token=CANARY) as server:
        env = NOBODY | server.environment() | {"GOOGLE_API_KEY": f"{CANARY}-key"}
        daemon = start_daemon(*SUPERVISOR, "--cloud-jobs", str(len(OUTCOMES)), env=env)
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
        assert ("tried" in ends[answer].get("error", "")) == (answer in RETRIED), answer
    assert not any(line.get("traceback") for line in daemon.lines)
    # Every output stays whole or away.
    assert {one.name for one in tmp_path.iterdir()} == {"in.png", "right.png"}
    assert len(server.questions) > len(OUTCOMES)
    assert server.refusals == []
    for said in (*daemon.raw, daemon.stderr):
        assert CANARY.encode() not in said


def test_a_job_succeeds_after_429_and_503_and_counts_its_calls(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.answers = ["quota", "unavailable", "closed", "right"]
    result = host.run(save(tmp_path / "in.png", photo()))
    assert result["type"] == "result", result
    assert result["upstream_calls"] == len(server.questions) == 4


def test_an_answer_that_does_not_come_ends_the_job_with_its_budget(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    env = NOBODY | server.environment()
    host = Host(start_daemon(*SUPERVISOR, "--cloud-budget-s", "4", env=env), "late")
    path = save(tmp_path / "in.png", photo())
    host.warm_up(path)
    server.answers = ["late"]
    error = host.run(path)
    assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)
    assert "(tried once)" in error["error"]
    wait_until(lambda: server.abandoned, "the end of the connection")


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


def test_waits_for_our_own_limits_do_not_count_towards_the_services_time(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    budget_s = 7  # of which one call takes next to nothing
    env = NOBODY | server.environment()
    daemon = start_daemon(
        *SUPERVISOR, "--cloud-jobs", "1", "--cloud-budget-s", str(budget_s), env=env
    )
    host = Host(daemon, "turns")
    host.warm_up(save(tmp_path / "small.png", photo()))
    server.questions.clear()
    server.answers = ["quota", "right"]
    server.delay_s = 0.5
    path = save(tmp_path / "in.png", photo(1600, 60))
    result = host.run(path, upscale_factor="x2", tile=True, tile_size=128)
    assert result["type"] == "result", result
    asked_at = [question.asked_at for question in server.questions]
    # The first tile's second turn comes after those of all the others.
    assert asked_at[-1] - asked_at[0] > budget_s
    assert result["upstream_calls"] == len(asked_at)


def test_a_refusal_is_not_tried_again(host: Host, server: Loopback, tmp_path: Path) -> None:
    error = host.run(save(tmp_path / "in.png", photo()), gcp_region="denied")
    assert (error["code"], error["retryable"]) == ("upstream_auth", False)
    assert len(server.questions) == 1


def test_a_jobs_stages_are_reported(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    env = NOBODY | server.environment()
    # No supervisor: a slow one would leave out what the next line has made old.
    host = Host(start_daemon("upscaled_worker", "--methods", "imagen", env=env), "phases")

    def progress_of(path: Path, **config: Any) -> list[dict[str, Any]]:
        job_id = host.send(path, **config)
        assert host.daemon.wait_terminal(job_id)["type"] == "result"
        told = [line for line in host.daemon.lines if line.get("job_id") == job_id]
        progress = [line for line in told if line["type"] == "progress"]
        percents = [line["progress"] for line in progress]
        assert percents == sorted(percents)
        return progress

    whole = progress_of(save(tmp_path / "in.png", photo()))
    assert [line["stage"] for line in whole[-3:]] == ["sent", "received", "encode"]
    wide = save(tmp_path / "wide.png", photo(500, 60))
    tiles = progress_of(wide, upscale_factor="x2", tile=True, tile_size=200)
    received = [line for line in tiles if line["stage"] == "received"]
    assert [(line["done"], line["total"]) for line in received] == [(1, 3), (2, 3), (3, 3)]


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
    host.warm_up(path)
    server.answers = ["late"]
    config = {"image_path": str(path)}
    # Far more than it takes until the call is under way.
    job = {"job_id": "deadline", "method": "imagen", "config": config, "timeout_s": 5}
    host.daemon.send(job)
    assert host.daemon.wait_terminal("deadline")["code"] == "deadline_exceeded"
    wait_until(lambda: server.abandoned, "the end of the connection")
    assert host.daemon.ask_health()["workers"][0]["restarts"] == 0


def test_one_tile_that_fails_stops_the_others(host: Host, server: Loopback, tmp_path: Path) -> None:
    server.answers = ["late", "late", "filtered"]
    path = save(tmp_path / "in.png", photo(300, 60))
    error = host.run(path, upscale_factor="x2", tile=True, tile_size=120)
    assert error["code"] == "upstream_filtered"
    wait_until(lambda: server.abandoned == 2, "the end of the others")
