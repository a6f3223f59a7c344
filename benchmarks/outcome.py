"""What a run leaves behind: results.json, report.md with every figure, cpu.svg."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from benchmarks import starting
from benchmarks.chart import Bar, Group, bar_chart
from benchmarks.report import document, medians, report, target_table
from benchmarks.targets import judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.report import Measurement
    from proxy.types import JsonObject

_LABELS = {
    "gateway": "this gateway",
    "relay": "plain aiohttp relay",
    "fastchat": "FastChat's server",
    "litellm": "LiteLLM",
}


# The scenarios of one and the same load: their bars can stand side by side.
_DRAWN = ("worker", "field", "openai", "ndjson")


def write_outcome(
    folder: Path, measurements: Sequence[Measurement], surroundings: JsonObject, starts: starting.Starts | None = None
) -> str:
    """Write the files; returns what to tell the user: the targets and where the files are."""
    starts = starts or {}
    verdicts = judge({**medians(measurements), **starting.medians(starts)})
    results: JsonObject = {
        **surroundings,
        "targets": [dict(one._asdict()) for one in verdicts],
        "results": [document(one) for one in measurements],
        starting.NAME: starting.document(starts),
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "results.json": orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n",
        "report.md": (report(measurements, verdicts, surroundings) + starting.section(starts)).encode(),
    }
    drawn = chart(measurements)
    if drawn is not None:
        files["cpu.svg"] = drawn.encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    paths = ", ".join(str(folder / name) for name in files)
    judged = [one for one in verdicts if one.word != "not measured"]
    return f"{target_table(judged)}\nwritten: {paths}" if judged else f"written: {paths}"


def chart(measurements: Sequence[Measurement]) -> str | None:
    """CPU for each chunk in all scenarios of streams with the usual load; None where none of them was measured."""
    drawn = [one for one in measurements if one.scenario.name in _DRAWN]
    groups = [Group(one.scenario.title, bars) for one in drawn if (bars := _bars(one))]
    if not groups:
        return None
    note = f"{drawn[0].scenario.load}; median, lowest and highest of the repeats"
    return bar_chart("CPU for each streamed chunk", note, groups, "µs")


def _bars(one: Measurement) -> list[Bar]:
    return [
        Bar(_LABELS.get(name, name), *figures["cpu_us"], own=name == "gateway")
        for name, figures in one.summary.items()
        if "cpu_us" in figures
    ]
