"""How a route's requests are split among workers and copied to others: documents to plans."""

from __future__ import annotations

from proxy.documents import suggestion
from proxy.documents.yaml import Path
from proxy.ruleset.documents import WorkerDoc
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.spread_documents import MirrorDoc, SideDoc, SomewhereDoc
from proxy.translate.plan import Route, Side, Spread

_WORKER: Path = ("worker",)


def compile_spread(shop: Workshop, doc: WorkerDoc, roots: frozenset[str]) -> Spread:
    """What `worker` says of it."""
    sides = tuple(_side(shop, side, (*_WORKER, "split", index), roots) for index, side in enumerate(doc.split or []))
    mirror = None if doc.mirror is None else _side(shop, doc.mirror, (*_WORKER, "mirror"), roots)
    return Spread(sides, mirror)


def check_spread(shop: Workshop, route: Route, doc: WorkerDoc | None) -> None:
    """Note what cannot be meant: a backend that the route cannot ask, and a copy for where the request is already."""
    if doc is None:
        return
    for index, side in enumerate(doc.split or []):
        _check_backend(shop, route, side, (*_WORKER, "split", index))
    if doc.mirror is None:
        return
    path = (*_WORKER, "mirror")
    _check_backend(shop, route, doc.mirror, path)
    only = route.backends is not None and {doc.mirror.backend} == set(route.backends)
    if only and doc.mirror.model is None and not doc.split:
        shop.mistake(path, f"the mirror is what it mirrors: '{doc.mirror.backend}' is the only backend of this route")
    mirror, weighty = doc.mirror, [side for side in doc.split or [] if side.weight]
    if weighty and all((side.backend, side.model) == (mirror.backend, mirror.model) for side in weighty):
        shop.mistake(path, "the mirror is what it mirrors: the only side of the split that has weight")
    ways = [way for name, ways in route.variants.items() if doc.mirror.backend in (None, name) for way in ways]
    if route.is_light or all(way.exclusive for way in ways or [route]):
        shop.mistake(path, "a mirror never waits, and never makes others wait: it cannot have calls that take turns")


def _side(shop: Workshop, doc: SideDoc | MirrorDoc, path: Path, roots: frozenset[str]) -> Side:
    weight = doc.weight if isinstance(doc, SideDoc) else doc.share
    return Side(weight, doc.backend, shop.optional(doc.model, (*path, "model"), roots))


def _check_backend(shop: Workshop, route: Route, doc: SomewhereDoc, path: Path) -> None:
    if doc.backend is None or route.backends is None or doc.backend in route.backends:
        return
    known = suggestion(doc.backend, sorted(route.backends))
    shop.mistake((*path, "backend"), f"no backend '{doc.backend}' that this route can ask{known}")
