"""Which route takes a request: method, path with parameters, headers, and a condition on the body."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from proxy.errors import GatewayError
from proxy.translate.mapping import RULE_FAILURES, Read, Scope, truthy
from proxy.translate.plan import ErrorTable, Route
from proxy.types import JsonObject

_PARAMETER = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
# Requests of which a table remembers the routes: how many, and how long their method, path and Accept header may be.
_FOUND_MAX: Final = 256
_FOUND_LENGTH_MAX: Final = 1000


# They hold secrets: for the gateway itself, for nobody behind it.
HIDDEN_HEADERS = frozenset({"authorization", "proxy-authorization"})


def seen_headers(headers: Mapping[str, str]) -> JsonObject:
    """What rules see as `headers`, whose names are in lower case: those that hold no secrets."""
    return {name: value for name, value in headers.items() if name not in HIDDEN_HEADERS}


class PathMatch(NamedTuple):
    """A route whose method and path fit, with the path's parameters."""

    route: Route
    parameters: dict[str, str]


class Miss(NamedTuple):
    """No route fits. methods: what the path would take (405), empty where no route has the path (404)."""

    methods: tuple[str, ...]
    errors: ErrorTable | None

    def error(self, method: str, path: str) -> GatewayError:
        """What the client of such a request is told."""
        if self.methods:
            return GatewayError("method_not_allowed", f"{path} takes {', '.join(self.methods)}, not {method}")
        return GatewayError("not_found", f"no rule has the path {path}")


def path_pattern(path: str) -> re.Pattern[str]:
    """`/api/models/{name}` as a pattern; a parameter is one path segment or a part of it. ValueError for a path that
    cannot be one.

    With two parameters in a segment it would not be clear where the one ends, and looking for the place takes time that
    grows with the square of the segment's length.
    """
    if not path.startswith("/"):
        raise ValueError(f"a path starts with '/', got '{path}'")
    if any(len(_PARAMETER.findall(segment)) > 1 for segment in path.split("/")):
        raise ValueError(f"one segment of a path has one parameter at most, got '{path}'")
    parts: list[str] = []
    seen: set[str] = set()
    position = 0
    for found in _PARAMETER.finditer(path):
        if found[1] in seen:
            raise ValueError(f"the parameter '{found[1]}' stands twice in '{path}'")
        seen.add(found[1])
        parts.append(re.escape(path[position : found.start()]) + f"(?P<{found[1]}>[^/]+)")
        position = found.end()
    parts.append(re.escape(path[position:]))
    if "{" in _PARAMETER.sub("", path) or "}" in _PARAMETER.sub("", path):
        raise ValueError(f"a parameter is written {{name}} in lower-case letters, got '{path}'")
    return re.compile("".join(parts))


def path_shape(path: str) -> str:
    """The path without the names of its parameters: two paths of one shape take the same requests."""
    return _PARAMETER.sub("{}", path)


class RouteTable:
    """All routes of a rule set, found by path in one dictionary look-up where the path has no parameters.

    Of routes with the same path those with headers or a condition come first, whatever their files are called.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._fixed: dict[str, list[Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._found: dict[tuple[str, str, str], list[PathMatch]] = {}  # of what was asked before
        self.routes = tuple(routes)
        for route in sorted(self.routes, key=lambda route: not (route.headers or route.condition)):
            if "{" in route.path:
                self._patterns.append((path_pattern(route.path), route))
            else:
                self._fixed.setdefault(route.path, []).append(route)

    def by_path(self, method: str, path: str, accept: str = "") -> list[PathMatch] | Miss:
        """The routes whose method and path fit, the most particular first, in the framing that the Accept header
        prefers; or why there is none.

        HEAD is answered by the route of GET, whose body is left out on its way. path: as it came, percent-encoded, so
        that an encoded slash stays inside its parameter.
        """
        asked = method, path, accept
        if (before := self._found.get(asked)) is not None:
            return before
        method = "GET" if method == "HEAD" else method
        plain = unquote(path) if "%" in path else path
        found = [PathMatch(route, {}) for route in self._fixed.get(plain, ())]
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match:
                found.append(PathMatch(route, {name: unquote(text) for name, text in match.groupdict().items()}))
        fitting = [
            PathMatch(route.accepted(accept), parameters) for route, parameters in found if method in route.methods
        ]
        if fitting:
            self._keep(asked, fitting)
            return fitting
        methods = tuple(sorted({name for match in found for name in match.route.methods}))
        return Miss(methods, found[0].route.errors if found else self._nearest_errors(path))

    def _keep(self, asked: tuple[str, str, str], fitting: list[PathMatch]) -> None:
        """Clients ask for the same again and again; what one makes up is not kept for long."""
        if sum(map(len, asked)) <= _FOUND_LENGTH_MAX:
            if len(self._found) >= _FOUND_MAX:
                self._found.clear()
            self._found[asked] = fitting

    def _nearest_errors(self, path: str) -> ErrorTable | None:
        """An unknown path is answered in the dialect of the route that shares most of it."""
        best: Route | None = None
        best_length = 1
        for route in self.routes:
            length = _common_prefix(route.path, path)
            if length > best_length:
                best, best_length = route, length
        return best.errors if best else (self.routes[0].errors if self.routes else None)


def choose(candidates: Iterable[PathMatch], headers: Mapping[str, str], scope: Scope) -> PathMatch | None:
    """The first candidate whose headers and condition hold. Header names in `headers` are lower-case.

    A condition that cannot be evaluated on this request, such as a comparison of text with a number, does not hold.
    """
    for candidate in candidates:
        route = candidate.route
        if all(test(headers.get(name, "")) for name, test in route.headers.items()) and (
            route.condition is None or _holds(route.condition, {**scope, "path": dict(candidate.parameters)})
        ):
            return candidate
    return None


def _holds(condition: Read, scope: Scope) -> bool:
    try:
        return truthy(condition(scope))
    except RULE_FAILURES:
        return False


def _common_prefix(left: str, right: str) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
