"""`explain`: which route takes a request and why the others do not, and what becomes of it there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

from proxy.errors import GatewayError
from proxy.ruleset.loader import RouteSource, RuleSet
from proxy.ruleset.playing import GATEWAY_SAMPLE, NOW_SAMPLE, REQUEST_ID_SAMPLE, variant_for
from proxy.tools.following import Followed, Refusal, follow, refusal
from proxy.translate.mapping import RULE_FAILURES, Scope, truthy
from proxy.translate.plan import Route
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


class Explanation(NamedTuple):
    """Everything about one request. others: routes whose paths do not fit; followed: what becomes of it in the route
    that takes it; refused: why none does.
    """

    candidates: tuple[Candidate, ...]
    others: int
    route: RouteSource | None = None
    followed: Followed = Followed()
    refused: Refusal | None = None


def explain(rules: RuleSet, request: Request, worker: JsonObject, backend: str | None = None) -> Explanation:
    """Follow the request through the rules as far as it goes. No worker is asked: questions of steps stay unanswered.

    worker: what is known of the worker, over the sample of the route's pack and of its backend. backend: None: the
    pack's own. ValueError where the route asks no worker of that kind.
    """
    sources = {source.route.place: source for pack in rules.sources for source in pack.routes}
    found = rules.table.by_path(request.method, request.path, request.headers.get("accept", ""))
    if isinstance(found, Miss):
        return _missed(rules, request, found, sources)
    scope: Scope = {
        "body": request.body,
        "query": dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True)),
        "headers": seen_headers(request.headers),
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
        return Explanation(tuple(candidates), others, refused=refusal(found[0].route.errors, error, None))
    route = variant_for(match.route, backend)
    source = sources[route.place]
    known: JsonObject = {**route.sample, **worker}
    scope = {**scope, "path": dict(match.parameters), "worker": known, "models": [known]}
    followed = follow(route, source, rules.backends, scope)
    return Explanation(tuple(candidates), others, source, followed, followed.refused)


def _missed(rules: RuleSet, request: Request, miss: Miss, sources: Mapping[str, RouteSource]) -> Explanation:
    candidates = tuple(_wrong_methods(rules, request, sources))
    error = miss.error(request.method, request.path)
    refused = None if miss.errors is None else refusal(miss.errors, error, None)
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


def request_of(method: str, target: str, headers: Mapping[str, str], body: Json) -> Request:
    """The request, with its method and header names as routes compare them, and what is not UTF-8 written out."""
    plain = {_plain(name.lower()): _plain(value) for name, value in headers.items()}
    return Request(_plain(method.upper()), _plain(target), plain, body)


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def route_label(route: Route) -> str:
    """`pack/route`, with its path."""
    return f"{route.pack}/{route.name}  {' '.join(route.methods)} {unquote(route.path)}"
