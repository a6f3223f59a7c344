"""From the figures of single runs to medians, ratios, tables and a JSON document."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.scenarios import Scenario
    from benchmarks.targets import Medians, Verdict
    from proxy.types import Json, JsonObject


class Figure(NamedTuple):
    """One quantity over the repeats."""

    median: float
    low: float
    high: float


Summary = dict[str, dict[str, Figure]]
"""By program, then by quantity."""

Runs = dict[str, list[dict[str, float]]]
"""The figures of each run, by program."""

# How a quantity of CPU is called, by the unit of the scenario: the quantity, what it is per, and its digits.
_CPU = {"chunk": ("cpu_us", "µs/chunk", 1), "request": ("cpu_us", "µs/request", 0), "byte": ("cpu_ns", "ns/byte", 2)}


@dataclass
class Measurement:
    """One scenario's results. failed: why a program gave no figures; skipped: why one was not measured."""

    scenario: Scenario
    runs: Runs
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def summary(self) -> Summary:
        return summarise(self.runs)


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Summary:
    """Median, lowest and highest of each quantity that every run of a program has; `runs` is by program."""
    return {
        name: {key: _figure([run[key] for run in of]) for key in _shared_keys(of)} for name, of in runs.items() if of
    }


def _shared_keys(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [key for key in runs[0] if all(key in run for run in runs)]


def _figure(values: list[float]) -> Figure:
    return Figure(median(values), min(values), max(values))


def medians(measurements: Iterable[Measurement]) -> Medians:
    """Medians by scenario, program and quantity."""
    return {
        one.scenario.name: {
            name: {key: figure.median for key, figure in figures.items()} for name, figures in one.summary.items()
        }
        for one in measurements
    }


def ratios(summary: Summary, quantity: str, base: str = "nginx") -> dict[str, float]:
    """Each program's median beside that of `base`; empty when `base` was not measured."""
    divisor = summary.get(base, {}).get(quantity)
    if divisor is None or not divisor.median:
        return {}
    return {name: of[quantity].median / divisor.median for name, of in summary.items() if quantity in of}


def added(summary: Summary, quantity: str, base: str = "direct") -> dict[str, float]:
    """What each program's median is above that of `base`; empty when `base` was not measured."""
    zero = summary.get(base, {}).get(quantity)
    if zero is None:
        return {}
    return {name: of[quantity].median - zero.median for name, of in summary.items() if name != base and quantity in of}


def document(one: Measurement) -> JsonObject:
    """The JSON form of one scenario's results; every run is in it."""
    summary = one.summary
    by_ratio = ratios(summary, _CPU[one.scenario.unit][0])
    programs: JsonObject = {}
    for name, figures in summary.items():
        programs[name] = {
            "figures": {key: {k: round(v, 3) for k, v in figure._asdict().items()} for key, figure in figures.items()},
            "cpu_times_nginx": _rounded(by_ratio.get(name)),
            "added_ms": {
                key: _rounded(added(summary, key).get(name))
                for key in figures
                if "_ms_" in key and name in added(summary, key)
            },
            "runs": [dict(run) for run in one.runs[name]],
        }
    scenario: JsonObject = {**asdict(one.scenario), "load": one.scenario.load}
    failed: JsonObject = {**one.failed}
    skipped: JsonObject = {**one.skipped}
    return {"scenario": scenario, "programs": programs, "failed": failed, "skipped": skipped}


def _rounded(value: float | None) -> Json:
    return None if value is None else round(value, 3)


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is one to the eye too: the first column to the left, the others to the right."""
    body = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *body, strict=True)]
    rule = ["-" * max(widths[0], 3), *["-" * (max(width, 2) - 1) + ":" for width in widths[1:]]]
    lines = [headings, rule, *body]
    return "".join(
        "| "
        + " | ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |\n"
        for line in lines
    )


def scenario_table(one: Measurement, *, short: bool = False) -> str:
    """All programs of one scenario, medians; for CPU with the spread, in parentheses. short: what fits a terminal."""
    quantity, per, digits = _CPU[one.scenario.unit]
    summary = one.summary
    by_ratio = ratios(summary, quantity)
    columns: list[tuple[str, str, int]] = [
        ("first byte ms p50", "first_byte_ms_p50", 2),
        ("p99", "first_byte_ms_p99", 2),
        ("chunk delay ms p50", "delay_ms_p50", 2),
        ("p99", "delay_ms_p99", 2),
        ("chunks/s", "chunks_per_second", 0),
        ("requests/s", "requests_per_second", 0),
        ("cores", "cores", 2),
        ("load's cores", "load_cores", 2),
        ("kB/stream", "memory_kb", 0),
        ("worker " + per, "worker_" + quantity, digits),
        ("client " + per, "client_" + quantity, digits),
    ]
    columns = columns[:5] if short else columns
    rows = []
    for name, figures in summary.items():
        cpu = figures.get(quantity)
        spread = "" if cpu is None else f"{cpu.median:,.{digits}f} ({cpu.low:,.{digits}f} to {cpu.high:,.{digits}f})"
        cells = [_number(figures.get(key), places) for _, key, places in columns]
        rows.append([name, spread, f"{by_ratio[name]:.2f}" if name in by_ratio else "", *cells])
    notes = [f"\n{name} failed: {why}\n" for name, why in one.failed.items()]
    notes += [f"\n{name} skipped: {why}\n" for name, why in one.skipped.items()]
    return markdown(["", f"CPU {per}", "× nginx", *[column[0] for column in columns]], rows) + "".join(notes)


def _number(figure: Figure | None, digits: int) -> str:
    return "" if figure is None else f"{figure.median:,.{digits}f}"


def cpu_table(measurements: Sequence[Measurement]) -> str:
    """The table for people in a hurry: CPU of every program in every scenario, and how often nginx's that is."""
    names = list(dict.fromkeys(name for one in measurements for name in one.runs if name != "direct"))
    rows = []
    for one in measurements:
        quantity, per, digits = _CPU[one.scenario.unit]
        summary = one.summary
        by_ratio = ratios(summary, quantity)
        cells = []
        for name in names:
            cell = _number(summary.get(name, {}).get(quantity), digits)
            cells.append(f"{cell} (×{by_ratio[name]:.1f})" if cell and name != "nginx" and name in by_ratio else cell)
        rows.append([f"{one.scenario.title}: {one.scenario.load}", per, *cells])
    return markdown(["CPU", "", *names], rows)


def delay_table(measurements: Sequence[Measurement], names: Sequence[str] = ("nginx", "gateway")) -> str:
    """What is added to nothing at all: first byte and chunk delay in ms, p50 / p99, and the memory of a stream."""
    rows = []
    for one in measurements:
        summary = one.summary
        cells = [_added(summary, name, of) for of in ("first_byte_ms", "delay_ms") for name in names]
        memory = [_number(summary.get(name, {}).get("memory_kb"), 0) for name in names]
        if any(cells):
            rows.append([one.scenario.title, *cells, *memory])
    parts = ("first byte added, ms", "chunk delay added, ms", "kB a stream")
    return markdown(["p50 / p99", *[f"{part}: {name}" for part in parts for name in names]], rows)


def _added(summary: Summary, name: str, quantity: str) -> str:
    found = [added(summary, f"{quantity}_{share}").get(name) for share in ("p50", "p99")]
    return " / ".join("" if value is None else f"{value:.2f}" for value in found) if any(found) else ""


def target_table(verdicts: Iterable[Verdict]) -> str:
    """Each target with what was measured."""
    return markdown(
        ["target", "limit", "measured", ""], [[one.what, one.limit, one.measured, one.word] for one in verdicts]
    )


def report(measurements: Sequence[Measurement], verdicts: Iterable[Verdict], surroundings: JsonObject) -> str:
    """The whole report, in Markdown."""
    parts = [
        "# Benchmark\n",
        ", ".join(f"{name}: {value}" for name, value in surroundings.items()) + "\n",
        "## CPU\n",
        cpu_table(measurements),
        "## Delay and memory\n",
        delay_table(measurements),
        "## Targets\n",
        target_table(verdicts),
    ]
    for one in measurements:
        parts += [f"## {one.scenario.title}\n", f"`{one.scenario.name}`: {one.scenario.load}\n", scenario_table(one)]
    return "\n".join(parts)
