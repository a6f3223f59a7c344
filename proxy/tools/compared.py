"""What `compat` found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

import click

from proxy.tools.losses import Compatibility, Field
from proxy.tools.terminal import columns
from proxy.types import Json

_COLOURS = {"carried": "green", "changed": "cyan", "used": "cyan", "dropped": "yellow", "invented": "magenta"}
_SIDES = {"request": "client to worker", "answer": "worker to client"}


def compatibility_lines(pack: str, found: Compatibility) -> Iterator[str]:
    """For people: a table for each route."""
    rows = [_row(field) for field in found.fields]
    lines = iter(columns(rows))
    for name, fields in groupby(found.fields, key=lambda field: field.route):
        yield click.style(f"{pack}/{name}", bold=True)
        for _ in fields:
            yield f"  {next(lines)}"
    for key in found.stale:
        yield click.style(f"accepted_losses: {key} is not lost", fg="yellow")
    lost = sum(field.lost for field in found.fields)
    dropped = sum(field.fate == "dropped" for field in found.fields)
    told = f"{len(found.fields)} fields, {dropped} dropped, of which {lost} not accepted"
    yield click.style(told, fg="red" if lost else "green")


def _row(field: Field) -> list[str]:
    if field.fate == "dropped":
        note = click.style("not accepted", fg="red") if field.lost else f"accepted: {field.accepted}"
    else:
        note = "" if field.into in {(), (field.name,)} else f"into {', '.join(field.into)}"
    return [_SIDES[field.side], click.style(field.fate, fg=_COLOURS[field.fate]), field.name, note]


def compatibility_json(pack: str, found: Compatibility) -> Json:
    """For programs."""
    return {
        "pack": pack,
        "fields": [
            {
                "route": field.route,
                "side": field.side,
                "field": field.name,
                "fate": field.fate,
                "into": list(field.into),
                "accepted": field.accepted,
            }
            for field in found.fields
        ],
        "lost": sum(field.lost for field in found.fields),
        "stale": list(found.stale),
    }
