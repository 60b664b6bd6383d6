"""A real Redis and machines of `upscaled work`, that can be killed, frozen and started again."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, cast

import psutil
import pytest

import nearest_engine
from free_ports import free_port
from object_store import ObjectStore
from upscaled_queue.record import Records, connect
from waiting import TIMEOUT_S, wait_until

Job = dict[str, Any]

needs_redis = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)


class Killed(Protocol):
    """A server that a test kills."""

    def kill(self) -> None: ...

    def start(self) -> None: ...


class RedisServer:
    """On a free port, with an append-only file, so that a killed one loses nothing."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        folder.mkdir()
        self._options = options
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """For redis-py."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it on what it wrote before, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(self._folder), "--save", "", "--appendonly", "yes"]
        self.process = subprocess.Popen(
            [*command, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "Redis' answer")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "redis-server has ended"
        with contextlib.suppress(Exception), connect(self.url) as client:
            return bool(client.ping())
        return False

    def kill(self) -> None:
        """By SIGKILL."""
        self.process.kill()
        self.process.wait()


class RabbitServer:
    """RabbitMQ on free ports, with its files in a folder of its own."""

    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        epmd_port, dist_port, self.port = free_port(), free_port(), free_port()
        own = {
            "HOME": folder,
            "RABBITMQ_NODENAME": "queue-test@localhost",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": dist_port,
            "RABBITMQ_MNESIA_BASE": folder / "mnesia",
            "RABBITMQ_LOG_BASE": folder / "log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": folder / "plugins",
            "RABBITMQ_CONFIG_FILE": folder / "none",
            "ERL_EPMD_PORT": epmd_port,
        }
        self._environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        self._log = (folder / "stdout").open("ab")
        # Erlang's name server: RabbitMQ would leave it behind.
        self._epmd = subprocess.Popen(["epmd", "-port", str(epmd_port)], stderr=self._log)
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Start it on what it wrote before, and wait until it takes connections or has ended."""
        log = Path(self._log.name)
        before = log.read_bytes().count(b"completed with")
        self.process = subprocess.Popen(
            [self.program], stdout=self._log, stderr=self._log, env=self._environment
        )
        wait_until(
            lambda: (
                log.read_bytes().count(b"completed with") > before
                or self.process.poll() is not None
            ),
            "RabbitMQ's start",
        )

    def kill(self) -> None:
        """By SIGKILL, with all its processes."""
        kill_tree(self.process.pid)
        self.process.wait()

    def control(self, *arguments: str) -> None:
        """Run its `rabbitmqctl`."""
        program = Path(self.program).with_name("rabbitmqctl")
        subprocess.run([program, *arguments], check=True, env=self._environment, stdout=self._log)

    @property
    def url(self) -> str:
        """For Celery."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def close(self) -> None:
        """End it, and its name server."""
        self.kill()
        self._epmd.kill()
        self._epmd.wait()
        self._log.close()


def kill_tree(pid: int) -> None:
    """As a power cut does: nothing of it does anything more."""
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        first.suspend()
        all_of_it = [first, *first.children(recursive=True)]
        for one in (*all_of_it, *all_of_it):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.suspend()
        for one in (*all_of_it, *first.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()


class Machine:
    """One `upscaled work`, and every process that it started."""

    def __init__(
        self, url: str, *options: str, daemon: Iterable[str], env: Mapping[str, str]
    ) -> None:
        command = [sys.executable, "-m", "upscaled_cli", "work", "--queue", url]
        self.process = subprocess.Popen(
            [*command, *options, "--", *daemon],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env,
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with cast(IO[bytes], self.process.stderr) as log:
            for line in log:
                self.log.append(line.decode(errors="replace"))

    def wait_ready(self) -> Machine:
        """Wait until it takes jobs."""
        wait_until(lambda: self.has_logged("working") or self._has_ended, "the machine's start")
        if self._has_ended:
            pytest.fail("".join(self.log))
        return self

    @property
    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def has_logged(self, event: str) -> bool:
        """Whether its log has this event."""
        return any(f'"event":"{event}"' in line for line in self.log)

    @property
    def name(self) -> str:
        """As `queue status` has it."""
        lines = [json.loads(line) for line in self.log if '"event":"working"' in line]
        return str(lines[0]["machine"])

    @property
    def daemon(self) -> psutil.Process:
        """Its `upscaled run`."""
        children = psutil.Process(self.process.pid).children()
        return next(one for one in children if "run" in one.cmdline())

    def wait_exit(self) -> int:
        """Its exit status."""
        status = self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        return status

    def signal_all(self, number: int) -> None:
        """Send the signal to all its processes, the first of them first."""
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self.process.pid)
            for one in (first, *first.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(number)

    def kill(self) -> None:
        """All its processes at once."""
        kill_tree(self.process.pid)
        self.wait_exit()


class Fleet:
    """Machines on one queue, and its record. scheme: redis (Celery) or bullmq."""

    def __init__(self, scheme: str, folder: Path, *redis_options: str) -> None:
        self.redis = RedisServer(folder / "redis", *redis_options)
        self.url = self.redis.url.replace("redis://", f"{scheme}://", 1)
        self.outputs = folder / "outputs"
        self.outputs.mkdir()
        # As patient as a machine: Redis is killed in some tests.
        self.records = Records(self.redis.url, 3600, threading.Event())
        self.machines: list[Machine] = []
        # Variables of all that is started from now on.
        self.env: dict[str, str] = {}
        self.metrics_port = 0
        self._queue_options: list[str] = []
        self._machine_options = ["--methods", "fake"]
        self._submitting: subprocess.Popen[str] | None = None

    def use_rabbitmq(self, url: str) -> None:
        """From now on the jobs wait there, and Redis has the record."""
        self.url, self._queue_options = url, ["--record", self.redis.url]

    def use_bullmq(self) -> None:
        """From now on the jobs wait in BullMQ, on the same Redis."""
        self.url = self.redis.url.replace("redis://", "bullmq://", 1)

    def use_objects(self, store: ObjectStore) -> None:
        """From now on machines have the `esrgan` method, without a network, and its pictures are
        objects."""
        self._machine_options = ["--methods", "esrgan", "--allow-url", store.url]
        self.env |= {**nearest_engine.variables(), **store.environment}

    def _queue_command(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "upscaled_cli", "queue"]
        return [*command, *arguments, "--queue", self.url, *self._queue_options]

    def start_machine(self, *options: str, daemon: Iterable[str] = ()) -> Machine:
        """Start one more; it may not be ready yet."""
        machine = Machine(
            self.url,
            "--allow-root",
            str(self.outputs),
            *self._queue_options,
            *self._machine_options,
            *options,
            daemon=daemon,
            env=self.environment(),
        )
        self.machines.append(machine)
        return machine

    def command(
        self, *arguments: str, jobs: Iterable[Job] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run `upscaled queue` to its end."""
        return subprocess.run(
            self._queue_command(*arguments),
            input="".join(json.dumps(job) + "\n" for job in jobs),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            env=self.environment(),
        )

    def submit(self, *jobs: Job) -> None:
        """Put them into the queue, by one command for all."""
        if self._submitting is None:
            command = [*self._queue_command("submit")]
            self._submitting = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.environment(),
            )
        stdin, stdout = self._submitting.stdin, self._submitting.stdout
        assert stdin is not None
        assert stdout is not None
        for job in jobs:
            stdin.write(json.dumps(job) + "\n")
        stdin.flush()
        for job in jobs:
            assert json.loads(stdout.readline()) == {"type": "queued", "job_id": job["job_id"]}

    def job(self, job_id: str, **config: Any) -> Job:
        """A job of the fake engine that writes its own id as its output."""
        fields = {"output_path": str(self.outputs / job_id), "output_text": job_id}
        return {"job_id": job_id, "method": "fake", "config": {**fields, **config}}

    def end_of(self, job_id: str) -> dict[str, Any]:
        """Wait for its end."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            event = self._ask(lambda: self.records.end_of(job_id))
            found[:] = [event] if event is not None else []
            return bool(found)

        wait_until(look, f"the end of {job_id}")
        return found[0]

    def wait_running(self, job_id: str) -> str:
        """Wait until it runs: the machine's name."""
        names: list[str] = []

        def look() -> bool:
            status = self._ask(lambda: self.records.status_of(job_id, 60)) or {}
            names[:] = [status["machine"]] if status.get("state") == "running" else []
            return bool(names)

        wait_until(look, f"the start of {job_id}")
        return names[0]

    def wait_progress(self, job_id: str) -> None:
        """Wait until its daemon has told of it."""
        status = self.records.status_of
        wait_until(lambda: "progress" in status(job_id, 60), f"the progress of {job_id}")

    def machine_of(self, job_id: str) -> Machine:
        """Wait until it runs: the machine that runs it."""
        name = self.wait_running(job_id)
        return next(one for one in self.machines if one.log and one.name == name)

    def starts_of(self, job_id: str) -> int:
        """How many deliveries of it were counted."""
        return self.records.redis.scard(f"upscaled:starts:{job_id}")

    def ends(self) -> list[dict[str, Any]]:
        """All ends, in their order."""
        return list(self.records.ends(is_followed=False))

    def has_ends(self, count: int) -> bool:
        """Whether so many jobs have ended."""
        return int(self.records.redis.xlen("upscaled:outbox")) >= count

    def disturb(
        self, jobs: int, kills: Sequence[str], server: Killed, options: Sequence[str], seed: int
    ) -> list[Machine]:
        """While so many jobs are done, kill a "machine", replaced by a new one, or the "server",
        which starts again; spread over the jobs. The machines that live at the end."""
        chance, alive = random.Random(seed), list(self.machines)
        for number, what in enumerate(kills, start=1):
            share = jobs * number // (len(kills) + 1)
            wait_until(partial(self.has_ends, share), f"{share} ends")
            if what == "server":
                server.kill()
                server.start()
                continue
            victim = chance.choice(alive)
            alive.remove(victim)
            victim.kill()
            alive.append(self.start_machine(*options))
        return alive

    def check_each_has_one_result(self, ids: Iterable[str]) -> None:
        """One result each, told once, with its whole output."""
        ids = list(ids)
        self.check_each_ends_once(ids)
        for job_id in ids:
            assert (self.outputs / job_id).read_text("utf-8") == job_id

    def check_each_ends_once(self, ids: Collection[str]) -> None:
        """One result each, told once."""
        for job_id in ids:
            assert self.end_of(job_id)["type"] == "result", self.end_of(job_id)
        told = Counter(event["job_id"] for event in self.ends())
        assert {job_id: told[job_id] for job_id in ids} == dict.fromkeys(ids, 1)

    def environment(self) -> dict[str, str]:
        """Of what is started now."""
        mine = {name: value for name, value in os.environ.items() if "UPSCALED_QUEUE" not in name}
        return {**mine, "PYTHONUNBUFFERED": "1", **self.env}

    @staticmethod
    def _ask(question: Callable[[], Any]) -> Any:
        """None while Redis is away."""
        with contextlib.suppress(Exception):
            return question()
        return None

    def close(self) -> None:
        """End all of it."""
        if self._submitting is not None:
            self._submitting.communicate(timeout=TIMEOUT_S)
        for machine in self.machines:
            if machine.process.poll() is None:
                machine.signal_all(signal.SIGCONT)
                machine.kill()
        self.records.redis.close()
        self.redis.kill()


@contextlib.contextmanager
def running_fleet(scheme: str, folder: Path, *redis_options: str) -> Iterator[Fleet]:
    """A fleet without machines."""
    fleet = Fleet(scheme, folder, *redis_options)
    try:
        yield fleet
    finally:
        fleet.close()
