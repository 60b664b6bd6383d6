"""A stand-in daemon for `upscaled upscale`, which behaves as its jobs ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscaled_cli import exits
from upscaled_cli.upscale import main

TIMEOUT_S = 60

# Answers as upscaled does; it can be asked to fail, to die, to wait for a cancel, to print.
DAEMON = """
import json, os, signal, sys
stubborn = False
asked = json.loads(next((given for given in sys.argv if given.startswith("{")), "{}"))
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
    if "noise" in asked:
        print("this is no JSON", flush=True)
        print("[1, 2]", flush=True)
    if "wait" in asked:
        stubborn = "stubborn" in asked
        sys.stderr.write("waiting\\n")
        sys.stderr.flush()
        continue
    if "die" in asked:
        sys.stderr.write("the last words\\n")
        sys.stderr.flush()
        os._exit(7)
    if "fail" in asked:
        sentence = asked["fail"]
        say(type="error", job_id=job_id, error=sentence, code="internal")
        continue
    result = dict(job_id=job_id, status="completed", processing_time=1.23, config=config,
        input_size={"width": 640, "height": 448}, output_size={"width": 2560, "height": 1792},
        output_path=config.get("output_path", f"{folder}/out.png"))
    say(type="result", **result | asked.get("more", {}))
if stubborn:
    signal.pause()
"""


def written_daemon(folder: Path) -> list[str]:
    """The command of the stand-in, whose script is written into the folder."""
    script = folder / "daemon.py"
    script.write_text(DAEMON)
    return [sys.executable, "-u", str(script)]


def instructed(daemon: Sequence[str], **wishes: object) -> list[str]:
    """The command of a stand-in that does what is asked with each job."""
    return [*daemon, json.dumps(wishes)]


def run(daemon: Sequence[str], *arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments], daemon)


def sent(daemon: Sequence[str], *arguments: str, capsys: Any) -> list[dict[str, Any]]:
    """The configs that the daemon got."""
    assert run(daemon, "--json", *arguments) == exits.OK
    return [json.loads(line)["config"] for line in capsys.readouterr().out.splitlines()]
