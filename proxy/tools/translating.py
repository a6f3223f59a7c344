"""`translate`: a recorded body or stream through a route, without a network."""

from __future__ import annotations

from typing import Literal, NamedTuple

from proxy.errors import GatewayError
from proxy.ruleset.loader import RuleSet
from proxy.ruleset.playing import (
    frames_of,
    play_collected,
    play_stream,
    run_parts,
    run_request,
    sample_scope,
    variant_for,
)
from proxy.translate.answer import client_answer, client_results, refuse_failure
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.plan import Route
from proxy.translate.request import Built, chosen_variant, whole_result
from proxy.translate.stream import translator_of
from proxy.types import Json, JsonObject

Direction = Literal["request", "stream", "answer"]


class Translated(NamedTuple):
    """What comes out. result: the body for the worker (a list of them for a batch, and where the call is made for each
    element of an array), the client's frames, or its answer;
    raw: a stream as it goes over the wire; error: why there is no more; notes: what was repaired in the text.
    """

    result: Json
    error: GatewayError | None = None
    status: int | None = None
    headers: dict[str, str] | None = None
    raw: bytes = b""
    notes: tuple[str, ...] = ()


def find_route(rules: RuleSet, name: str, backend: str | None = None) -> Route:
    """The route `name` or `pack/name`, as it is for workers of a backend (None: of its pack's own). ValueError for one
    that is not there, that several packs have, or that asks no such worker.
    """
    sources = [source for pack in rules.sources for source in pack.routes]
    found = [each for each in sources if name in {each.route.name, f"{each.route.pack}/{each.route.name}"}]
    if not found:
        known = ", ".join(sorted(each.route.name for each in sources))
        raise ValueError(f"there is no route '{name}'; known: {known}")
    if len(found) > 1:
        names = " or ".join(f"{each.route.pack}/{each.route.name}" for each in found)
        raise ValueError(f"several packs have a route '{name}'; write {names}")
    return variant_for(found[0].route, backend)


def request_of_tests(rules: RuleSet, route: Route) -> Json:
    """The request of the route's first test in which a worker answers; None where it has no such test."""
    tests = (
        test.given
        for pack in rules.sources
        for source in pack.routes
        if (source.route.pack, source.route.name) == (route.pack, route.name)
        for test in source.doc.tests
    )
    return next((given.request for given in tests if given.chunks is not None or given.answers is not None), None)


def scope_for(route: Route, body: Json, worker: JsonObject) -> Scope:
    """What the route's expressions see of a request to the pack's sample worker."""
    return {**sample_scope(route, body, worker), "steps": {}}


def translate_request(route: Route, body: Json, worker: JsonObject) -> Translated:
    """A client's body to the worker's; questions of steps stay unanswered."""
    if route.upstream is None:
        raise ValueError(f"the route '{route.name}' sends nothing to a worker")
    try:
        parts = run_parts(route, scope_for(route, body, worker), lambda _: None)
    except GatewayError as error:
        return Translated(None, error)
    plan = parts[0].built.route.upstream
    bodies = [body for part in parts for body in part.built.bodies]
    several = (plan is not None and plan.batch is not None) or (route.call is not None and route.call.each is not None)
    return Translated(bodies if several else bodies[0])


def translate_stream(route: Route, wire: bytes, request: Json, worker: JsonObject, *, cut: bool) -> Translated:
    """A worker's stream to what its client gets: frames, or the one answer that they are collected into.

    request: the client's, on which steps depend; None: no step has a value. cut: the connection broke off at the end.
    """
    try:
        scope, built = _built(route, request, worker)
        if built.route.source is None:
            message = "reads no stream; its worker's answer goes with --direction answer"
            raise ValueError(f"the route '{route.name}' {message}")
        if route.target is None:
            answer, notes = play_collected(built, scope, [wire], cut=cut)
            return Translated(answer.body, None, answer.status, answer.headers, notes=notes)
        translator = translator_of(built, scope)
        raw = play_stream(translator, built.route.source, [wire], cut=cut)
    except GatewayError as error:
        return Translated(None, error)
    frames = frames_of(route.target.framing, raw)
    return Translated(frames, translator.error, raw=raw, notes=tuple(translator.reader.notes))


def _built(route: Route, request: Json, worker: JsonObject) -> tuple[Scope, Built]:
    """The client's scope and what was made of its request; without a request no step has a value."""
    scope = scope_for(route, {} if request is None else request, worker)
    if request is not None:
        return scope, run_request(route, scope, lambda _: None)
    if route.call is None:
        return scope, Built(route, scope, [])
    variant, inner = chosen_variant(route, scope, {})
    return scope, Built(variant, inner, [])


def translate_answer(route: Route, answer: Json, request: Json, worker: JsonObject) -> Translated:
    """A worker's whole answer (a list of them for a batch) to the client's."""
    try:
        scope, built = _built(route, request, worker)
        plan = built.route.upstream
        if plan is None or built.route.source is not None or route.answer is None:
            what = "reads a stream; give --direction stream" if built.route.source is not None else "asks no worker"
            raise ValueError(f"the route '{route.name}' {what}")
        answers = answer if plan.batch is not None and isinstance(answer, list) else [answer]
        for each in answers:
            refuse_failure(plan, built.scope, each)
        made = client_answer(route, {**scope, **client_results(route, scope, [whole_result(built, answers)])})
    except GatewayError as error:
        return Translated(None, error)
    except RULE_FAILURES as problem:
        return Translated(None, GatewayError("upstream_protocol", str(problem)))
    return Translated(made.body, None, made.status, made.headers)


def translated_json(route: Route, direction: Direction, found: Translated) -> Json:
    """For programs."""
    error = found.error
    return {
        "pack": route.pack,
        "route": route.name,
        "direction": direction,
        "result": found.result,
        "status": found.status,
        "headers": None if found.headers is None else dict(found.headers),
        "error": None
        if error is None
        else {"kind": error.kind, "message": error.message, "field": error.field, "upstream_code": error.upstream_code},
        "notes": list(found.notes),
    }
