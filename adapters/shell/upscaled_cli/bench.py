"""`upscaled bench`: measures this machine."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from upscaled_cli import exits

BENCHMARKS = {
    "startup": "from the start of the process to its first job accepted",
    "dispatch": "round trips and throughput of no-op jobs, beside a raw pipe echo",
    "clients": "the same round trips from Python, Node and Go, beside their own pipe echoes",
    "recovery": "from a crash to ready, beside a cold start",
    "persistent": "a persistent worker, beside one process per picture",
    "loading": "the load of a model in the first job, beside spandrel's own",
    "encoders": "writing and resampling a picture, beside other libraries",
    "http": "upscaled serve beside the pipe: a picture, no-op jobs, 200 clients, memory",
    "queue": "machines on Celery and BullMQ: overhead per job, jobs per second, four beside one",
    "imagen": "many calls to a slow service, and the cost for an ESRGAN job beside them",
    "esrgan": "file to file, beside the bare forward and a plain tile loop",
    "rrdb": "RRDB, file to file, beside torch, Real-ESRGAN's loop, OpenVINO and ncnn",
    "architectures": "other families of networks, file to file, beside torch and OpenVINO",
    "models": "how good models are: a model card; alone, it takes models and options",
    "faces": "one face in a job, beside the bare call of its network",
    "flux": "model calls beside their floor, loading, and the phases of a job, on replicas",
}

# The extras of the libraries that `queue` needs; those of the others go by the benchmark.
_EXTRAS = {"redis": "celery", "celery": "celery", "kombu": "celery", "bullmq": "bullmq"}

# Takes minutes and tells nothing about the machine: it runs only if it is named.
_WITH_ARGUMENTS = "models"

_EPILOG = "\n".join(
    [
        "benchmarks:",
        *(f"  {name:13} {summary}" for name, summary in BENCHMARKS.items()),
        "",
        "examples:",
        "  upscaled bench",
        "  upscaled bench dispatch recovery",
        "  upscaled bench models 4x_mine.pth --out card",
        "  upscaled bench models --help",
        "",
        "exit status: 0 all were run, 1 one failed, 2 wrong usage, 130 interrupted.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks named, or all that measure the machine; the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == [_WITH_ARGUMENTS]:
        return _run(_WITH_ARGUMENTS, given[1:])
    arguments = parser()
    everything = [name for name in BENCHMARKS if name != _WITH_ARGUMENTS]
    names = arguments.parse_args(given).name or everything
    for name in names:
        if name not in BENCHMARKS:
            arguments.error(f"there is no benchmark {name}; known: {', '.join(BENCHMARKS)}")
    statuses = (_run(name) for name in names)
    return next((status for status in statuses if status != exits.OK), exits.OK)


def _run(name: str, arguments: Sequence[str] | None = None) -> int:
    """One benchmark; the exit status. arguments: those of its own command line, if it has one."""
    # As with -P: no Python that a benchmark starts imports from the working folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        benchmark = import_module(f"upscaled_bench.{name}")
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        extra = _EXTRAS.get(module, "flux" if name == "flux" else "bench")
        print(
            f"upscaled bench {name}: the Python module {module} is missing: "
            f"pip install 'upscaled[{extra}]'",
            file=sys.stderr,
        )
        return exits.FAILED
    benchmark.main() if arguments is None else benchmark.main(arguments)
    return exits.OK


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled bench",
        description="Measure this machine. Each number stands beside its rival's in the same run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("name", nargs="*", metavar="BENCHMARK", help="default: all but models")
    return arguments
