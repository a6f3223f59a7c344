"""`python -m benchmarks.run`: nothing, nginx, a plain relay and the gateway under the same load, in one run.

Every program is started before the first load and stays for all of them; the order changes from repeat to repeat.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks.measure import LoadError, Scenario, run_once, set_answer
from benchmarks.process import Process, StartError, started
from benchmarks.report import document, show, summarise
from benchmarks.subjects import STARTERS, Subject

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from proxy.types import JsonObject

OUT = Path(__file__).parent / "out"
# Beyond these a run takes hours or more sockets than a machine grants; each is the highest value the option takes.
LIMITS = {"streams": 2000, "chunks": 5000, "interval": 1000, "repeats": 25}
# Between the beginnings of two streams: a rush of requests is another load than a hundred running streams.
BEGIN_MS = 5

Runs = dict[str, list[dict[str, float]]]


@dataclass
class Bench:
    """Everything of one run of the benchmark; `step` says on the progress bar what is being done."""

    scenario: Scenario
    worker: Process
    folder: Path
    stack: ExitStack
    step: Callable[[str], None]
    skipped: dict[str, str] = field(default_factory=dict)

    def start(self, names: Sequence[str], worker_url: str) -> list[Subject]:
        """Start the programs named and warm each up with one run; those that fail are ended and noted as skipped."""
        found = [self._start(name, worker_url) for name in names]
        return [subject for subject in found if subject is not None]

    def _start(self, name: str, worker_url: str) -> Subject | None:
        self.step(f"start {name}")
        with ExitStack() as own:
            try:
                subject = STARTERS[name](worker_url, self.folder, own)
                run_once(subject, self.worker, self.scenario)
            except (StartError, LoadError) as error:
                self.skipped[name] = str(error)
                return None
            self.stack.push(own.pop_all())
        return subject

    def measure(self, subjects: Sequence[Subject], repeats: int) -> Runs:
        """Measure all of them `repeats` times, each time another one first. Raises LoadError."""
        runs: Runs = {subject.name: [] for subject in subjects}
        for repeat in range(repeats):
            first = repeat % len(subjects)
            for subject in [*subjects[first:], *subjects[:first]]:
                self.step(f"{subject.name}, {repeat + 1} of {repeats}")
                runs[subject.name].append(run_once(subject, self.worker, self.scenario))
        return runs


def run(scenario: Scenario, names: Sequence[str], repeats: int) -> JsonObject:
    """Start, warm up, measure, show; returns the JSON document. Raises StartError, LoadError."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        worker = stack.enter_context(started("fake_worker", [sys.executable, "-m", "benchmarks.fake_worker"], folder))
        worker_url = worker.wait_for_address()
        set_answer(worker_url, scenario)
        progress = stack.enter_context(_progress())
        task = progress.add_task("", total=len(names) * (repeats + 1) + 1)
        bench = Bench(scenario, worker, folder, stack, lambda what: progress.update(task, advance=1, description=what))
        subjects = bench.start(names, worker_url)
        if not subjects:
            raise StartError(f"no program is left to measure: {bench.skipped}")
        runs = bench.measure(subjects, repeats)
    for name, reason in bench.skipped.items():
        print(f"skipped {name}: {reason}", file=sys.stderr)
    summary = summarise({name: runs[name] for name in names if name in runs})
    show(f"{scenario.title}, medians of {repeats}", summary, sys.stdout)
    results: JsonObject = {"scenario": asdict(scenario), "programs": document(summary, runs)}
    skipped: JsonObject = {**bench.skipped}
    return {**_surroundings(), "repeats": repeats, "skipped": skipped, "results": [results]}


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _surroundings() -> JsonObject:
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
    }


def _bounded(name: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        low = 0 if name == "interval" else 1
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= LIMITS[name]:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} to {LIMITS[name]}, not {text!r}")
        return value

    return parse


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in names if name not in STARTERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown program {unknown[0]!r}; there are {', '.join(STARTERS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run", description="The gateway under load beside its peers."
    )
    parser.add_argument("--streams", type=_bounded("streams"), default=100, help="at once (%(default)s)")
    parser.add_argument("--chunks", type=_bounded("chunks"), default=100, help="of each stream (%(default)s)")
    parser.add_argument(
        "--interval", type=_bounded("interval"), default=20, help="ms between chunks, 0: none (%(default)s)"
    )
    parser.add_argument("--repeats", type=_bounded("repeats"), default=3, help="of the whole round (%(default)s)")
    parser.add_argument(
        "--together", action="store_true", help="all streams in step, instead of begun one after the other"
    )
    parser.add_argument("--only", type=_names, default=list(STARTERS), metavar="NAMES", help="of " + ",".join(STARTERS))
    parser.add_argument(
        "--json", type=Path, default=OUT / "run.json", metavar="FILE", help="for the results (%(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if not sys.platform.startswith("linux"):
        print("CPU time is read from /proc: this benchmark runs on Linux only", file=sys.stderr)
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Without this, what was started would outlive a benchmark that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scenario = Scenario(
        name="worker stream",
        route="generate_stream",
        streams=options.streams,
        chunks=options.chunks,
        interval_ms=options.interval,
        spread_ms=0 if options.together or not options.interval else options.streams * BEGIN_MS,
    )
    try:
        results = run(scenario, options.only, options.repeats)
    except (StartError, LoadError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    print(f"written: {options.json}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
