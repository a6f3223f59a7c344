"""Typed documents of a rule pack to the plans that `proxy.translate` follows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, get_args

from proxy.documents import Diagnostic, Document, suggestion
from proxy.errors import KINDS, GatewayError, Kind
from proxy.expr import FunctionRegistry
from proxy.ruleset.askings import (
    compile_arguments,
    compile_checks,
    compile_headers,
    compile_request,
    compile_source,
    compile_steps,
    is_header_name,
)
from proxy.ruleset.documents import OperationDoc, RouteDoc, WorkerDoc
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.spreading import compile_spread
from proxy.ruleset.writing import Askings, compile_target, written_route
from proxy.translate.errors import error_answer, error_frame
from proxy.translate.mapping import RULE_FAILURES, Read
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import (
    Answer,
    CallPlan,
    ErrorEntry,
    ErrorTable,
    Operation,
    Route,
)
from proxy.translate.routes import HIDDEN_HEADERS, path_pattern
from proxy.translate.steps import Step
from proxy.types import Json

# What expressions may read, by where they stand.
MATCH = frozenset({"body", "query", "headers", "path", "listener"})
REQUEST = MATCH | {"gateway", "models", "now", "request_id", "steps", "worker"}
COLLECTED = REQUEST | {"chunk", "text", "reasoning", "finish", "usage"}
CHUNK = COLLECTED | {"new_text", "new_reasoning"}
ELEMENT = frozenset({"item", "index"})
ANSWER = REQUEST | {"upstream", "answers"}
ERROR = frozenset({"error", "text"})

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


class Pack(NamedTuple):
    """What the routes of one folder share. complete: nothing in it was unreadable, so its absence means something."""

    name: str
    trace: Read | None
    tables: dict[str, dict[str, Json]]
    sample: dict[str, Json]
    complete: bool = True
    backend: str | None = None
    keys: bool = False


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
    return Pack(doc.pack, trace, tables, dict(doc.sample), complete, doc.backend, doc.keys is not None), shop.mistakes


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
    askings: Askings | None = None,
    *,
    beside: Route | None = None,
    complete: bool = True,
) -> Compiled:
    """One rule file; `base` is the route that it is like, `beside` the one whose requests it shares. The sample worker
    of the pack goes along for the file's own tests. complete: whether `doc` has everything that the file says.
    """
    askings = askings or {}
    shop = Workshop(document, functions, tables=pack.tables, certain_only=not (complete and pack.complete))
    if base is not None:
        shop.steps |= {step.name for step in base.steps if isinstance(step, Step)}
    place = document.keys.get(("route",)) or document.places[()]
    methods = _methods(shop, doc)
    _check_path(shop, doc)
    stream = doc.stream
    steps = compile_steps(shop, doc.steps, REQUEST)
    call = _call(shop, doc, base)
    route = Route(
        name=doc.route,
        pack=pack.name,
        place=f"{document.files.get(('route',), document.file)}:{place.line}",
        methods=methods,
        path=doc.match.path,
        headers=_header_tests(shop, doc.match.headers),
        condition=shop.optional(doc.match.when, ("match", "when"), MATCH),
        selection="none",
        kind=None,
        model=None,
        steps=steps,
        call=call,
        errors=errors,
        trace=pack.trace,
        upstream=None if doc.request is None else compile_request(shop, doc.request, REQUEST),
        source=None if stream is None or stream.from_ is None else compile_source(shop, stream.from_, REQUEST),
        target=None if stream is None or stream.to is None else compile_target(shop, stream.to, _shown(call)),
        answer=_answer(shop, doc, base, call),
        operation=_operation(shop, doc.operation),
        errors_as_frame=_errors_as_frame(shop, doc, errors),
        needs_body=any(method != "GET" for method in methods),
        takes_no_body=doc.match.body == "optional",
        sample=pack.sample if pack.backend is None else {**pack.sample, "backend": pack.backend},
        needs_key=pack.keys,
        backend=pack.backend,
        questions=askings,
    )
    route = _with_worker(shop, route, doc.worker) if base is None else _sharing(route, base)
    if beside is not None:
        route = _requests_of(route, beside)
    route = written_route(shop, route, doc, askings)
    for index, test in enumerate(doc.tests):
        _check_test(shop, route, test, index)
    return Compiled(route, shop.mistakes)


def _with_worker(shop: Workshop, route: Route, doc: WorkerDoc | None) -> Route:
    """The route with what it needs of the fleet."""
    if doc is None:
        return route
    roots = MATCH | {"gateway"}
    model, spread = shop.optional(doc.model, ("worker", "model"), roots), compile_spread(shop, doc, roots)
    return replace(route, selection=doc.need, kind=doc.kind, model=model, exclusive=doc.exclusive, spread=spread)


def _requests_of(route: Route, other: Route) -> Route:
    """The route with the requests of the other one, and what those need of the fleet."""
    return replace(
        route,
        methods=other.methods,
        path=other.path,
        headers=other.headers,
        condition=other.condition,
        selection=other.selection,
        kind=other.kind,
        model=other.model,
        needs_body=other.needs_body,
        takes_no_body=other.takes_no_body,
        errors_as_frame=other.errors_as_frame,
    )


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
        spread=base.spread,
    )


def _call(shop: Workshop, doc: RouteDoc, base: Route | None) -> CallPlan | None:
    if base is not None or doc.call is None:
        return None if base is None else base.call
    call = doc.call
    roots = REQUEST if call.each is None else REQUEST | ELEMENT
    arguments = compile_arguments(shop, call.operation, call.with_, ("call", "with"), roots)
    return CallPlan(call.operation, arguments, shop.optional(call.each, ("call", "each"), REQUEST))


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
        if not is_header_name(name):
            shop.mistake(("match", "headers", name), f"'{name}' is not a header name", key=True)
        if name.lower() in HIDDEN_HEADERS:
            text = f"'{name}' holds a secret and is hidden from rules; pack.yaml can ask for a key (keys)"
            shop.mistake(("match", "headers", name), text, key=True)
        tests[name.lower()] = bool if wanted == "*" else wanted.__eq__
    return tests


def _errors_as_frame(shop: Workshop, doc: RouteDoc, errors: ErrorTable) -> bool:
    if doc.errors == "frame" and errors.stream_status is None:
        shop.mistake(("errors",), "this route needs an error as a frame, and errors.yaml has no frame with a status")
    streams = doc.stream is not None and doc.stream.to is not None
    return doc.errors == "frame" or (streams and errors.stream_status is not None)


def _shown(call: CallPlan | None) -> frozenset[str]:
    """What a frame's mapping may read. call: None where the route reads the worker's frames itself."""
    if call is None:
        return CHUNK
    results = REQUEST | OPERATIONS[call.operation].results.keys() | {"new_text", "new_reasoning"}
    return results if call.each is None else results | ELEMENT


def _answer(shop: Workshop, doc: RouteDoc, base: Route | None, call: CallPlan | None) -> Answer | None:
    if doc.answer is None:
        return None
    asked = (base.source if base else doc.stream), (base.upstream if base else doc.request)
    roots = COLLECTED if asked[0] is not None else ANSWER if asked[1] is not None else REQUEST
    if call is not None:
        roots = REQUEST | (OPERATIONS[call.operation].results.keys() if call.each is None else {"results", "usage"})
    if roots is not REQUEST:
        roots = roots | {"elapsed"}
    return Answer(
        status=doc.answer.status,
        headers=compile_headers(shop, doc.answer.headers, ("answer", "headers"), roots),
        body=shop.value(doc.answer.body, ("answer", "body"), roots),
        checks=compile_checks(shop, doc.answer.checks, ("answer", "checks"), roots),
    )


def _check_parts(shop: Workshop, test: TestDoc, path: tuple[str | int, ...]) -> None:
    for name, said in (("chunks", test.given.chunks), ("answers", test.given.answers)):
        if any(not isinstance(each, list) for each in said or []):
            text = f"the call is made for each element, so {name} has a list for each of them"
            shop.mistake((*path, name), text, key=True)


def _check_test(shop: Workshop, route: Route, test: TestDoc, index: int) -> None:
    """What a test gives must be something that its route asks for, or the test would not test it."""
    path = ("tests", index, "given")
    backend = test.given.backend
    ways: tuple[Route, ...] = (route,)
    if backend is not None and route.call is not None:
        if backend not in route.variants:
            hint = suggestion(backend, route.variants)
            return shop.mistake((*path, "backend"), f"no backend '{backend}' has this operation{hint}")
        ways = route.variants[backend]
    elif route.call is not None:
        ways = route.variants.get(route.backend or "", (route,))
    steps = [*route.steps, *(step for way in ways if way.asking is not None for step in way.asking.steps)]
    questions = {step.name for step in steps if isinstance(step, Step) and step.call is not None}
    for name in test.given.asked:
        if name not in questions:
            shop.mistake((*path, "asked", name), f"no step '{name}' asks{suggestion(name, questions)}", key=True)
    if test.given.chunks is not None and all(way.source is None for way in ways):
        shop.mistake(
            (*path, "chunks"), "this route reads no stream; what its worker says is given as answers", key=True
        )
    several = route.call is not None and route.call.each is not None
    if test.given.received is not None and several:
        shop.mistake((*path, "received"), "a call that is made for each element is tested without losses", key=True)
    elif test.given.received is not None and all(way.upstream is None or way.upstream.resume is None for way in ways):
        shop.mistake(
            (*path, "received"), "this route has no request.resume, with which a lost stream goes on", key=True
        )
    if several:
        _check_parts(shop, test, path)
    if test.given.answers is not None and all(way.upstream is None or way.source is not None for way in ways):
        shop.mistake((*path, "answers"), "this route takes no whole answer of a worker", key=True)
    return None
