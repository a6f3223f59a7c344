"""What `replay` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import click

from proxy.documents import clipped
from proxy.recording.lines import End, Head
from proxy.tools.replaying import Compared, Difference, Summary
from proxy.tools.terminal import columns
from proxy.types import Json

_SHOWN: Final = 60
_PLACES: Final = 20


def compared_lines(compared: Compared) -> Iterator[str]:
    """For people: one request that is not as it was."""
    recorded = compared.recorded
    yield f"{click.style(f'line {compared.line}', bold=True)}  {recorded.method} {recorded.path}  {recorded.route}"
    rows = [
        [
            each.path,
            click.style(clipped(each.then, _SHOWN), fg="red"),
            click.style(clipped(each.now, _SHOWN), fg="green"),
        ]
        for each in compared.differences
    ]
    yield from (f"  {line}" for line in columns(rows))
    if compared.more:
        yield f"  and {compared.more} more"


def summary_lines(summary: Summary, head: Head, end: End | None, left_off: int) -> Iterator[str]:
    """For people: how many requests there were, by route, and where they differ most."""
    if left_off:
        yield f"{left_off} more requests differ; --json has them"
    routes = sorted({*summary.same, *summary.different})
    rows = [["route", "same", "different"]]
    rows += [[route, str(summary.same[route]), str(summary.different[route])] for route in routes]
    yield from columns(rows)
    places = [[place, f"in {count}"] for place, count in summary.places.most_common(_PLACES)]
    yield from (f"  {line}" for line in columns(places))
    if end is None:
        yield click.style("the recording was cut off: it has no end", fg="yellow")
    elif end.left_out:
        yield f"{end.left_out} requests are not in the recording ({end.why})"
    total, different = sum(summary.same.values()), sum(summary.different.values())
    told = f"{total + different} requests recorded by version {head.gateway}: {total} the same, {different} different"
    yield click.style(told, fg="red" if different else "green")


def replay_json(summary: Summary, head: Head, end: End | None, found: list[Compared], left_off: int) -> Json:
    """For programs. left_off: requests that differ and are not listed."""
    return {
        "recording": {
            "gateway": head.gateway,
            "began": head.began,
            "redacted": head.redacted,
            "left_out": None if end is None else end.left_out,
            "ended": None if end is None else end.why,
        },
        "requests": sum(summary.same.values()) + sum(summary.different.values()),
        "same": dict(summary.same),
        "different": dict(summary.different),
        "places": dict(summary.places),
        "differences": [_compared_json(each) for each in found],
        "left_off": left_off,
    }


def _red(text: str) -> str:
    return click.style(clipped(text, _SHOWN), fg="red")


def _green(text: str) -> str:
    return click.style(clipped(text, _SHOWN), fg="green")


def _compared_json(compared: Compared) -> Json:
    recorded = compared.recorded
    return {
        "line": compared.line,
        "at": recorded.at,
        "method": recorded.method,
        "path": recorded.path,
        "route": recorded.route,
        "differences": [_difference_json(each) for each in compared.differences],
        "more": compared.more,
    }


def _difference_json(difference: Difference) -> Json:
    return {"path": difference.path, "then": difference.then, "now": difference.now}
