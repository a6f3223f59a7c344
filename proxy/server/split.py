"""Where the requests for one model go: the sides of a split, and the mirror. Pure: randomness is an argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Protocol, TypeVar

from proxy.fleet.select import Draws, hash64
from proxy.server.admission import Wanted
from proxy.translate.mapping import RULE_FAILURES, Read, Scope
from proxy.translate.plan import Side


class Weighted(Protocol):
    """One of several, and how many of them all it gets."""

    @property
    def weight(self) -> float:
        """Not negative; the weights of all are not all nought."""


_Side = TypeVar("_Side", bound=Weighted)
_BITS = 53  # of a float between 0 and 1


def point(name: str, key: str | None, rng: Draws) -> float:
    """From 0 up to but not 1: by chance, or always the same for one key. name: what is split, so that one key does not
    fall on the same side everywhere, and not on a side because of the worker that it has.
    """
    if key is None:
        return rng.random()
    return (hash64(f"split {name}\0{key}") >> (64 - _BITS)) / (1 << _BITS)


def in_order(sides: Sequence[_Side], at: float) -> list[_Side]:
    """The side in which the point lies where all lie end to end, each as long as its weight; then the others, the
    heaviest first. As weight moves from one side to its neighbour only the points that it covered move.
    """
    ends = list(accumulate(side.weight for side in sides))
    aim = at * ends[-1]
    heaviest = sorted(range(len(sides)), key=lambda index: -sides[index].weight)
    chosen = next((index for index, end in enumerate(ends) if aim < end), heaviest[0])
    return [sides[chosen], *(sides[index] for index in heaviest if index != chosen)]


def directed(wanted: Wanted, side: Side, scope: Scope, resolve: Callable[[str], str]) -> Wanted:
    """What the request needs of the fleet where it goes to this side. resolve: to the fleet's own name of a model."""
    backends = wanted.backends
    if side.backend is not None:
        backends = frozenset({side.backend}).intersection(backends if backends is not None else {side.backend})
    model = _model(side.model, scope)
    return wanted._replace(model=wanted.model if model is None else resolve(model), backends=backends)


def _model(given: Read | None, scope: Scope) -> str | None:
    """The name that a rule gives; None, for the request's own, where it gives none for this request."""
    try:
        name = None if given is None else given(scope)
    except RULE_FAILURES:
        return None
    return name if isinstance(name, str) and name else None
