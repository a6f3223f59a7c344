"""`python -m benchmarks.micro`: nanoseconds of the parts of the hot path, beside the same written by hand."""

from __future__ import annotations

import argparse
import sys
import timeit
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import micro_rules
from benchmarks.micro_cases import CASES, Case, Timed

if TYPE_CHECKING:
    from collections.abc import Sequence

REPEATS = 5
SAMPLE_SECONDS = 0.05

micro_rules.add_cases()


def nanoseconds(timed: Timed, operations: int) -> float:
    """The best of several samples, each long enough for the clock; for one operation."""
    timer = timeit.Timer(timed)
    number = 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS:
        number = max(number * 2, int(number * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return min(seconds, *timer.repeat(REPEATS, number)) / number / operations * 1e9


def measure(cases: Sequence[Case]) -> dict[str, float | str]:
    """Nanoseconds by case, or why a case cannot run."""
    return {one.name: _measure(one) for one in cases}


def _measure(one: Case) -> float | str:
    try:
        timed = one.build()
    except (ImportError, AttributeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return round(nanoseconds(timed, one.operations), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description="Nanoseconds for each operation.")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the results")
    options = parser.parse_args(arguments)
    found = [one for one in CASES if options.only in one.name]
    if not found:
        print(f"no case has {options.only!r} in its name", file=sys.stderr)
        return 2
    results = measure(found)
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    table.add_column("case")
    table.add_column("ns", justify="right")
    for name, value in results.items():
        table.add_row(name, value if isinstance(value, str) else f"{value:,.0f}")
    Console(width=None if terminal else 160).print(table)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
