"""Closures that take values out of a document: paths, indexes, slices, projections, filters, new objects.

Results share structure with the document and with literals of the expression; whoever gets them must not change them.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.expr.functions import Evaluate
from proxy.types import Json


def current(value: Json) -> Json:
    return value


def literal(constant: Json) -> Evaluate:
    def run(value: Json) -> Json:
        return constant

    return run


def path(names: Sequence[str]) -> Evaluate:
    """One or more names read one after another; null where a value on the way is not an object."""
    if len(names) == 1:
        return _field(names[0])
    if len(names) == 2:
        return _two_fields(names[0], names[1])
    *outer, last = names
    steps = tuple(outer)

    def run(value: Json) -> Json:
        for name in steps:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value.get(last) if isinstance(value, dict) else None

    return run


def _field(name: str) -> Evaluate:
    def run(value: Json) -> Json:
        return value.get(name) if isinstance(value, dict) else None

    return run


def _two_fields(first: str, second: str) -> Evaluate:
    def run(value: Json) -> Json:
        if isinstance(value, dict):
            inner = value.get(first)
            if isinstance(inner, dict):
                return inner.get(second)
        return None

    return run


def index(place: int) -> Evaluate:
    def run(value: Json) -> Json:
        if not isinstance(value, list):
            return None
        try:
            return value[place]
        except IndexError:
            return None

    return run


def part(start: int | None, stop: int | None, step: int | None) -> Evaluate:
    bounds = slice(start, stop, step)

    def run(value: Json) -> Json:
        return value[bounds] if isinstance(value, list) else None

    return run


def chain(steps: Sequence[Evaluate]) -> Evaluate:
    """Each step is evaluated on the result of the one before, null included."""
    if len(steps) == 1:
        return steps[0]
    if len(steps) == 2:
        first, second = steps
        return lambda value: second(first(value))
    all_steps = tuple(steps)

    def run(value: Json) -> Json:
        for step in all_steps:
            value = step(value)
        return value

    return run


def flatten(source: Evaluate) -> Evaluate:
    """One level of nested arrays is merged; null for anything but an array."""

    def run(value: Json) -> Json:
        base = source(value)
        if not isinstance(base, list):
            return None
        merged: list[Json] = []
        for item in base:
            if isinstance(item, list):
                merged.extend(item)
            else:
                merged.append(item)
        return merged

    return run


def project(source: Evaluate, taken: Evaluate) -> Evaluate:
    """`taken` of each element, nulls left out; null for anything but an array."""

    def run(value: Json) -> Json:
        base = source(value)
        if not isinstance(base, list):
            return None
        return [result for item in base if (result := taken(item)) is not None]

    def run_whole(value: Json) -> Json:
        base = source(value)
        return [item for item in base if item is not None] if isinstance(base, list) else None

    return run_whole if taken is current else run


def project_values(source: Evaluate, taken: Evaluate) -> Evaluate:
    """`taken` of each value of an object, nulls left out; null for anything but an object."""

    def run(value: Json) -> Json:
        base = source(value)
        if not isinstance(base, dict):
            return None
        return [result for item in base.values() if (result := taken(item)) is not None]

    return run


def keep(source: Evaluate, holds: Evaluate, taken: Evaluate) -> Evaluate:
    """Like `project`, of the elements for which `holds` gives a value that is true in Python."""

    def run(value: Json) -> Json:
        base = source(value)
        if not isinstance(base, list):
            return None
        return [result for item in base if holds(item) and (result := taken(item)) is not None]

    def run_whole(value: Json) -> Json:
        base = source(value)
        return [item for item in base if holds(item) and item is not None] if isinstance(base, list) else None

    return run_whole if taken is current else run


def make_list(items: Sequence[Evaluate]) -> Evaluate:
    all_items = tuple(items)

    def run(value: Json) -> Json:
        return None if value is None else [item(value) for item in all_items]

    return run


def make_object(keys: Sequence[str], values: Sequence[Evaluate]) -> Evaluate:
    members = tuple(zip(keys, values, strict=True))

    def run(value: Json) -> Json:
        if value is None:
            return None
        made: dict[str, Json] = {}
        for key, member in members:
            made[key] = member(value)
        return made

    return run


def pick(keys: Sequence[str], names: Sequence[str]) -> Evaluate:
    """`make_object` where each value is a field of the document, the usual shape of a mapped chunk."""
    members = tuple(zip(keys, names, strict=True))

    def run(value: Json) -> Json:
        if value is None:
            return None
        made: dict[str, Json] = {}
        if not isinstance(value, dict):
            return dict.fromkeys(keys)
        get = value.get
        for key, name in members:
            made[key] = get(name)
        return made

    return run
