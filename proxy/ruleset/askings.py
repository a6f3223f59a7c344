"""The worker's side of a rule compiled: steps, request and stream of a route, and the operations of a backend pack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from proxy.documents import Diagnostic, Document, suggestion
from proxy.expr import FunctionRegistry
from proxy.framing import FRAMINGS, Framing
from proxy.ruleset.answer_documents import AnswerCheckDoc, FromDoc
from proxy.ruleset.backend_documents import AskingDoc, BackendDoc
from proxy.ruleset.documents import AskDoc, RequestDoc, StepDoc
from proxy.ruleset.expressions import Workshop
from proxy.ruleset.mapping_documents import SpecDoc
from proxy.ruleset.probes import compile_probe
from proxy.translate.mapping import Constant, Fields, OmitNull, Read, Value
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import Asking, Batch, Refusal, StreamSource, UpstreamPlan
from proxy.translate.probe import ProbePlan
from proxy.translate.steps import Call, Check, Step, Steps
from proxy.types import Json

CALLED = frozenset({"call", "worker", "gateway", "steps"})
WORKER = frozenset({"worker", "gateway"})
REFUSED = frozenset({"body", "text", "status"})

# These say where a message ends, how it is coded, and what becomes of its connection.
_OWN = frozenset(
    {
        *("accept-encoding", "connection", "content-length", "expect", "host", "keep-alive"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    }
)
_ANSWER_OWN = _OWN | {"content-type", "date"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Backend(NamedTuple):
    """What the operations of one kind of worker share; headers: of each request and question."""

    name: str
    tables: dict[str, dict[str, Json]]
    sample: dict[str, Json]
    headers: dict[str, Read]
    refusal: Refusal | None
    complete: bool = True


def compile_backend(
    document: Document, doc: BackendDoc, functions: FunctionRegistry, *, complete: bool = True
) -> tuple[Backend, ProbePlan | None, list[Diagnostic]]:
    """A backend pack's own file, and how its workers are looked at where that is said there."""
    shop = Workshop(document, functions, certain_only=not complete)
    refusal = None
    if doc.refusal is not None:
        kinds = {int(status): kind for status, kind in doc.refusal.kinds.items()}
        refusal = Refusal(
            message=shop.optional(doc.refusal.message, ("refusal", "message"), REFUSED),
            kinds=kinds,
            kind=shop.optional(doc.refusal.kind, ("refusal", "kind"), REFUSED),
        )
    headers = compile_headers(shop, doc.headers, ("headers",), WORKER)
    tables = {name: dict(table) for name, table in doc.tables.items()}
    sample = {**doc.sample, "backend": doc.backend}
    probe = None if doc.probe is None else compile_probe(shop, doc.probe, ("probe",))
    return Backend(doc.backend, tables, sample, headers, refusal, complete), probe, shop.mistakes


def compile_asking(
    document: Document, doc: AskingDoc, backend: Backend, functions: FunctionRegistry, *, complete: bool = True
) -> tuple[Asking, list[Diagnostic]]:
    """One way of asking the workers of a backend for an operation."""
    shop = Workshop(document, functions, tables=backend.tables, certain_only=not (complete and backend.complete))
    place = document.keys.get(("name",)) or document.places[()]
    condition = shop.optional(doc.when, ("when",), frozenset({"call", "worker"}))
    steps = compile_steps(shop, doc.steps, CALLED)
    upstream = compile_request(shop, doc.request, CALLED, backend)
    answered = CALLED | {"upstream", "answers"}
    result = None if doc.result is None else shop.value(doc.result, ("result",), answered)
    if doc.result is not None and doc.result.fields is not None:
        known = OPERATIONS[doc.operation].results
        for name in doc.result.fields:
            if name not in known:
                message = f"{doc.operation} has no result '{name}'{suggestion(name, known)}"
                shop.mistake(("result", "fields", name), message, key=True)
    asking = Asking(
        backend=backend.name,
        name=doc.name,
        operation=doc.operation,
        place=f"{document.files.get(('name',), document.file)}:{place.line}",
        condition=condition,
        steps=steps,
        upstream=upstream,
        source=None if doc.stream is None else compile_source(shop, doc.stream.from_, CALLED, backend.refusal),
        result=result,
        checks=compile_checks(shop, doc.checks, ("checks",), answered),
        exclusive=doc.exclusive,
        sample=backend.sample,
    )
    return asking, shop.mistakes


def compile_steps(shop: Workshop, steps: list[StepDoc], roots: frozenset[str]) -> Steps:
    """Steps and checks, which may read `roots`."""
    result: list[Step | Check] = []
    for index, step in enumerate(steps):
        path = ("steps", index)
        if step.check is not None:
            result.append(
                Check(
                    condition=shop.read(step.check, (*path, "check"), roots),
                    kind=step.error,
                    message=shop.message(str(step.message), (*path, "message"), roots),
                    field=step.field,
                )
            )
            continue
        name = str(step.set)
        if name in shop.steps:
            shop.mistake((*path, "set"), f"a second step sets '{name}'")
        shop.grown = 0
        call = None if step.ask is None else _question(shop, step.ask, (*path, "ask"), roots)
        value = None if step.value is None else shop.value(step.value, (*path, "value"), roots, name)
        value = value.inner if isinstance(value, OmitNull) else value  # a step that is left out is null
        result.append(Step(name, value, call, shop.optional(step.when, (*path, "when"), roots)))
        shop.step_set(name, (*path, "set"))
    return Steps(result)


def _question(shop: Workshop, ask: AskDoc, path: tuple[str | int, ...], roots: frozenset[str]) -> Call:
    if ask.operation is None:
        body = Constant(None) if ask.body is None else shop.value(ask.body, (*path, "body"), roots)
        return Call(str(ask.path), body, shop.read(ask.result, (*path, "result"), roots | {"upstream"}))
    arguments = compile_arguments(shop, ask.operation, ask.with_ or {}, (*path, "with"), roots)
    results = frozenset(OPERATIONS[ask.operation].results)
    return Call("", arguments, shop.read(ask.result, (*path, "result"), roots | results), ask.operation)


def compile_arguments(
    shop: Workshop,
    operation: str,
    given: Mapping[str, SpecDoc],
    path: tuple[str | int, ...],
    roots: frozenset[str],
) -> Value:
    """The arguments of an operation as one object."""
    known = OPERATIONS[operation].arguments
    for name in given:
        if name not in known:
            shop.mistake((*path, name), f"{operation} has no argument '{name}'{suggestion(name, known)}", key=True)
    return Fields([(name, shop.value(spec, (*path, name), roots, name)) for name, spec in given.items()])


def compile_request(
    shop: Workshop, request: RequestDoc, seen: frozenset[str], backend: Backend | None = None
) -> UpstreamPlan:
    """The request to the worker, which may read what is `seen`."""
    failure = request.failure
    roots = seen | ({"batch"} if request.batch else frozenset())
    batch = None
    if request.batch is not None:
        batch = Batch(shop.read(request.batch.of, ("request", "batch", "of"), seen), request.batch.size)
    if not request.path.startswith("/"):
        shop.mistake(("request", "path"), f"a path starts with '/', got '{request.path}'")
    answered, resumed = seen | {"upstream"}, seen | {"request", "text", "tokens"}
    own = compile_headers(shop, request.headers, ("request", "headers"), roots)
    return UpstreamPlan(
        method=request.method,
        path=request.path,
        headers={**backend.headers, **own} if backend is not None else own,
        body=shop.value(request.body, ("request", "body"), roots),
        batch=batch,
        failure_code=None if failure is None else shop.read(failure.code, ("request", "failure", "code"), answered),
        failure_message=None
        if failure is None
        else shop.optional(failure.message, ("request", "failure", "message"), answered),
        resume=None
        if request.resume is None
        else {
            name: shop.value(spec, ("request", "resume", name), resumed, name) for name, spec in request.resume.items()
        },
        refusal=None if backend is None else backend.refusal,
    )


def compile_checks(
    shop: Workshop, checks: list[AnswerCheckDoc], path: tuple[str, ...], roots: frozenset[str]
) -> tuple[Check, ...]:
    """Conditions on what the worker answered."""
    return tuple(
        Check(
            condition=shop.read(entry.check, (*path, index, "check"), roots),
            kind="upstream_protocol",
            message=shop.message(entry.message, (*path, index, "message"), roots),
            field=None,
        )
        for index, entry in enumerate(checks)
    )


def compile_headers(
    shop: Workshop, headers: Mapping[str, str], path: tuple[str, ...], roots: frozenset[str]
) -> dict[str, Read]:
    """Headers by name, each an expression over `roots`."""
    own = _ANSWER_OWN if path[0] == "answer" else _OWN
    for name in headers:
        if not is_header_name(name):
            shop.mistake((*path, name), f"'{name}' is not a header name", key=True)
        elif name.lower() in own:
            shop.mistake((*path, name), f"the header '{name}' is written by the gateway itself", key=True)
    return {name: shop.read(source, (*path, name), roots) for name, source in headers.items()}


def is_header_name(name: str) -> bool:
    """Whether HTTP allows a header of this name."""
    return _HEADER_NAME.fullmatch(name) is not None


def compile_framing(shop: Workshop, name: str, path: tuple[str | int, ...]) -> Framing:
    """The framing of this name."""
    if name not in FRAMINGS:
        shop.mistake(path, f"unknown framing '{name}'{suggestion(name, FRAMINGS)}")
        return FRAMINGS["json"]
    return FRAMINGS[name]


def compile_source(shop: Workshop, doc: FromDoc, roots: frozenset[str], refusal: Refusal | None = None) -> StreamSource:
    """How the worker's stream is read; the request's expressions may read `roots`, those of a frame `chunk` too."""
    path, chunk = ("stream", "from"), roots | {"chunk"}
    read, inner = doc.read, ("stream", "from", "read")
    return StreamSource(
        framing=compile_framing(shop, doc.framing, (*path, "framing")),
        mode=doc.text,
        text=shop.read(read.text, (*inner, "text"), chunk),
        finish=None if read.finish is None else _nullable(shop.value(read.finish, (*inner, "finish"), chunk, "finish")),
        usage=None if read.usage is None else _nullable(shop.value(read.usage, (*inner, "usage"), chunk, "usage")),
        error_code=shop.optional(read.error_code, (*inner, "error_code"), chunk),
        error_message=shop.optional(read.error_message, (*inner, "error_message"), chunk),
        error_status=shop.optional(read.error_status, (*inner, "error_status"), chunk),
        refusal=refusal,
        stops=shop.optional(doc.stops, (*path, "stops"), roots),
        prefix=shop.optional(doc.prefix, (*path, "prefix"), roots),
        missing_finish=doc.missing_finish,
        echoed=shop.optional(doc.echoed, (*path, "echoed"), roots | {"text"}),
        reasoning=shop.optional(read.reasoning, (*inner, "reasoning"), chunk),
        logprobs=shop.optional(read.logprobs, (*inner, "logprobs"), chunk),
        finish_at_end=doc.finish_at_end,
        keeps_stops=doc.keeps_stops,
    )


def _nullable(value: Value) -> Value:
    """For places where null and absence are the same, and which are read for every chunk."""
    return value.inner if isinstance(value, OmitNull) else value
