"""What becomes of a request in the route that takes it: steps, the call, what goes to the worker; each value with the
line of the rule that makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from proxy.documents import Document
from proxy.documents.yaml import Path
from proxy.errors import GatewayError
from proxy.ruleset.backends import AskingSource, BackendSource
from proxy.ruleset.documents import StepDoc
from proxy.ruleset.loader import RouteSource
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.playing import run_request
from proxy.ruleset.walking import reads_of
from proxy.translate.errors import error_answer
from proxy.translate.mapping import RULE_FAILURES, Scope, truthy
from proxy.translate.plan import ErrorTable, Route
from proxy.translate.request import Question, chosen_variant
from proxy.translate.steps import Check, Step
from proxy.types import Json


class Line(NamedTuple):
    """One value and the rule that makes it. present: False where the value is left out; place: `file:line`."""

    path: str
    value: Json
    present: bool
    rule: str
    place: str


class Refusal(NamedTuple):
    """Why the request goes no further, what the client is told, and the line of the rule that says so."""

    kind: str
    message: str
    field: str | None
    status: int
    body: Json
    place: str | None


class Called(NamedTuple):
    """What is asked of the worker, and how its backend puts it. way: None where it has none that fits; not_taken: the
    arguments that the way does not read. elements: how often it is asked, where the call is made for each element of an
    array; what is told is the first.
    """

    operation: str
    arguments: tuple[Line, ...]
    backend: str
    way: AskingSource | None
    steps: tuple[Line, ...]
    not_taken: tuple[str, ...]
    elements: int = 1


class Followed(NamedTuple):
    """As far as the request goes. questions: to the worker, which stay unanswered; bodies: for each request to the
    worker its fields; unread: fields of the client's body that no rule reads.
    """

    model: Json = None
    steps: tuple[Line, ...] = ()
    call: Called | None = None
    questions: tuple[Question, ...] = ()
    method: str = ""
    path: str = ""
    bodies: tuple[tuple[Line, ...], ...] = ()
    refused: Refusal | None = None
    unread: tuple[str, ...] = ()


def follow(route: Route, source: RouteSource, backends: Mapping[str, BackendSource], scope: Scope) -> Followed:
    """Run the route on a request. route: the variant for the worker in `scope`, of the rule at `source`."""
    questions: list[Question] = []
    bodies: list[Json] = []
    refused = None
    model: Json = None
    plan, elements = route.upstream, 1
    try:
        if route.needs_body and not isinstance(scope.get("body"), dict):
            raise GatewayError("bad_body", "the body is not a JSON object")
        model = route.model(scope) if route.model is not None else None
        if route.selection != "none" and not model:
            raise GatewayError("model_missing", "the request names no model")
        built = run_request(route, scope, questions.append)
        bodies, plan, elements = built.bodies, built.route.upstream, built.elements
    except GatewayError as error:
        way = _way(route, backends, scope)
        place = _refusing_place(source.asking, way, scope, error)
        refused = refusal(route.errors, error, place, as_frame=route.errors_as_frame)
    way = _way(route, backends, scope)
    asking = source.asking
    call = _called(route, asking, way, scope)
    return Followed(
        model=model,
        steps=tuple(_step_lines(asking.document, asking.doc.steps, scope)),
        call=call and call._replace(elements=elements),
        questions=tuple(questions),
        method="" if plan is None else plan.method,
        path="" if plan is None else plan.path,
        bodies=tuple(tuple(_body_lines(way or asking, body)) for body in bodies),
        refused=refused,
        unread=tuple(unread_fields(source, scope.get("body"))),
    )


def refusal(table: ErrorTable, error: GatewayError, place: str | None, *, as_frame: bool = False) -> Refusal:
    """The error as the client is told it."""
    answer = error_answer(table, error, as_frame=as_frame)
    return Refusal(error.kind, error.message, error.field, answer.status, answer.body, place)


def _way(route: Route, backends: Mapping[str, BackendSource], scope: Scope) -> AskingSource | None:
    """How the worker's backend is asked, once it is known; None for a route without a call."""
    if "asked" not in scope:
        return None
    asking = chosen_variant(route, scope, scope["call"])[0].asking
    known = [source for backend in backends.values() for source in backend.operations]
    return next((source for source in known if source.asking is asking), None)


def _called(route: Route, source: RouteSource, way: AskingSource | None, scope: Scope) -> Called | None:
    call = source.doc.call
    if call is None or "call" not in scope:
        return None
    arguments = scope["call"]
    given = arguments if isinstance(arguments, dict) else {}
    lines = [
        Line(name, given.get(name), name in given, rule_text(spec), source.place(("call", "with", name)))
        for name, spec in call.with_.items()
    ]
    worker = scope.get("worker")
    backend = worker.get("backend") if isinstance(worker, dict) else None
    inner = scope.get("asked")
    steps = [] if way is None else _step_lines(way.document, way.doc.steps, inner if isinstance(inner, dict) else {})
    read = None if way is None else call_reads(way)
    return Called(
        operation=call.operation,
        arguments=tuple(lines),
        backend=str(backend or route.backend),
        way=way,
        steps=tuple(steps),
        not_taken=() if read is None else tuple(name for name in given if name not in read),
    )


def call_reads(way: AskingSource) -> frozenset[str] | None:
    """The arguments of the call that a way of asking reads; None where it reads the call as a whole."""
    paths = reads_of([way.doc])
    if paths & {(), ("call",)}:
        return None
    return frozenset(path[1] for path in paths if path[0] == "call")


def _refusing_place(source: RouteSource, way: AskingSource | None, scope: Scope, error: GatewayError) -> str | None:
    """The first check that does not hold, or the step after the last one that was done, or the mapping after them, of
    the half in which the request was refused.
    """
    if "steps" not in scope:
        return source.place(("worker", "model")) if error.kind == "model_missing" else None
    inner = scope.get("asked")
    if way is not None and isinstance(inner, dict):
        return _place(way.document, _open_step(way.asking.steps, inner) or _field(way.doc.request.body, error))
    path = _open_step(source.route.steps, scope)
    call = source.doc.call
    if path is None and call is not None:
        named = [name for name, spec in call.with_.items() if error.field in {name, (spec.from_ or "")[5:]}]
        path = ("call", "with", *named[:1]) if "call" not in scope else ("call", "operation")
    elif path is None and source.doc.request is not None:
        path = _field(source.doc.request.body, error)
    return _place(source.document, path or ("route",))


def _open_step(steps: Sequence[Step | Check], scope: Scope) -> Path | None:
    """The step or check at which it ended; None where all were done."""
    done = scope.get("steps")
    names = done if isinstance(done, dict) else {}
    for index, step in enumerate(steps):
        if isinstance(step, Check):
            try:
                if truthy(step.condition(scope)):
                    continue
            except RULE_FAILURES:
                pass
            return ("steps", index)
        if step.name not in names:
            return ("steps", index)
    return None


def _field(body: SpecDoc, error: GatewayError) -> Path:
    """The field of the request's mapping that the error names, or the mapping."""
    named = ("fields", error.field) if error.field is not None and error.field in (body.fields or {}) else ()
    return ("request", "body", *named)


def _step_lines(document: Document, steps: Iterable[StepDoc], scope: Scope) -> Iterator[Line]:
    values = scope.get("steps")
    for index, step in enumerate(steps):
        if step.set is not None and isinstance(values, dict) and step.set in values:
            asked = step.ask and (step.ask.path or step.ask.operation)
            rule = f"asked: {asked}" if asked else rule_text(step.value)
            yield Line(step.set, values[step.set], present=True, rule=rule, place=_place(document, ("steps", index)))


def _body_lines(source: RouteSource | AskingSource, body: Json) -> Iterator[Line]:
    if source.doc.request is not None:
        yield from _lines(source.document, source.doc.request.body, body, ("request", "body"), "")


def _lines(document: Document, spec: SpecDoc, value: Json, path: Path, name: str) -> Iterator[Line]:
    place = _place(document, path)
    if spec.fields is not None and spec.each is None and isinstance(value, dict):
        for key, child in spec.fields.items():
            inner = (*path, "fields", key)
            label = f"{name}.{key}" if name else key
            if key in value:
                yield from _lines(document, child, value[key], inner, label)
            else:
                yield Line(label, None, present=False, rule=rule_text(child), place=_place(document, inner))
    elif name == "" and isinstance(value, dict):
        for key, child_value in value.items():
            yield Line(key, child_value, present=True, rule=rule_text(spec), place=place)
    else:
        yield Line(name or "(body)", value, present=True, rule=rule_text(spec), place=place)


def rule_text(spec: SpecDoc | None) -> str:
    """A mapping in a few words."""
    if spec is None:
        return ""
    if spec.from_ is not None:
        text = spec.from_
    elif "value" in spec.model_fields_set:
        text = "constant"
    else:
        text = "object" if spec.fields is not None else "array"
    return f"each {spec.each}" if spec.each is not None else text


def _place(document: Document, path: Path) -> str:
    found = document.at(path, "", key=True)
    return f"{found.file}:{found.line}"


def unread_fields(source: RouteSource, body: Json) -> Iterator[str]:
    """The top-level fields of a body that nothing in the route reads."""
    reads = body_reads(source)
    if isinstance(body, dict) and reads is not None:
        yield from (name for name in body if name not in reads)


def body_reads(source: RouteSource) -> frozenset[str] | None:
    """The top-level fields of the client's body that the route reads; None where it reads the body as a whole."""
    docs = [
        source.doc,
        *(each.doc for each in (source.base, source.beside, source.beside and source.beside.base) if each),
    ]
    paths = reads_of(docs)
    if paths & {(), ("body",)}:
        return None
    return frozenset(path[1] for path in paths if path[0] == "body")
