"""A bar chart as SVG, readable on light and dark pages: it brings its own background for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

_WIDTH = 760
_LABELS = 190
_PLOT = 430
_ROW = 22
_BAR = 14
_TOP = 62

_STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-size: 16px; font-weight: 600 } .group { font-weight: 600 } .quiet { fill: #59636e }
  .card { fill: #ffffff; stroke: #d1d9e0 } .bar { fill: #9aa4af } .own { fill: #0969da }
  .spread { stroke: #1f2328 } .axis { stroke: #d1d9e0 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc } .quiet { fill: #9198a1 }
    .card { fill: #0d1117; stroke: #3d444d } .bar { fill: #656c76 } .own { fill: #4493f8 }
    .spread { stroke: #f0f6fc } .axis { stroke: #3d444d }
  }
"""


class Bar(NamedTuple):
    """One program: its median, and the lowest and highest of the repeats. own: what the chart is about."""

    label: str
    value: float
    low: float
    high: float
    own: bool = False


class Group(NamedTuple):
    """Bars under one heading."""

    heading: str
    bars: Sequence[Bar]


def bar_chart(title: str, note: str, groups: Sequence[Group], unit: str) -> str:
    """Horizontal bars from nought, all on one scale, each with its value; thin lines show the spread.

    ValueError where there is no bar with a value above nought.
    """
    highest = max((bar.high for group in groups for bar in group.bars), default=0.0)
    if highest <= 0:
        raise ValueError("a chart needs at least one bar with a value above 0")
    scale = _PLOT / highest
    parts: list[str] = []
    y = _TOP
    for group in groups:
        parts.append(f'<text class="group" x="16" y="{y + 15}">{escape(group.heading)}</text>')
        y += _ROW + 2
        end = y + _ROW * len(group.bars)
        parts.append(f'<line class="axis" x1="{_LABELS}" y1="{y - 3}" x2="{_LABELS}" y2="{end - 3}"/>')
        parts += [_bar(bar, y + _ROW * row, scale, unit) for row, bar in enumerate(group.bars)]
        y = end + 10
    height = y + 8
    said = "; ".join(
        f"{group.heading}: " + ", ".join(f"{bar.label} {_number(bar.value)} {unit}" for bar in group.bars)
        for group in groups
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img">\n<title>{escape(title)}</title>\n<desc>{escape(said)}</desc>\n<style>{_STYLE}</style>\n'
        f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>\n'
        f'<text class="title" x="16" y="27">{escape(title)}</text>\n'
        f'<text class="quiet" x="16" y="47">{escape(note)}</text>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _bar(bar: Bar, y: int, scale: float, unit: str) -> str:
    length = max(bar.value * scale, 1.0)
    middle = y + _BAR / 2
    low, high = _LABELS + bar.low * scale, _LABELS + bar.high * scale
    return (
        f'<text x="{_LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(bar.label)}</text>'
        f'<rect class="{"own" if bar.own else "bar"}" x="{_LABELS}" y="{y}" width="{length:.1f}" height="{_BAR}"/>'
        f'<line class="spread" x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}"/>'
        f'<text x="{max(_LABELS + length, high) + 8:.1f}" y="{y + 12}">{_number(bar.value)} {escape(unit)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
