"""Which fields of a request or an answer a rule names, so that those which go nowhere can be counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, NamedTuple

from proxy.limits import FIELD_ELEMENTS_MAX
from proxy.types import Json

_NOTHING: frozenset[str] = frozenset()


class Named(NamedTuple):
    """The fields of an object that a rule reads.

    inner: for a field of which the rule reads only what is below, the names there: of the object that the field is, or
    of each object in the array that it is. accepted: fields that go nowhere and of which the pack says why, those one
    level below as `outer.inner`.
    """

    fields: frozenset[str]
    inner: Mapping[str, frozenset[str]]
    accepted: frozenset[str] = _NOTHING

    def dropped(self, value: Json) -> Iterable[str]:
        """The names in an object that the rule does not read; null says nothing, so that nothing is lost with it."""
        if not isinstance(value, dict):
            return ()
        found: list[str] = []
        if not value.keys() <= self.fields:
            found += [name for name in value.keys() - self.fields if value[name] is not None]
        for name, known in self.inner.items():
            inside = value.get(name)
            if inside:
                found += [f"{name}.{each}" for each in _unknown(inside, known)]
        return found


class NamedFields(NamedTuple):
    """What a rule reads of the client's body, of the arguments of a call, of the worker's frames or whole answers, and
    of the results of a call. None: it is read as a whole, or there is none on this side.
    """

    request: Named | None = None
    call: Named | None = None
    answer: Named | None = None
    result: Named | None = None


NOTHING_NAMED: Final = NamedFields()


def _unknown(inside: Json, known: frozenset[str]) -> set[str]:
    elements = islice(inside, FIELD_ELEMENTS_MAX) if isinstance(inside, list) else (inside,)
    found: set[str] = set()
    for element in elements:
        if isinstance(element, dict) and not element.keys() <= known:
            found.update(name for name in element.keys() - known if element[name] is not None)
    return found
