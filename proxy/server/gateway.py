"""The data path: a client's request matched, rewritten, sent to a worker, and the answer rewritten on its way back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import orjson
from aiohttp import web

from proxy.errors import GatewayError
from proxy.limits import REQUEST_BODY_SECONDS, REQUEST_MAX_VALUES
from proxy.server.facilities import Facilities
from proxy.server.responses import error_response, json_response
from proxy.server.run import RequestRun
from proxy.translate.errors import error_answer
from proxy.translate.routes import Miss, PathMatch, choose
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)


class Gateway:
    """Serves every path of the listening addresses; the routes of the rule set decide."""

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities
        self._exclusive: dict[tuple[str, str], asyncio.Lock] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request. Never raises, except when it is cancelled because its client left."""
        started = self._facilities.clock()
        found = self._facilities.table().by_path(request.method, request.rel_url.raw_path)
        if isinstance(found, Miss):
            self._count_refused("", started)
            return _miss(request, found)
        try:
            scope = await self._scope(request, found)
            match = choose(found, _strings(scope["headers"]), scope)
            if match is None:
                raise GatewayError("not_found", f"no rule for {request.method} {request.path} fits this request")
        except GatewayError as error:
            return self._refuse(found[0], error, started)
        scope["path"] = dict(match.parameters)
        run = RequestRun(self._facilities, self._exclusive, request, match.route, scope, started)
        return await run.respond()

    async def _scope(self, request: web.Request, found: list[PathMatch]) -> JsonObject:
        socket = request.transport.get_extra_info("sockname") if request.transport is not None else None
        port = socket[1] if isinstance(socket, tuple) else 0
        body: Json = await _read_body(request) if any(match.route.needs_body for match in found) else {}
        return {
            "body": body,
            "query": dict(request.query),
            "headers": {name.lower(): value for name, value in request.headers.items()},
            "path": {},
            "listener": self._facilities.directory.listener(port),
            "gateway": self._facilities.directory.gateway(),
            "models": [],
            "worker": None,
        }

    def _count_refused(self, route: str, started: float) -> None:
        counted = self._facilities.metrics.request(route, "")
        counted.started()
        counted.finished("client_error", self._facilities.clock() - started)

    def _refuse(self, match: PathMatch, error: GatewayError, started: float) -> web.Response:
        route = match.route
        self._count_refused(route.name, started)
        log.info("request refused", extra={"route": route.name, "outcome": "client_error", "reason": error.message})
        return error_response(route, error)


async def _read_body(request: web.Request) -> Json:
    try:
        raw = await _whole_body(request)
    except web.HTTPRequestEntityTooLarge as error:
        raise GatewayError(
            "too_large", f"the body is over the limit of {request.client_max_size} bytes ({error.text})"
        ) from None
    except asyncio.TimeoutError:
        raise GatewayError("bad_body", f"the body did not arrive within {REQUEST_BODY_SECONDS:g} s") from None
    except ConnectionError:
        raise asyncio.CancelledError from None  # the client left within its body; there is nobody to answer
    except web.RequestPayloadError as error:
        raise GatewayError("bad_body", f"the body cannot be read: {error}") from None
    if request.transport is None:
        # It left in the moment in which its body was complete: wait_for (Python 3.10, 3.11) then keeps the cancellation
        # to itself, and the request would go on for nobody.
        raise asyncio.CancelledError
    if _holds_more_values(raw, REQUEST_MAX_VALUES):
        raise GatewayError("too_large", f"the body has more than {REQUEST_MAX_VALUES} commas and opening brackets")
    try:
        body: Json = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayError("bad_body", f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise GatewayError("bad_body", "the body is not a JSON object")
    return body


async def _whole_body(request: web.Request) -> bytes:
    if request.content.is_eof():
        return await request.read()  # it came with the head, as most do: nothing to wait for
    return await asyncio.wait_for(request.read(), REQUEST_BODY_SECONDS)


def _holds_more_values(raw: bytes, limit: int) -> bool:
    """Whether a JSON text may hold more values than `limit`: each but the first has a comma or a bracket before it.

    Those within strings count too, because this must cost less than reading the text.
    """
    if len(raw) <= limit:
        return False
    count = 0
    for start in range(0, len(raw), 1 << 20):  # in parts, so that a dense body is found out early
        end = start + (1 << 20)
        count += raw.count(b",", start, end) + raw.count(b"[", start, end) + raw.count(b"{", start, end)
        if count > limit:
            return True
    return False


def _miss(request: web.Request, miss: Miss) -> web.Response:
    if miss.methods:
        allowed = ", ".join(miss.methods)
        error = GatewayError("method_not_allowed", f"{request.path} takes {allowed}, not {request.method}")
        headers = {"Allow": allowed}
    else:
        error = GatewayError("not_found", f"no rule has the path {request.path}")
        headers = {}
    if miss.errors is None:
        return json_response(404, {"detail": error.message})
    answer = error_answer(miss.errors, error)
    return json_response(answer.status, answer.body, headers)


def _strings(headers: Json) -> Mapping[str, str]:
    return {name: str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}
