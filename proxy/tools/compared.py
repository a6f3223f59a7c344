"""What `compat` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator

import click

from proxy.tools.losses import Compatibility, Field
from proxy.tools.terminal import columns
from proxy.types import Json

_COLOURS = {
    "carried": "green",
    "changed": "cyan",
    "used": "cyan",
    "dropped": "yellow",
    "absent": "yellow",
    "invented": "magenta",
}


def compatibility_lines(pack: str, found: Compatibility) -> Iterator[str]:
    """For people: a table for each route, or for each way of asking a backend."""
    lines = iter(columns([_row(field, fields) for fields in found.parts.values() for field in fields]))
    for name, fields in found.parts.items():
        if fields:
            yield click.style(f"{pack}/{name}", bold=True)
        for _ in fields:
            yield f"  {next(lines)}"
    for key in found.stale:
        yield click.style(f"accepted_losses: {key} is not lost", fg="yellow")
    lost = sum(field.lost for field in found.fields)
    dropped = sum(field.fate in {"dropped", "absent"} for field in found.fields)
    told = f"{len(found.fields)} fields, {dropped} dropped, of which {lost} not accepted"
    yield click.style(told, fg="red" if lost else "green")


def _row(field: Field, part: tuple[Field, ...]) -> list[str]:
    if field.fate in {"dropped", "absent"}:
        note = click.style("not accepted", fg="red") if field.lost else f"accepted: {field.accepted}"
    else:
        note = "" if field.into in {(), (field.name,)} else f"into {', '.join(field.into)}"
    return [_side(field, part), click.style(field.fate, fg=_COLOURS[field.fate]), field.name, note]


def _side(field: Field, part: tuple[Field, ...]) -> str:
    """From where to where; without a call the client's and the worker's fields meet directly."""
    called = any(each.side == "call" for each in part)
    return {
        "request": "client to call" if called else "client to worker",
        "call": f"call to {field.route}",
        "result": f"{field.route} to call",
        "answer": "call to client" if called else "worker to client",
    }[field.side]


def compatibility_json(pack: str, found: Compatibility) -> Json:
    """For programs."""
    return {
        "pack": pack,
        "fields": [
            {
                "route": name,
                "way": field.route if field.side in {"call", "result"} else None,
                "side": field.side,
                "field": field.name,
                "fate": field.fate,
                "into": list(field.into),
                "accepted": field.accepted,
            }
            for name, fields in found.parts.items()
            for field in fields
        ],
        "lost": sum(field.lost for field in found.fields),
        "stale": list(found.stale),
    }
