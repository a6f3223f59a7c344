"""`python -m benchmarks.run`: the gateway under load beside nothing, nginx, a plain relay and its peers, in one run.

For each scenario the programs are started anew and stay for all its repeats; the order changes from repeat to repeat.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import starting
from benchmarks.measure import LoadError, run_once
from benchmarks.outcome import write_outcome
from benchmarks.process import Process, StartError, family, memory_bytes, started
from benchmarks.report import Measurement, Runs, scenario_table
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.subjects import STARTERS, Subject, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from proxy.types import JsonObject

OUT = Path(__file__).parent / "out"
# Beyond these a run takes hours or more sockets than a machine grants; each is the highest value the option takes.
LIMITS = {"streams": 2000, "chunks": 5000, "interval": 1000, "repeats": 25}
# The load average of a machine that does nothing else is below this.
_BUSY = 0.3


@dataclass
class Bench:
    """One scenario being measured; `step` says on the progress bar what is being done."""

    scenario: Scenario
    worker: Process
    worker_url: str
    folder: Path
    stack: ExitStack
    step: Callable[[str], None]
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def start(self, names: Sequence[str]) -> list[Subject]:
        """Start the programs named, each with one small request; those that fail are ended and noted as skipped."""
        found = [self._start(name) for name in names]
        return [subject for subject in found if subject is not None]

    def _start(self, name: str) -> Subject | None:
        self.step(f"{self.scenario.name}: start {name}")
        small = replace(
            self.scenario,
            streams=1,
            rounds=1,
            chunks=min(self.scenario.chunks, 10),
            interval_ms=0,
            spread_ms=0,
            reads_per_second=0,
        )
        with ExitStack() as own:
            try:
                subject = STARTERS[name].start(self.worker_url, self.folder, own)
                run_once(subject, self.worker, self.worker_url, small)
            except StartError as error:
                self.skipped[name] = str(error)
                return None
            except LoadError as error:
                self.failed[name] = str(error)
                return None
            self.stack.push(own.pop_all())
        if subject.process is not None:
            subject.pids = family(subject.process.pid)
            subject.idle_bytes = memory_bytes(subject.pids)
        return subject

    def measure(self, subjects: Sequence[Subject], repeats: int) -> Runs:
        """Measure all of them `repeats` times, each time another one first; who gives a wrong answer is out."""
        runs: Runs = {subject.name: [] for subject in subjects}
        for repeat in range(repeats):
            first = repeat % len(subjects) if subjects else 0
            for subject in [*subjects[first:], *subjects[:first]]:
                self.step(f"{self.scenario.name}: {subject.name}, {repeat + 1} of {repeats}")
                if subject.name not in self.failed:
                    runs[subject.name].append(self._run(subject))
        return runs

    def _run(self, subject: Subject) -> dict[str, float]:
        try:
            figures = run_once(subject, self.worker, self.worker_url, self.scenario)
        except LoadError as error:
            self.failed[subject.name] = str(error)
            return {"right": 0.0}
        return {"right": 1.0, "cpus": float(os.cpu_count() or 1), **figures}


def measure(scenario: Scenario, names: Sequence[str], repeats: int, step: Callable[[str], None]) -> Measurement:
    """Start everything for one scenario, warm up, measure. Raises StartError where the fake worker does not start."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-")))
        worker = stack.enter_context(started("fake_worker", [sys.executable, "-m", "benchmarks.fake_worker"], folder))
        bench = Bench(scenario, worker, worker.wait_for_address(), folder, stack, step)
        runs = bench.measure(bench.start(names), repeats)
    return Measurement(scenario, runs, bench.failed, bench.skipped)


def measured_in(scenario: Scenario, names: Iterable[str]) -> list[str]:
    """Those of the programs that have an answer to this scenario's requests."""
    return [name for name in names if STARTERS[name].takes(scenario.name, scenario.route)]


def run(options: argparse.Namespace, measurements: list[Measurement]) -> None:
    """Measure every scenario into `measurements`, and show each as it is done. Raises StartError."""
    plan = [(one, measured_in(one, options.subjects)) for one in _chosen(options)]
    plan = [(scenario, names) for scenario, names in plan if names]
    with _progress() as progress:
        task = progress.add_task("", total=sum(len(names) for _, names in plan) * (options.repeats + 1))

        def step(what: str) -> None:
            progress.update(task, advance=1, description=what)

        for scenario, names in plan:
            if progress.disable:
                print(f"{scenario.name}: {', '.join(names)}", file=sys.stderr)
            one = measure(scenario, names, options.repeats, step)
            measurements.append(one)
            heading = f"{scenario.title}: {scenario.load}; medians of {options.repeats}"
            print(f"{heading}\n\n{scenario_table(one, short=sys.stdout.isatty())}", flush=True)


def run_starts(options: argparse.Namespace) -> starting.Starts:
    """How long the gateway's commands take to start, shown too; nothing where that was not asked for."""
    if starting.NAME not in options.only or "gateway" not in options.subjects:
        return {}
    repeats = 1 if options.quick else max(options.repeats, starting.REPEATS)
    starts = starting.measure(repeats, lambda what: None)
    print(f"Start; medians of {repeats}\n\n{starting.table(starts)}", flush=True)
    return starts


def _chosen(options: argparse.Namespace) -> Iterator[Scenario]:
    for name in options.only:
        if name == starting.NAME:
            continue
        scenario = SCENARIOS[name].quick() if options.quick else SCENARIOS[name]
        given = {"streams": options.streams, "chunks": options.chunks, "interval_ms": options.interval}
        changed = {key: value for key, value in given.items() if value is not None}
        if "streams" in changed and scenario.spread_ms:
            changed["spread_ms"] = scenario.spread_ms * changed["streams"] / scenario.streams
        yield replace(scenario, **changed)


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),
    )


def _surroundings(options: argparse.Namespace, load: float) -> JsonObject:
    """load: how busy the machine was before the run, as the system's average over a minute."""
    return {
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        **versions(),
        "repeats": options.repeats,
        "quick": options.quick,
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


def _names(what: str, known: Iterable[str]) -> Callable[[str], list[str]]:
    there = list(known)

    def parse(text: str) -> list[str]:
        unknown = [name for name in text.split(",") if name not in there]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown {what} {unknown[0]!r}; there are {', '.join(there)}")
        return [name for name in there if name in text.split(",")]

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description="The gateway under load beside its peers.",
        epilog="Scenarios: "
        + "; ".join(f"{one.name}: {one.title}" for one in SCENARIOS.values())
        + f"; {starting.NAME}: how long commands take to start",
    )
    known = [*SCENARIOS, starting.NAME]
    scenarios, subjects = _names("scenario", known), _names("program", STARTERS)
    parser.add_argument("--only", type=scenarios, default=known, metavar="SCENARIOS", help="of " + ",".join(known))
    parser.add_argument(
        "--subjects", type=subjects, default=list(STARTERS), metavar="PROGRAMS", help="of " + ",".join(STARTERS)
    )
    parser.add_argument("--repeats", type=_bounded("repeats"), help="of every scenario (5, with --quick 1)")
    parser.add_argument(
        "--quick", action="store_true", help="small loads, once: to see that all works, not for figures"
    )
    parser.add_argument("--streams", type=_bounded("streams"), help="at once, instead of the scenario's")
    parser.add_argument("--chunks", type=_bounded("chunks"), help="of each stream, instead of the scenario's")
    parser.add_argument("--interval", type=_bounded("interval"), help="ms between chunks, 0: none")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="for the results (%(default)s)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything measured answered rightly, 1 when something did not; what is not installed is only named."""
    options = _parser().parse_args(arguments)
    options.repeats = options.repeats or (1 if options.quick else 5)
    if not sys.platform.startswith("linux"):
        print("CPU time is read from /proc: this benchmark runs on Linux only", file=sys.stderr)
        return 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Without this, what was started would outlive a benchmark that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load = os.getloadavg()[0]
    if load > _BUSY:
        print(f"this machine is busy (load {load:.1f}): the figures will be too high", file=sys.stderr)
    measurements: list[Measurement] = []
    starts: starting.Starts = {}
    begin = time.monotonic()
    status = 0
    try:
        starts = run_starts(options)
        run(options, measurements)
    except StartError as error:
        print(error, file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; the scenarios that were done are written", file=sys.stderr)
        status = 130
    if measurements or starts:
        surroundings = {**_surroundings(options, load), "seconds": round(time.monotonic() - begin)}
        print(write_outcome(options.out, measurements, surroundings, starts), file=sys.stderr)
    return status or int(any(one.failed for one in measurements))


if __name__ == "__main__":
    sys.exit(main())
