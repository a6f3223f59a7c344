"""How the client's stream of a route is written: each way of it, for each framing and each backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from proxy.framing import Framing
from proxy.ruleset.answer_documents import ToDoc
from proxy.ruleset.askings import compile_framing
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.mapping_documents import Spec
from proxy.translate.mapping import Value
from proxy.translate.plan import Asking, CallPlan, Route, StreamTarget
from proxy.translate.quick import quick_step

_TO = ("stream", "to")

Askings = Mapping[str, Mapping[str, tuple[Asking, ...]]]
"""How each operation is asked, by its name and that of the backend."""


def compile_target(shop: Workshop, doc: ToDoc, roots: frozenset[str]) -> StreamTarget:
    """`stream.to` in its first framing; its mappings may read `roots`."""

    def optional(name: str, spec: Spec | None, roots: frozenset[str] = roots) -> Value | None:
        return None if spec is None else shop.value(spec, (*_TO, name), roots)

    ended = roots | {"elapsed"}

    return StreamTarget(
        framing=compile_framing(shop, doc.framing, (*_TO, "framing")),
        mode=doc.text,
        hold_back=doc.hold_back,
        chunk=shop.value(doc.chunk, (*_TO, "chunk"), roots),
        last=optional("last", doc.last, ended),
        first=optional("first", doc.first),
        final=optional("final", doc.final, ended),
        resumed=optional("resumed", doc.resumed),
        usual=None if shop.mistakes else _without_thought(shop).value(doc.chunk, (*_TO, "chunk"), roots),
    )


def _without_thought(shop: Workshop) -> Workshop:
    """For mappings of frames before any thought; their mistakes are told already."""
    return replace(shop, absent=frozenset({"reasoning", "new_reasoning"}), mistakes=[], copies=dict(shop.copies))


def written_route(shop: Workshop, route: Route, doc: RouteDoc, askings: Askings) -> Route:
    """The route with everything that follows from how it is asked and how its stream is written."""
    further = _further_framings(shop, doc)
    written = _written(shop, route, askings)
    _check_stream(shop, written, doc)
    if shop.mistakes or route.target is None:
        return written
    targets = [replace(route.target, framing=framing) for framing in further]
    return replace(written, also=tuple(_written(shop, replace(route, target=target), askings) for target in targets))


def _further_framings(shop: Workshop, doc: RouteDoc) -> list[Framing]:
    to = doc.stream.to if doc.stream is not None else None
    found: list[Framing] = []
    for index, name in enumerate([] if to is None else to.also):
        path = (*_TO, "also", index)
        if to is not None and name in {to.framing, *to.also[:index]}:
            shop.mistake(path, f"the framing {name} is named twice")
        found.append(compile_framing(shop, name, path))
    return found


def _check_stream(shop: Workshop, route: Route, doc: RouteDoc) -> None:
    target = route.target
    if target is None:
        return
    if route.source is None and route.call is None:
        shop.mistake(_TO, f"the route '{doc.like}' has no stream.from that could be written here")
    if target.resumed is None:
        return
    if route.call is not None:
        shop.mistake((*_TO, "resumed"), "a route with a call sees no frame of the worker to change")
    elif route.upstream is None or route.upstream.resume is None:
        shop.mistake((*_TO, "resumed"), "this route has no request.resume, so no frame is a resumed one")


def _written(shop: Workshop, route: Route, askings: Askings) -> Route:
    if route.call is not None:
        return _varied(shop, route, route.call, askings)
    if route.target is None or route.source is None or shop.mistakes:
        return route
    return replace(route, target=replace(route.target, step=quick_step(route.source, route.target)))


def _varied(shop: Workshop, route: Route, call: CallPlan, askings: Askings) -> Route:
    """The route written for each backend; it is itself its variant for the pack's own."""
    variants: dict[str, tuple[Route, ...]] = {}
    for backend, ways in askings.get(call.operation, {}).items():
        fitting = [way for way in ways if route.target is None or way.source is not None]
        if fitting:
            variants[backend] = tuple(_variant(route, way, usable=not shop.mistakes) for way in fitting)
    own = variants.get(route.backend or "")
    if own is None:
        wanted = "the pack names no backend" if route.backend is None else f"the backend '{route.backend}' has none"
        known = ", ".join(sorted(variants)) or "none"
        shop.mistake(
            ("call", "operation"),
            f"nobody says how to ask for {call.operation}: {wanted}; backends that have it: {known}",
        )
        return route
    return replace(own[0], variants=variants)


def _variant(route: Route, way: Asking, *, usable: bool) -> Route:
    target = route.target
    if target is not None and way.source is not None and usable:
        target = replace(target, step=quick_step(way.source, target, apart=True))
    is_own = way.backend == route.backend
    sample = {**way.sample, **route.sample} if is_own else {**route.sample, **way.sample}
    return replace(
        route,
        upstream=way.upstream,
        source=way.source,
        target=target,
        exclusive=way.exclusive,
        asking=way,
        sample={**sample, "backend": way.backend},
    )
