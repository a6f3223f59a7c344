"""How a route's requests are split among workers and copied to others: documents to plans."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.documents import Diagnostic, Document, suggestion
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


def spread_mistakes(document: Document, doc: WorkerDoc | None, route: Route) -> Iterator[Diagnostic]:
    """What cannot be meant: a backend that the route cannot ask, and a copy for where the request is already. route: as
    it is once the one beside it is known.
    """
    if doc is None:
        return
    places: list[tuple[Path, SomewhereDoc]] = [(("split", index), side) for index, side in enumerate(doc.split or [])]
    if doc.mirror is not None:
        places.append((("mirror",), doc.mirror))
    for place, where in places:
        if where.backend is not None and route.backends is not None and where.backend not in route.backends:
            known = suggestion(where.backend, sorted(route.backends))
            message = f"no backend '{where.backend}' that this route can ask{known}"
            yield document.at((*_WORKER, *place, "backend"), message)
    if doc.mirror is not None:
        for message in _mirror_problems(doc.mirror, doc.split or [], route):
            yield document.at((*_WORKER, "mirror"), message)


def _mirror_problems(mirror: MirrorDoc, split: list[SideDoc], route: Route) -> Iterator[str]:
    weighty = {(side.backend, side.model) for side in split if side.weight}
    if weighty == {(mirror.backend, mirror.model)}:
        yield "the mirror is what it mirrors: the only side of the split that has weight"
    if not split and mirror.model is None and set(route.backends or ()) == {mirror.backend}:
        yield f"the mirror is what it mirrors: '{mirror.backend}' is the only backend of this route"
    variants = {**route.variants, **(route.others.variants if route.others is not None else {})}
    ways = [way for name, ways in variants.items() if mirror.backend in (None, name) for way in ways]
    if route.is_light or all(way.exclusive for way in ways or [route]):
        yield "a mirror never waits, and never makes others wait: it cannot have calls that take turns"


def _side(shop: Workshop, doc: SideDoc | MirrorDoc, path: Path, roots: frozenset[str]) -> Side:
    weight = doc.weight if isinstance(doc, SideDoc) else doc.share
    return Side(weight, doc.backend, shop.optional(doc.model, (*path, "model"), roots))
