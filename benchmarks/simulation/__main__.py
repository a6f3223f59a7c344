"""`python -m benchmarks.simulation`: a table for each utilisation; medians over several seeds."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TextIO

import orjson
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from benchmarks.chart import Bar, Group, bar_chart
from benchmarks.simulation.engine import QUEUE_LENGTH
from benchmarks.simulation.figures import BASE, CHOICES, NEIGHBOURS, QUEUE_SECONDS, Figures, medians, run_once, times
from benchmarks.simulation.load import World
from proxy.types import JsonObject

LOADS = (0.6, 0.7, 0.8, 0.9)
# Wide enough for every column in a file.
_FILE_WIDTH = 200
WANTED = 2.0
LEGEND = (
    "no limits: requests are sent on at once and wait inside the workers, so that only the policy is left of what the "
    "gateway does\n"
    "true speeds: as if workers reported them; every worker of FastChat 0.2.36 reports speed 1\n"
    f"late: waited longer than {QUEUE_SECONDS:g} s; crowded: came while {QUEUE_LENGTH} others waited; beyond these the "
    "gateway refuses, unless it is told otherwise"
)
PROCESSES_MAX = 8

Results = dict[float, dict[str, list[Figures]]]
"""By utilisation, then by choice; one entry for each seed."""


def simulate(worlds: Sequence[World], seeds: Sequence[int], requests: int) -> Results:
    """Every choice at every load with every seed, on several processes; a bar on a terminal shows how far it is."""
    bar = Console(stderr=True)
    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn())
    found: dict[tuple[float, str, int], Figures] = {}
    with (
        Progress(*columns, console=bar, transient=True, disable=not bar.is_terminal) as progress,
        ProcessPoolExecutor(min(os.cpu_count() or 1, PROCESSES_MAX), get_context("spawn")) as pool,
    ):
        runs = {
            pool.submit(run_once, choice, world, requests, seed): (world.utilisation, choice, seed)
            for world in worlds
            for choice in CHOICES
            for seed in seeds
        }
        task = progress.add_task("", total=len(runs))
        for run in as_completed(runs):
            found[runs[run]] = run.result()
            progress.advance(task)
    loads = [world.utilisation for world in worlds]
    return {load: {choice: [found[load, choice, seed] for seed in seeds] for choice in CHOICES} for load in loads}


def table(title: str, runs: dict[str, list[Figures]], style: box.Box) -> Table:
    """Medians; for the p99 of the wait also the lowest and the highest of the seeds, and it beside our default's."""
    result = Table(title=title, box=style)
    result.add_column("choice")
    headings = ("wait s p50", "p99", "(seeds)", "× " + BASE, "longest", "answer s p50", "p99", "late %", "crowded %")
    for heading in headings:
        result.add_column(heading, justify="right")
    base = medians(runs[BASE]).wait_p99
    for choice, of in runs.items():
        middle = medians(of)
        tails = [run.wait_p99 for run in of]
        result.add_row(
            choice,
            f"{middle.wait_p50:.2f}",
            f"{middle.wait_p99:.2f}",
            f"{min(tails):.1f}-{max(tails):.1f}",
            _times(times(middle.wait_p99, base)),
            f"{middle.wait_max:.1f}",
            f"{middle.answer_p50:.1f}",
            f"{middle.answer_p99:.1f}",
            f"{100 * middle.late:.1f}",
            f"{100 * middle.crowded:.1f}",
        )
    return result


def _times(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.1f}"


def show(results: Results, stream: TextIO) -> None:
    """One table for each load; Markdown where `stream` is no terminal."""
    terminal = stream.isatty()
    console = Console(file=stream) if terminal else Console(file=stream, width=_FILE_WIDTH, no_color=True)
    for load, runs in results.items():
        title = f"utilisation {load:.0%}"
        if not terminal:
            print(f"{title}\n", file=stream)
        console.print(table(title if terminal else "", runs, box.SIMPLE_HEAD if terminal else box.MARKDOWN))


def verdict(results: Results) -> tuple[bool, str]:
    """Whether the default beats both neighbours at p99 by `WANTED` times at every load, in a sentence."""
    worst = min(
        (times(medians(runs[other]).wait_p99, medians(runs[BASE]).wait_p99), other, load)
        for load, runs in results.items()
        for other in NEIGHBOURS
    )
    text = f"p99 of the wait, {BASE} against its neighbours: at least {_times(worst[0])} times shorter"
    return worst[0] >= WANTED, f"{text} ({worst[1]}, utilisation {worst[2]:.0%})"


def document(results: Results, world: World, requests: int, seeds: Sequence[int]) -> JsonObject:
    """Everything that the tables are made of."""
    loads: JsonObject = {
        f"{load:g}": {
            choice: {"medians": asdict(medians(of)), "seeds": [asdict(run) for run in of]}
            for choice, of in runs.items()
        }
        for load, runs in results.items()
    }
    return {"requests": requests, "seeds": [*seeds], "world": asdict(world), "loads": loads}


def chart(results: Results) -> str:
    """The p99 of the wait: a group for each load with a bar for each choice, and the seeds' spread."""
    groups = [
        Group(f"utilisation {load:.0%}", [_bar(choice, [run.wait_p99 for run in of]) for choice, of in runs.items()])
        for load, runs in results.items()
    ]
    title = "99 of 100 requests wait at most so long for a slot"
    return bar_chart(
        title, "simulated; medians of several seeds, thin lines from the lowest to the highest", groups, "s"
    )


def _bar(choice: str, tails: Sequence[float]) -> Bar:
    return Bar(choice, median(tails), min(tails), max(tails), own=choice not in NEIGHBOURS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulation",
        description="Waiting times of 60 workers of unequal speed under each policy of the gateway, beside FastChat's "
        "shortest queue and DB-GPT's random choice. Exit code 1 when the default is not twice as good as these.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first of them (%(default)s)")
    parser.add_argument(
        "--seeds", type=int, choices=range(1, 101), default=5, metavar="N", help="how many (%(default)s)"
    )
    parser.add_argument("--requests", type=int, default=20_000, help="of each run, 1,000 to 1,000,000 (%(default)s)")
    parser.add_argument(
        "--spread", type=float, default=World.spread, help="the fastest worker's speed, of the slowest's (%(default)s)"
    )
    parser.add_argument(
        "--burst", type=float, default=World.burst, help="rate in a burst, of the calm one (%(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the p99 of the wait there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 when the default policy does not beat its neighbours as it should."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not 1_000 <= options.requests <= 1_000_000:
        parser.error(f"--requests: expected 1,000 to 1,000,000, got {options.requests}")
    if not 1 <= options.spread <= 100:
        parser.error(f"--spread: expected 1 to 100, got {options.spread:g}")
    if not 1 <= options.burst <= 100:
        parser.error(f"--burst: expected 1 to 100, got {options.burst:g}")
    world = World(spread=options.spread, burst=options.burst)
    seeds = range(options.seed, options.seed + options.seeds)
    try:
        results = simulate([replace(world, utilisation=load) for load in LOADS], seeds, options.requests)
    except KeyboardInterrupt:
        return 130
    print(f"{world.workers} workers of {world.slots} slots, speeds 1:{world.spread:g}; medians of {len(seeds)} seeds")
    print(f"with {options.requests} requests each; times in seconds\n")
    show(results, sys.stdout)
    kept, sentence = verdict(results)
    print(f"{LEGEND}\n\n{sentence}")
    if options.json is not None:
        data = orjson.dumps(document(results, world, options.requests, seeds), option=orjson.OPT_INDENT_2)
        options.json.write_bytes(data + b"\n")
    if options.svg is not None:
        options.svg.write_text(chart(results), encoding="utf-8")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
