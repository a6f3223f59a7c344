"""Typed documents of a rule pack to the plans that `proxy.translate` follows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from proxy.documents import Diagnostic, Document, suggestion
from proxy.errors import KINDS
from proxy.expr import FunctionRegistry
from proxy.framing import FRAMINGS, Framing
from proxy.ruleset.documents import ErrorsDoc, FromDoc, PackDoc, RouteDoc, StepDoc, StreamDoc
from proxy.ruleset.expressions import Workshop
from proxy.translate.mapping import Read
from proxy.translate.plan import (
    Answer,
    Batch,
    Call,
    Check,
    ErrorEntry,
    ErrorTable,
    Route,
    Step,
    StreamSource,
    StreamTarget,
    UpstreamPlan,
)
from proxy.translate.routes import path_pattern

# What expressions may read, by where they stand.
MATCH = frozenset({"body", "query", "headers", "path", "listener"})
REQUEST = MATCH | {"gateway", "models", "steps", "worker"}
READ = REQUEST | {"chunk"}
COLLECTED = REQUEST | {"chunk", "text", "finish", "usage"}
CHUNK = COLLECTED | {"new_text"}
ANSWER = REQUEST | {"upstream", "answers"}
ERROR = frozenset({"error", "text"})

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Compiled(NamedTuple):
    """A route and the mistakes found in its file; the route is usable only where there are none."""

    route: Route
    mistakes: list[Diagnostic]


def compile_errors(
    document: Document, doc: ErrorsDoc, functions: FunctionRegistry
) -> tuple[ErrorTable, list[Diagnostic]]:
    """A dialect's error table."""
    shop = Workshop(document, functions)
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
    if (doc.frame is None) != (doc.stream_status is None):
        shop.mistake(
            (), "frame and stream_status belong together: how an error looks in a stream, and the status it comes with"
        )
    return table, shop.mistakes


def compile_route(
    document: Document,
    doc: RouteDoc,
    pack: PackDoc,
    errors: ErrorTable,
    functions: FunctionRegistry,
    base: Route | None = None,
) -> Compiled:
    """One rule file; `base` is the route that it is like. The sample worker of the pack goes along for the file's own
    tests.
    """
    shop = Workshop(document, functions, tables={name: dict(table) for name, table in pack.tables.items()})
    place = document.keys.get(("route",)) or document.places[()]
    methods = _methods(shop, doc)
    _check_path(shop, doc)
    worker = doc.worker
    stream = doc.stream
    route = Route(
        name=doc.route,
        pack=pack.pack,
        place=f"{document.file}:{place.line}",
        methods=methods,
        path=doc.match.path,
        headers=_header_tests(shop, doc.match.headers),
        condition=shop.optional(doc.match.when, ("match", "when"), MATCH),
        selection="none" if worker is None else worker.need,
        kind=None if worker is None else worker.kind,
        model=None if worker is None else shop.optional(worker.model, ("worker", "model"), MATCH | {"gateway"}),
        steps=_steps(shop, doc.steps),
        errors=errors,
        trace=shop.optional(pack.trace, (), MATCH),
        upstream=_upstream(shop, doc),
        source=None if stream is None or stream.from_ is None else _source(shop, stream.from_),
        target=None if stream is None or stream.to is None else _target(shop, stream),
        answer=_answer(shop, doc, base),
        exclusive=worker is not None and worker.exclusive,
        errors_as_frame=_errors_as_frame(shop, doc, errors),
        needs_body=any(method != "GET" for method in methods),
        sample=dict(pack.sample),
    )
    if base is not None:
        route = replace(
            route,
            selection=base.selection,
            kind=base.kind,
            model=base.model,
            steps=base.steps,
            upstream=base.upstream,
            source=base.source,
            exclusive=base.exclusive,
        )
    return Compiled(route, shop.mistakes)


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
    wanted = doc.errors == "frame" or (doc.stream is not None and doc.stream.to is not None)
    if wanted and errors.frame is None:
        shop.mistake(("route",), "this route needs an error as a frame, and errors.yaml has no frame")
    return wanted


def _steps(shop: Workshop, steps: list[StepDoc]) -> tuple[Step | Check, ...]:
    result: list[Step | Check] = []
    names: set[str] = set()
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
        if name in names:
            shop.mistake((*path, "set"), f"a second step sets '{name}'")
        names.add(name)
        call = None
        if step.ask is not None:
            call = Call(
                path=step.ask.path,
                body=shop.value(step.ask.body, (*path, "ask", "body"), REQUEST),
                result=shop.read(step.ask.result, (*path, "ask", "result"), REQUEST | {"upstream"}),
            )
        value = None if step.value is None else shop.value(step.value, (*path, "value"), REQUEST, name)
        result.append(Step(name, value, call, shop.optional(step.when, (*path, "when"), REQUEST)))
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
        finish=None if read.finish is None else shop.value(read.finish, (*inner, "finish"), READ, "finish"),
        usage=None if read.usage is None else shop.value(read.usage, (*inner, "usage"), READ, "usage"),
        error_code=shop.optional(read.error_code, (*inner, "error_code"), READ),
        error_message=shop.optional(read.error_message, (*inner, "error_message"), READ),
        stops=shop.optional(doc.stops, (*path, "stops"), REQUEST),
        missing_finish=doc.missing_finish,
    )


def _target(shop: Workshop, stream: StreamDoc) -> StreamTarget | None:
    doc = stream.to
    if doc is None:
        return None
    return StreamTarget(
        framing=_framing(shop, doc.framing, ("stream", "to", "framing")),
        mode=doc.text,
        hold_back=doc.hold_back,
        chunk=shop.value(doc.chunk, ("stream", "to", "chunk"), CHUNK),
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
