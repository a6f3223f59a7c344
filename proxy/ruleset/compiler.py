"""Typed documents of a rule pack to the plans that `proxy.translate` follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, get_args

from proxy.documents import Diagnostic, Document, suggestion
from proxy.errors import KINDS, GatewayError, Kind
from proxy.expr import FunctionRegistry
from proxy.framing import FRAMINGS, Framing
from proxy.ruleset.documents import (
    FromDoc,
    OperationDoc,
    RouteDoc,
    StepDoc,
    TestDoc,
    ToDoc,
)
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.translate.errors import error_answer, error_frame
from proxy.translate.mapping import RULE_FAILURES, OmitNull, Read, Value
from proxy.translate.plan import (
    Answer,
    Batch,
    Call,
    Check,
    ErrorEntry,
    ErrorTable,
    Operation,
    Route,
    Step,
    StreamSource,
    StreamTarget,
    UpstreamPlan,
)
from proxy.translate.quick import quick_step
from proxy.translate.routes import path_pattern
from proxy.types import Json

# What expressions may read, by where they stand.
MATCH = frozenset({"body", "query", "headers", "path", "listener"})
REQUEST = MATCH | {"gateway", "models", "now", "request_id", "steps", "worker"}
READ = REQUEST | {"chunk"}
COLLECTED = REQUEST | {"chunk", "text", "finish", "usage"}
CHUNK = COLLECTED | {"new_text"}
ANSWER = REQUEST | {"upstream", "answers"}
RESUME = REQUEST | {"request", "text", "tokens"}
ERROR = frozenset({"error", "text"})

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Pack(NamedTuple):
    """What the routes of one folder share. complete: nothing in it was unreadable, so its absence means something."""

    name: str
    trace: Read | None
    tables: dict[str, dict[str, Json]]
    sample: dict[str, Json]
    complete: bool = True


class Compiled(NamedTuple):
    """A route and the mistakes found in its file; the route is usable only where there are none."""

    route: Route
    mistakes: list[Diagnostic]


def compile_pack(
    document: Document, doc: PackDoc, functions: FunctionRegistry, *, complete: bool = True
) -> tuple[Pack, list[Diagnostic]]:
    """A pack's own file."""
    shop = Workshop(document, functions, certain_only=not complete)
    trace = shop.optional(doc.trace, ("trace",), MATCH)
    tables = {name: dict(table) for name, table in doc.tables.items()}
    return Pack(doc.pack, trace, tables, dict(doc.sample), complete), shop.mistakes


def compile_errors(
    document: Document, doc: ErrorsDoc, functions: FunctionRegistry, *, complete: bool = True
) -> tuple[ErrorTable, list[Diagnostic]]:
    """A dialect's error table, tried with every kind of error."""
    shop = Workshop(document, functions, certain_only=not complete)
    for kind in doc.kinds:
        if kind not in KINDS and kind != "default":
            shop.mistake(("kinds", kind), f"unknown error kind '{kind}'{suggestion(kind, KINDS)}", key=True)
    if "default" not in doc.kinds:
        shop.mistake(
            ("kinds",), "the error table has no default; an error of a kind that it does not name would have no answer"
        )
    entries = {kind: ErrorEntry(entry.status, entry.code) for kind, entry in doc.kinds.items()}
    table = ErrorTable(
        entries=entries,
        default=entries.get("default", ErrorEntry(500, None)),
        body=shop.value(doc.body, ("body",), ERROR),
        frame=None if doc.frame is None else shop.value(doc.frame, ("frame",), ERROR),
        stream_status=doc.stream_status,
    )
    if doc.frame is None and doc.stream_status is not None:
        shop.mistake(
            ("stream_status",), "stream_status is the status of a stream that begins with an error; there is no frame"
        )
    if not shop.mistakes:
        _try_errors(shop, table)
    return table, shop.mistakes


def _try_errors(shop: Workshop, table: ErrorTable) -> None:
    """An error table that fails while it tells of an error would leave the caller with nothing."""
    for kind in get_args(Kind):
        for name, code in ((None, None), ("messages", 1)):
            error = GatewayError(kind, "a message", field=name, upstream_code=code)
            try:
                error_answer(table, error)
            except RULE_FAILURES as problem:
                return shop.mistake(("body",), f"an error of the kind {kind} cannot be told: {problem}")
            try:
                error_frame(table, error, "")
            except RULE_FAILURES as problem:
                return shop.mistake(("frame",), f"an error of the kind {kind} cannot be told: {problem}")
    return None


def compile_route(
    document: Document,
    doc: RouteDoc,
    pack: Pack,
    errors: ErrorTable,
    functions: FunctionRegistry,
    base: Route | None = None,
    *,
    complete: bool = True,
) -> Compiled:
    """One rule file; `base` is the route that it is like. The sample worker of the pack goes along for the file's own
    tests. complete: whether `doc` has everything that the file says.
    """
    shop = Workshop(document, functions, tables=pack.tables, certain_only=not (complete and pack.complete))
    if base is not None:
        shop.steps |= {step.name for step in base.steps if isinstance(step, Step)}
    place = document.keys.get(("route",)) or document.places[()]
    methods = _methods(shop, doc)
    _check_path(shop, doc)
    worker = doc.worker
    stream = doc.stream
    route = Route(
        name=doc.route,
        pack=pack.name,
        place=f"{document.files.get(('route',), document.file)}:{place.line}",
        methods=methods,
        path=doc.match.path,
        headers=_header_tests(shop, doc.match.headers),
        condition=shop.optional(doc.match.when, ("match", "when"), MATCH),
        selection="none" if worker is None else worker.need,
        kind=None if worker is None else worker.kind,
        model=None if worker is None else shop.optional(worker.model, ("worker", "model"), MATCH | {"gateway"}),
        steps=_steps(shop, doc.steps),
        errors=errors,
        trace=pack.trace,
        upstream=_upstream(shop, doc),
        source=None if stream is None or stream.from_ is None else _source(shop, stream.from_),
        target=None if stream is None or stream.to is None else _target(shop, stream.to),
        answer=_answer(shop, doc, base),
        operation=_operation(shop, doc.operation),
        exclusive=worker is not None and worker.exclusive,
        errors_as_frame=_errors_as_frame(shop, doc, errors),
        needs_body=any(method != "GET" for method in methods),
        sample=pack.sample,
    )
    if base is not None:
        route = _sharing(route, base)
    if route.target is not None and route.source is None:
        shop.mistake(("stream", "to"), f"the route '{doc.like}' has no stream.from that could be written here")
    if route.target is not None and route.target.resumed and (route.upstream is None or route.upstream.resume is None):
        shop.mistake(("stream", "to", "resumed"), "this route has no request.resume, so no frame is a resumed one")
    if route.target is not None and route.source is not None and not shop.mistakes:
        route = replace(route, target=replace(route.target, step=quick_step(route.source, route.target)))
    for index, test in enumerate(doc.tests):
        _check_test(shop, route, test, index)
    return Compiled(route, shop.mistakes)


def _sharing(route: Route, base: Route) -> Route:
    """The route with everything that `like` takes from the other one."""
    return replace(
        route,
        selection=base.selection,
        kind=base.kind,
        model=base.model,
        steps=base.steps,
        upstream=base.upstream,
        source=base.source,
        exclusive=base.exclusive,
    )


def _operation(shop: Workshop, doc: OperationDoc | None) -> Operation | None:
    if doc is None:
        return None
    model = shop.read(doc.model, ("operation", "model"), REQUEST)
    return Operation(doc.does, model, shop.optional(doc.kind, ("operation", "kind"), REQUEST))


def _methods(shop: Workshop, doc: RouteDoc) -> tuple[str, ...]:
    given = doc.match.method
    methods = tuple(given if isinstance(given, list) else [given])
    for method in methods:
        if method not in _METHODS:
            shop.mistake(("match", "method"), f"unknown method '{method}'{suggestion(method, _METHODS)}")
    return methods


def _check_path(shop: Workshop, doc: RouteDoc) -> None:
    try:
        path_pattern(doc.match.path)
    except ValueError as error:
        shop.mistake(("match", "path"), str(error))


def _header_tests(shop: Workshop, headers: Mapping[str, str]) -> dict[str, Callable[[str], bool]]:
    """`name: text` wants that very value, `name: "*"` any value that is not empty; names are compared without case."""
    tests: dict[str, Callable[[str], bool]] = {}
    for name, wanted in headers.items():
        if not _HEADER_NAME.fullmatch(name):
            shop.mistake(("match", "headers", name), f"'{name}' is not a header name", key=True)
        tests[name.lower()] = bool if wanted == "*" else wanted.__eq__
    return tests


def _errors_as_frame(shop: Workshop, doc: RouteDoc, errors: ErrorTable) -> bool:
    if doc.errors == "frame" and errors.stream_status is None:
        shop.mistake(("errors",), "this route needs an error as a frame, and errors.yaml has no frame with a status")
    streams = doc.stream is not None and doc.stream.to is not None
    return doc.errors == "frame" or (streams and errors.stream_status is not None)


def _steps(shop: Workshop, steps: list[StepDoc]) -> tuple[Step | Check, ...]:
    result: list[Step | Check] = []
    for index, step in enumerate(steps):
        path = ("steps", index)
        if step.check is not None:
            result.append(
                Check(
                    condition=shop.read(step.check, (*path, "check"), REQUEST),
                    kind=step.error,
                    message=shop.message(str(step.message), (*path, "message"), REQUEST),
                    field=step.field,
                )
            )
            continue
        name = str(step.set)
        if name in shop.steps:
            shop.mistake((*path, "set"), f"a second step sets '{name}'")
        call = None
        if step.ask is not None:
            call = Call(
                path=step.ask.path,
                body=shop.value(step.ask.body, (*path, "ask", "body"), REQUEST),
                result=shop.read(step.ask.result, (*path, "ask", "result"), REQUEST | {"upstream"}),
            )
        value = None if step.value is None else shop.value(step.value, (*path, "value"), REQUEST, name)
        result.append(Step(name, value, call, shop.optional(step.when, (*path, "when"), REQUEST)))
        shop.steps.add(name)
    return tuple(result)


def _upstream(shop: Workshop, doc: RouteDoc) -> UpstreamPlan | None:
    request = doc.request
    if request is None:
        return None
    failure = request.failure
    roots = REQUEST | ({"batch"} if request.batch else frozenset())
    batch = None
    if request.batch is not None:
        batch = Batch(shop.read(request.batch.of, ("request", "batch", "of"), REQUEST), request.batch.size)
    if not request.path.startswith("/"):
        shop.mistake(("request", "path"), f"a path starts with '/', got '{request.path}'")
    return UpstreamPlan(
        method=request.method,
        path=request.path,
        headers=_headers(shop, request.headers, ("request", "headers"), roots),
        body=shop.value(request.body, ("request", "body"), roots),
        batch=batch,
        failure_code=None
        if failure is None
        else shop.read(failure.code, ("request", "failure", "code"), REQUEST | {"upstream"}),
        failure_message=None
        if failure is None
        else shop.optional(failure.message, ("request", "failure", "message"), REQUEST | {"upstream"}),
        resume=None
        if request.resume is None
        else {
            name: shop.value(spec, ("request", "resume", name), RESUME, name) for name, spec in request.resume.items()
        },
    )


def _headers(
    shop: Workshop, headers: Mapping[str, str], path: tuple[str, str], roots: frozenset[str]
) -> dict[str, Read]:
    for name in headers:
        if not _HEADER_NAME.fullmatch(name):
            shop.mistake((*path, name), f"'{name}' is not a header name", key=True)
    return {name: shop.read(source, (*path, name), roots) for name, source in headers.items()}


def _framing(shop: Workshop, name: str, path: tuple[str, ...]) -> Framing:
    if name not in FRAMINGS:
        shop.mistake(path, f"unknown framing '{name}'{suggestion(name, FRAMINGS)}")
        return FRAMINGS["json"]
    return FRAMINGS[name]


def _source(shop: Workshop, doc: FromDoc) -> StreamSource:
    path = ("stream", "from")
    read, inner = doc.read, ("stream", "from", "read")
    return StreamSource(
        framing=_framing(shop, doc.framing, (*path, "framing")),
        mode=doc.text,
        text=shop.read(read.text, (*inner, "text"), READ),
        finish=None if read.finish is None else _nullable(shop.value(read.finish, (*inner, "finish"), READ, "finish")),
        usage=None if read.usage is None else _nullable(shop.value(read.usage, (*inner, "usage"), READ, "usage")),
        error_code=shop.optional(read.error_code, (*inner, "error_code"), READ),
        error_message=shop.optional(read.error_message, (*inner, "error_message"), READ),
        stops=shop.optional(doc.stops, (*path, "stops"), REQUEST),
        prefix=shop.optional(doc.prefix, (*path, "prefix"), REQUEST),
        missing_finish=doc.missing_finish,
        echoed=shop.optional(doc.echoed, (*path, "echoed"), REQUEST | {"text"}),
    )


def _nullable(value: Value) -> Value:
    """For places where null and absence are the same, and which are read for every chunk."""
    return value.inner if isinstance(value, OmitNull) else value


def _target(shop: Workshop, doc: ToDoc) -> StreamTarget:
    return StreamTarget(
        framing=_framing(shop, doc.framing, ("stream", "to", "framing")),
        mode=doc.text,
        hold_back=doc.hold_back,
        chunk=shop.value(doc.chunk, ("stream", "to", "chunk"), CHUNK),
        last=None if doc.last is None else shop.value(doc.last, ("stream", "to", "last"), CHUNK),
        resumed=None if doc.resumed is None else shop.value(doc.resumed, ("stream", "to", "resumed"), CHUNK),
    )


def _answer(shop: Workshop, doc: RouteDoc, base: Route | None) -> Answer | None:
    if doc.answer is None:
        return None
    asked = (base.source if base else doc.stream), (base.upstream if base else doc.request)
    roots = COLLECTED if asked[0] is not None else ANSWER if asked[1] is not None else REQUEST
    checks = tuple(
        Check(
            condition=shop.read(entry.check, ("answer", "checks", index, "check"), roots),
            kind="upstream_protocol",
            message=shop.message(entry.message, ("answer", "checks", index, "message"), roots),
            field=None,
        )
        for index, entry in enumerate(doc.answer.checks)
    )
    return Answer(
        status=doc.answer.status,
        headers=_headers(shop, doc.answer.headers, ("answer", "headers"), roots),
        body=shop.value(doc.answer.body, ("answer", "body"), roots),
        checks=checks,
    )


def _check_test(shop: Workshop, route: Route, test: TestDoc, index: int) -> None:
    """What a test gives must be something that its route asks for, or the test would not test it."""
    path = ("tests", index, "given")
    questions = {step.name for step in route.steps if isinstance(step, Step) and step.call is not None}
    for name in test.given.asked:
        if name not in questions:
            shop.mistake((*path, "asked", name), f"no step '{name}' asks{suggestion(name, questions)}", key=True)
    if test.given.chunks is not None and route.source is None:
        shop.mistake(
            (*path, "chunks"), "this route reads no stream; what its worker says is given as answers", key=True
        )
    if test.given.received is not None and (route.upstream is None or route.upstream.resume is None):
        shop.mistake(
            (*path, "received"), "this route has no request.resume, with which a lost stream goes on", key=True
        )
    if test.given.answers is not None and (route.upstream is None or route.source is not None):
        shop.mistake((*path, "answers"), "this route takes no whole answer of a worker", key=True)
