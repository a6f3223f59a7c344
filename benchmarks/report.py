"""From the figures of single runs to medians, ratios, a table and a JSON document."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TextIO

    from proxy.types import JsonObject

# Wide enough for every column: a table that goes into a file must not be cut at 80 characters.
_FILE_WIDTH = 200


class Figure(NamedTuple):
    """One quantity over the repeats."""

    median: float
    low: float
    high: float


Summary = dict[str, dict[str, Figure]]
"""By program, then by quantity."""

_COLUMNS = (
    ("CPU µs/chunk", "cpu_us", 1),
    ("first byte ms p50", "first_byte_ms_p50", 2),
    ("p99", "first_byte_ms_p99", 2),
    ("chunk delay ms p50", "delay_ms_p50", 2),
    ("p99", "delay_ms_p99", 2),
    ("chunks/s", "chunks_per_second", 0),
    ("worker µs/chunk", "worker_cpu_us", 1),
    ("client µs/chunk", "client_cpu_us", 1),
)


def summarise(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> Summary:
    """Median, lowest and highest of each quantity that every run of a program has; `runs` is by program."""
    return {
        name: {key: _figure([run[key] for run in of]) for key in _shared_keys(of)} for name, of in runs.items() if of
    }


def _shared_keys(runs: Sequence[Mapping[str, float]]) -> list[str]:
    return [key for key in runs[0] if all(key in run for run in runs)]


def _figure(values: list[float]) -> Figure:
    return Figure(median(values), min(values), max(values))


def ratios(summary: Summary, quantity: str = "cpu_us", base: str = "nginx") -> dict[str, float]:
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


def document(summary: Summary, runs: Mapping[str, Sequence[Mapping[str, float]]]) -> JsonObject:
    """The JSON form of one scenario's results."""
    delays = {share: added(summary, f"delay_ms_{share}") for share in ("p50", "p99")}
    by_ratio = ratios(summary)
    result: JsonObject = {}
    for name, figures in summary.items():
        result[name] = {
            "figures": {key: {k: round(v, 3) for k, v in figure._asdict().items()} for key, figure in figures.items()},
            "cpu_times_nginx": round(by_ratio[name], 3) if name in by_ratio else None,
            "added_delay_ms": {share: round(of[name], 3) for share, of in delays.items() if name in of},
            "runs": [dict(run) for run in runs[name]],
        }
    return result


def table(title: str, summary: Summary, style: box.Box = box.SIMPLE_HEAD) -> Table:
    """Medians, for CPU with the spread, and the CPU beside nginx's."""
    by_ratio = ratios(summary)
    result = Table(title=title, box=style)
    result.add_column("program")
    for heading, key, _ in _COLUMNS:
        result.add_column(heading, justify="right")
        if key == "cpu_us":
            result.add_column("× nginx", justify="right")
    for name, figures in summary.items():
        cells = [name]
        for _, key, digits in _COLUMNS:
            cells.append(_cell(figures.get(key), digits, spread=key == "cpu_us"))
            if key == "cpu_us":
                cells.append(f"{by_ratio[name]:.2f}" if name in by_ratio else "")
        result.add_row(*cells)
    return result


def _cell(figure: Figure | None, digits: int, *, spread: bool) -> str:
    if figure is None:
        return ""
    text = f"{figure.median:,.{digits}f}"
    return f"{text} ({figure.low:.{digits}f}-{figure.high:.{digits}f})" if spread else text


def show(title: str, summary: Summary, stream: TextIO) -> None:
    """Print the table; as Markdown where `stream` is no terminal."""
    if stream.isatty():
        Console(file=stream).print(table(title, summary))
    else:
        print(title, file=stream)
        Console(file=stream, width=_FILE_WIDTH, no_color=True).print(table("", summary, box.MARKDOWN))
