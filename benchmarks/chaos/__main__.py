"""`python -m benchmarks.chaos`: two thousand requests through a fleet in trouble, and whether all went well."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.chaos.load import Ended
from benchmarks.chaos.run import MOST_SECONDS, WORKERS, Outcome, Plan, run
from benchmarks.process import StartError

# Counters of the gateway that show what it did about the troubles.
COUNTERS = (
    "gateway_retries_total",
    "gateway_failovers_total",
    "gateway_worker_breaker_transitions_total",
    "gateway_queue_ends_total",
    "gateway_upstream_errors_total",
)
_FILE_WIDTH = 160


def tables(outcome: Outcome, style: box.Box) -> list[Table]:
    """What was asked and how it ended; what the workers suffered; what the gateway did; what must hold."""
    return [_ends(outcome, style), _troubles(outcome, style), _doings(outcome, style), _checks(outcome, style)]


def _ends(outcome: Outcome, style: box.Box) -> Table:
    table = Table(title=f"{len(outcome.ended)} requests in {outcome.seconds:.0f} s", box=style)
    for heading in (
        "",
        "right",
        "error before the answer began",
        "error within the answer",
        "client left",
        "wrong",
        "slowest s",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, stream in (("streams", True), ("whole answers", False)):
        of = [ended for ended in outcome.ended if ended.question.stream is stream]
        kinds = Counter(ended.verdict.kind for ended in of)
        counts = [str(kinds[kind]) for kind in ("right", "failed", "broken", "left", "wrong")]
        table.add_row(name, *counts, f"{max((ended.ended - ended.began for ended in of), default=0.0):.1f}")
    return table


def _troubles(outcome: Outcome, style: box.Box) -> Table:
    table = Table(title=f"troubles of {WORKERS} workers", box=style)
    for name in sorted(outcome.troubles):
        table.add_column(name, justify="right")
    table.add_row(*(str(outcome.troubles[name]) for name in sorted(outcome.troubles)))
    return table


def _doings(outcome: Outcome, style: box.Box) -> Table:
    """Series of all workers and models together."""
    table = Table(title="what the gateway did", box=style)
    table.add_column("counter")
    table.add_column("count", justify="right")
    sums: Counter[str] = Counter()
    for series, value in outcome.left.metrics.items():
        name, _, labels = series.rstrip("}").partition("{")
        if name in COUNTERS and value:
            kept = [part for part in labels.split(",") if not part.startswith(("worker=", "model="))]
            sums[f"{name.removeprefix('gateway_').removesuffix('_total')} {' '.join(kept)}".strip()] += int(value)
    for name in sorted(sums):
        table.add_row(name, str(sums[name]))
    return table


def _checks(outcome: Outcome, style: box.Box) -> Table:
    table = Table(title="what must hold", box=style)
    for heading in ("", "check", "found"):
        table.add_column(heading)
    for check in outcome.checks:
        table.add_row("ok" if check.holds else "NOT", check.name, check.found)
    return table


def show(outcome: Outcome) -> None:
    """Tables for a terminal; Markdown where the output goes elsewhere."""
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=_FILE_WIDTH, no_color=True)
    for table in tables(outcome, box.SIMPLE_HEAD if terminal else box.MARKDOWN):
        if not terminal:
            print(f"{table.title}\n")
            table.title = None
        console.print(table, markup=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos",
        description="The gateway before four workers that are killed, stopped, reset, stalled and broken, under load. "
        "Exit code 1 when something that must hold does not.",
    )
    parser.add_argument("--requests", type=int, default=Plan.requests, help="in all (%(default)s)")
    parser.add_argument("--at-once", type=int, default=Plan.at_once, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="of questions and troubles (%(default)s)")
    parser.add_argument("--seconds", type=float, default=MOST_SECONDS, help="at most (%(default)s)")
    parser.add_argument(
        "--as-shipped", action="store_true", help="leave retries and breakers as they are when nobody sets them"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep what the gateway wrote")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    # Without this, what was started would outlive a run that is told to end.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plan = Plan(options.requests, options.at_once, options.seed, options.seconds, options.as_shipped)
    bar = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=bar, transient=True, disable=not bar.is_terminal) as progress:
        task = progress.add_task("requests", total=plan.requests)

        def heard(_: Ended) -> None:
            progress.advance(task)

        try:
            outcome = asyncio.run(run(plan, heard))
        except StartError as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    if options.log is not None:
        options.log.write_text(outcome.log, encoding="utf-8")
    show(outcome)
    return 0 if all(check.holds for check in outcome.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
