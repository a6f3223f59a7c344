"""The data path: a client's request matched, rewritten, sent to a worker, and the answer rewritten on its way back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import takewhile
from typing import cast

from proxy.errors import GatewayError
from proxy.http import Request, Response, Streamed
from proxy.limits import BODIES_MAX_BYTES, REQUEST_MAX_BYTES, REQUESTS_MAX
from proxy.server.body import Bodies, Share, read_body
from proxy.server.facilities import Facilities
from proxy.server.leases import Hold
from proxy.server.mirror import Mirrors
from proxy.server.outcomes import outcome_of
from proxy.server.responses import error_response, json_response
from proxy.server.run import Arrival, RequestRun
from proxy.telemetry.request import Outcome
from proxy.translate.errors import error_answer
from proxy.translate.routes import Miss, PathMatch, choose, seen_headers
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

_CUT_SECONDS = 1.0


class _Serving:
    """One request from its head to the last byte of its response. key: the name of the key that it brings."""

    def __init__(self, task: asyncio.Task[object] | None, body: Share, key: str | None) -> None:
        self.task = task
        self.body = body
        self.key = key
        self.run: RequestRun | None = None
        self.stopped: GatewayError | None = None


class Gateway:
    """Serves every path of the listening addresses; the routes of the rule set decide.

    To stop it: let `Traffic.accepting` be false, `await drain(seconds)`, `cut()`.
    """

    def __init__(self, facilities: Facilities) -> None:
        self._facilities = facilities
        self._mirrors = Mirrors()
        share = BODIES_MAX_BYTES // facilities.processes
        if facilities.processes > 1:  # however many there are, each can take one of the largest size beside others
            share = max(share, 2 * REQUEST_MAX_BYTES)
        self._bodies = Bodies(share)
        self._serving: set[_Serving] = set()
        self._idle: asyncio.Future[None] | None = None

    @property
    def in_progress(self) -> int:
        """Requests whose response is not sent to its end."""
        return len(self._serving)

    async def drain(self, seconds: float) -> int:
        """Wait until nothing is in progress, or the time is over; how many requests still are. Copies for a mirror are
        ended at once.
        """
        await self._mirrors.close()
        if self._serving:
            self._idle = self._idle or asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=seconds)
        return len(self._serving)

    def give_way(self, hold: Hold) -> None:
        """A client's request needs the worker of a copy, which has this lease."""
        self._mirrors.end(hold)

    async def cut(self) -> int:
        """End what is in progress: streams with an error frame, other requests with an error; how many there were.

        Returns when they have ended, or after a second: a client that does not read is not waited for.
        """
        stopped, count = _stopping(), len(self._serving)
        for serving in self._serving:
            serving.stopped = stopped
            if serving.run is not None:
                serving.run.stop(stopped)
            if serving.task is not None:
                serving.task.cancel()
        await self.drain(_CUT_SECONDS)
        return count

    async def handle(self, request: Request) -> Response | Streamed:
        """One request. Never raises, except when it is cancelled because its client left."""
        started = self._facilities.clock()
        found = self._facilities.table().by_path(request.method, request.path, request.headers.get("accept", ""))
        if isinstance(found, Miss):
            self._count_refused("", started, "client_error")
            return _miss(request, found)
        try:
            key = self._admitted(request, found)
        except GatewayError as problem:
            return self._refuse(found[0], problem, started, "")
        if len(self._serving) >= REQUESTS_MAX:
            error = GatewayError("busy", f"{REQUESTS_MAX} requests are under way, which is as many as are taken")
            return self._refuse(found[0], error, started, key)
        if not self._facilities.traffic().accepting() and any(match.route.selection == "lease" for match in found):
            return self._refuse(found[0], _stopping(), started, key)
        serving = _Serving(asyncio.current_task(), Share(self._bodies), key)
        self._serving.add(serving)
        try:
            return await self._serve(request, found, serving, started)
        except ConnectionResetError:
            raise asyncio.CancelledError from None  # the client left, or reads nothing
        finally:
            serving.body.release()
            self._serving.discard(serving)
            if not self._serving and self._idle is not None:
                self._idle.set_result(None)
                self._idle = None

    async def _serve(
        self, request: Request, found: list[PathMatch], serving: _Serving, started: float
    ) -> Response | Streamed:
        try:
            scope = await self._scope(request, found, serving.body)
            match = choose(found, cast("Mapping[str, str]", scope["headers"]), scope)
            if match is not found[0]:
                for looked_at in takewhile(lambda each: each is not match, found):
                    self._facilities.metrics.rules.of(looked_at.route.pack, looked_at.route.name).skipped()
            if match is None:
                raise GatewayError("not_found", f"no rule for {request.method} {request.path} fits this request")
        except asyncio.CancelledError:
            if serving.stopped is None:
                raise
            return self._refuse(found[0], serving.stopped, started, serving.key)
        except GatewayError as error:
            return self._refuse(found[0], error, started, serving.key)
        scope["path"] = dict(match.parameters)
        arrival = Arrival(request, started, serving.key, serving.body)
        serving.run = RequestRun(self._facilities, self._mirrors, arrival, match.route, scope)
        return await serving.run.respond()

    def _admitted(self, request: Request, found: list[PathMatch]) -> str | None:
        """The name of the request's key, None where it needs none; before anything is known of its body, so a key is
        needed where any of the routes wants one. GatewayError where it is missing or wrong.
        """
        for match in found:
            if match.route.needs_key:
                return self._facilities.traffic().keys.admit(request.headers.get("authorization", ""))
        return None

    async def _scope(self, request: Request, found: list[PathMatch], share: Share) -> JsonObject:
        reading = [match.route for match in found if match.route.needs_body]
        body: Json = {}
        if reading:
            body = await read_body(request, share, optional=all(route.takes_no_body for route in reading))
        return {
            "body": body,
            "query": {**request.query},
            "headers": seen_headers(request.headers),
            "path": {},
            "listener": self._facilities.directory.listener(request.connection.port),
            "gateway": self._facilities.directory.gateway(),
            "models": [],
            "now": int(self._facilities.wall()),
            "request_id": f"{self._facilities.rng.getrandbits(128):032x}",
            "worker": None,
        }

    def _count_refused(self, route: str, started: float, outcome: Outcome) -> None:
        counted = self._facilities.metrics.request(route, "")
        counted.started()
        counted.finished(outcome, self._facilities.clock() - started)

    def _refuse(self, match: PathMatch, error: GatewayError, started: float, key: str | None) -> Response:
        """key: as in `_Serving`; "" where the request lacks the one that it needs."""
        route, outcome = match.route, outcome_of(error)
        self._count_refused(route.name, started, outcome)
        if key is not None:
            self._facilities.metrics.on_event("keyed_request", key=key, outcome=outcome)
        told = {"route": route.name, "key": key or None, "outcome": outcome, "reason": error.message}
        log.info("request refused", extra=told)
        return error_response(route, error)


def _stopping() -> GatewayError:
    return GatewayError("model_unavailable", "the gateway is stopping; ask again in a moment")


def _miss(request: Request, miss: Miss) -> Response:
    error = miss.error(request.method, request.path)
    headers = {"Allow": ", ".join(miss.methods)} if miss.methods else {}
    if miss.errors is None:
        return json_response(404, {"detail": error.message})
    answer = error_answer(miss.errors, error)
    return json_response(answer.status, answer.body, headers)
