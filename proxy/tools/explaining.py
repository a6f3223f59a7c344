"""`explain`: which route takes a request and why the others do not, and what goes to the worker, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from proxy.documents.yaml import Path
from proxy.errors import GatewayError
from proxy.ruleset.documents import SpecDoc
from proxy.ruleset.loader import RouteSource, RuleSet
from proxy.ruleset.playing import GATEWAY_SAMPLE, NOW_SAMPLE, REQUEST_ID_SAMPLE, run_request
from proxy.ruleset.walking import reads_of
from proxy.translate.errors import error_answer
from proxy.translate.mapping import RULE_FAILURES, Scope, truthy
from proxy.translate.plan import Check, ErrorTable, Route
from proxy.translate.request import Question
from proxy.translate.routes import Miss, PathMatch, choose, seen_headers
from proxy.types import Json, JsonObject


class Request(NamedTuple):
    """A request as it would come. target: path and query; headers: names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Json

    @property
    def path(self) -> str:
        """The path without the query."""
        return self.target.partition("?")[0]


class Candidate(NamedTuple):
    """A route whose path fits. why: what it wants and does not get; None for the one that takes the request."""

    source: RouteSource
    why: str | None


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


class Explanation(NamedTuple):
    """Everything about one request. others: routes whose paths do not fit; unread: fields of the body that no rule
    reads; bodies: for each request to the worker its fields.
    """

    candidates: tuple[Candidate, ...]
    others: int
    route: RouteSource | None = None
    model: Json = None
    steps: tuple[Line, ...] = ()
    questions: tuple[Question, ...] = ()
    bodies: tuple[tuple[Line, ...], ...] = ()
    refused: Refusal | None = None
    unread: tuple[str, ...] = ()


def explain(rules: RuleSet, request: Request, worker: JsonObject) -> Explanation:
    """Follow the request through the rules as far as it goes. No worker is asked: questions of steps stay unanswered.

    worker: what is known of the worker, over the sample of the route's pack.
    """
    sources = {source.route.place: source for pack in rules.sources for source in pack.routes}
    found = rules.table.by_path(request.method, request.path)
    if isinstance(found, Miss):
        return _missed(rules, request, found, sources)
    scope: Scope = {
        "body": request.body,
        "query": dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True)),
        "headers": seen_headers(request.headers.items()),
        "path": {},
        "listener": {},
        "gateway": dict(GATEWAY_SAMPLE),
        "models": [],
        "now": NOW_SAMPLE,
        "request_id": REQUEST_ID_SAMPLE,
        "worker": None,
    }
    match = choose(found, request.headers, scope)
    candidates = [*_compared(found, request, scope, match, sources), *_wrong_methods(rules, request, sources)]
    others = len(rules.table.routes) - len(candidates)
    if match is None:
        error = GatewayError("not_found", f"no rule for {request.method} {request.path} fits this request")
        return Explanation(tuple(candidates), others, refused=_refusal(found[0].route.errors, error, None))
    route = match.route
    known: JsonObject = {**route.sample, **worker}
    scope = {**scope, "path": dict(match.parameters), "worker": known, "models": [known]}
    source = sources[route.place]
    return _followed(Explanation(tuple(candidates), others, source), source, scope)


def _missed(rules: RuleSet, request: Request, miss: Miss, sources: Mapping[str, RouteSource]) -> Explanation:
    candidates = tuple(_wrong_methods(rules, request, sources))
    message = f"no rule for {request.method} {request.path}"
    error = GatewayError("method_not_allowed" if miss.methods else "not_found", message)
    refused = None if miss.errors is None else _refusal(miss.errors, error, None)
    return Explanation(candidates, len(rules.table.routes) - len(candidates), refused=refused)


def _compared(
    found: list[PathMatch],
    request: Request,
    scope: Scope,
    match: PathMatch | None,
    sources: Mapping[str, RouteSource],
) -> Iterator[Candidate]:
    taken = False
    for candidate in found:
        source = sources[candidate.route.place]
        if match is not None and candidate.route is match.route:
            taken = True
            yield Candidate(source, None)
        elif taken:
            yield Candidate(source, "is looked at after the one that takes it")
        else:
            yield Candidate(source, _why_not(candidate, source, request, scope))


def _why_not(candidate: PathMatch, source: RouteSource, request: Request, scope: Scope) -> str:
    for name, wanted in source.doc.match.headers.items():
        given = request.headers.get(name.lower())
        if wanted == "*" and not given:
            return f"wants a header {name}"
        if wanted not in {"*", given}:
            return f"wants the header {name}: {wanted}, got {'none' if given is None else given}"
    condition = source.doc.match.when
    if condition is not None and candidate.route.condition is not None:
        try:
            value = candidate.route.condition({**scope, "path": dict(candidate.parameters)})
        except RULE_FAILURES as problem:
            return f"its condition {condition} fails: {problem}"
        if not truthy(value):
            return f"its condition {condition} does not hold"
    return "does not fit"


def _wrong_methods(rules: RuleSet, request: Request, sources: Mapping[str, RouteSource]) -> Iterator[Candidate]:
    for method in sorted({method for route in rules.table.routes for method in route.methods} - {request.method}):
        found = rules.table.by_path(method, request.path)
        for match in [] if isinstance(found, Miss) else found:
            methods = match.route.methods
            if request.method not in methods and method == min(methods):
                yield Candidate(sources[match.route.place], f"is for {' and '.join(methods)}")


def _followed(start: Explanation, source: RouteSource, scope: Scope) -> Explanation:
    route = source.route
    questions: list[Question] = []
    bodies: list[Json] = []
    refused = None
    model: Json = None
    try:
        if route.needs_body and not isinstance(scope.get("body"), dict):
            raise GatewayError("bad_body", "the body is not a JSON object")
        model = route.model(scope) if route.model is not None else None
        if route.selection != "none" and not model:
            raise GatewayError("model_missing", "the request names no model")
        bodies = run_request(route, scope, questions.append).bodies
    except GatewayError as error:
        refused = _refusal(route.errors, error, _refusing_place(source, scope, error), as_frame=route.errors_as_frame)
    asking = source.asking
    return start._replace(
        model=model,
        steps=tuple(_step_lines(asking, scope)),
        questions=tuple(questions),
        bodies=tuple(tuple(_body_lines(asking, body)) for body in bodies),
        refused=refused,
        unread=tuple(unread_fields(source, scope.get("body"))),
    )


def _refusal(table: ErrorTable, error: GatewayError, place: str | None, *, as_frame: bool = False) -> Refusal:
    answer = error_answer(table, error, as_frame=as_frame)
    return Refusal(error.kind, error.message, error.field, answer.status, answer.body, place)


def _refusing_place(source: RouteSource, scope: Scope, error: GatewayError) -> str | None:
    """The first check that does not hold, or the step after the last one that was done, or the request's mapping, there
    the field of the same name.
    """
    if error.kind == "model_missing" and "steps" not in scope:
        return source.asking.place(("worker", "model"))
    if "steps" not in scope:
        return None
    done = scope.get("steps")
    names = done if isinstance(done, dict) else {}
    asking = source.asking
    for index, step in enumerate(asking.route.steps):
        if isinstance(step, Check):
            try:
                if truthy(step.condition(scope)):
                    continue
            except RULE_FAILURES:
                pass
            return asking.place(("steps", index))
        if step.name not in names:
            return asking.place(("steps", index))
    request = asking.doc.request
    fields = request.body.fields if request is not None and request.body.fields is not None else {}
    named = ("fields", error.field) if error.field in fields else ()
    return asking.place(("request", "body", *(part for part in named if part is not None)))


def _step_lines(source: RouteSource, scope: Scope) -> Iterator[Line]:
    values = scope.get("steps")
    for index, step in enumerate(source.doc.steps):
        if step.set is not None and isinstance(values, dict) and step.set in values:
            path: Path = ("steps", index)
            rule = f"asked: {step.ask.path}" if step.ask is not None else _rule(step.value)
            yield Line(step.set, values[step.set], present=True, rule=rule, place=source.place(path))


def _body_lines(source: RouteSource, body: Json) -> Iterator[Line]:
    if source.doc.request is not None:
        yield from _lines(source, source.doc.request.body, body, ("request", "body"), "")


def _lines(source: RouteSource, spec: SpecDoc, value: Json, path: Path, name: str) -> Iterator[Line]:
    if spec.fields is not None and spec.each is None and isinstance(value, dict):
        for key, child in spec.fields.items():
            inner = (*path, "fields", key)
            label = f"{name}.{key}" if name else key
            if key in value:
                yield from _lines(source, child, value[key], inner, label)
            else:
                yield Line(label, None, present=False, rule=_rule(child), place=source.place(inner))
    elif name == "" and isinstance(value, dict):
        for key, child_value in value.items():
            yield Line(key, child_value, present=True, rule=_rule(spec), place=source.place(path))
    else:
        yield Line(name or "(body)", value, present=True, rule=_rule(spec), place=source.place(path))


def _rule(spec: SpecDoc | None) -> str:
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


def unread_fields(source: RouteSource, body: Json) -> Iterator[str]:
    """The top-level fields of a body that nothing in the route reads."""
    reads = body_reads(source)
    if isinstance(body, dict) and reads is not None:
        yield from (name for name in body if name not in reads)


def body_reads(source: RouteSource) -> frozenset[str] | None:
    """The top-level fields of the client's body that the route reads; None where it reads the body as a whole."""
    docs = [source.doc, *([source.base.doc] if source.base is not None else [])]
    paths = reads_of(docs)
    if paths & {(), ("body",)}:
        return None
    return frozenset(path[1] for path in paths if path[0] == "body")


def request_of(method: str, target: str, headers: Mapping[str, str], body: Json) -> Request:
    """The request, with its method and header names as routes compare them, and what is not UTF-8 written out."""
    plain = {_plain(name.lower()): _plain(value) for name, value in headers.items()}
    return Request(_plain(method.upper()), _plain(target), plain, body)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def route_label(route: Route) -> str:
    """`pack/route`, with its path."""
    return f"{route.pack}/{route.name}  {' '.join(route.methods)} {unquote(route.path)}"
