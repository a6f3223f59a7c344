"""One request from its route to its last byte: the one owner of its attempts and its numbers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from proxy.errors import GatewayError, model_missing
from proxy.fleet.facts import Kind
from proxy.http import Request, Response, Streamed
from proxy.limits import MODEL_NAME_MAX
from proxy.recording.tape import Tape
from proxy.server.admission import Wanted, unknown_model
from proxy.server.attempt import worker_document
from proxy.server.body import Share
from proxy.server.call import Call
from proxy.server.facilities import Facilities
from proxy.server.mirror import Mirrors
from proxy.server.operate import operate
from proxy.server.outcomes import outcome_of
from proxy.server.responses import answer_response, error_response
from proxy.server.streaming import StreamRun
from proxy.server.tally import RuleTally
from proxy.server.taping import tape_answer
from proxy.server.tries import Tries
from proxy.server.whole import WholeRun, all_parts
from proxy.translate.answer import client_answer, client_results
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.plan import Route
from proxy.translate.reader import StreamReader
from proxy.translate.request import build_request
from proxy.types import Json, JsonObject

log = logging.getLogger("proxy.access")


class Arrival(NamedTuple):
    """A request as it came. started: when; key: the name of the key that it brings; share: its part of the bytes that
    bodies may have.
    """

    request: Request
    started: float
    key: str | None
    share: Share


class RequestRun:
    """Answers one request whose route is known. `respond` may be called once."""

    def __init__(self, facilities: Facilities, mirrors: Mirrors, arrival: Arrival, route: Route, scope: Scope) -> None:
        self._arrival = arrival
        self._mirrors = mirrors
        self._facilities = facilities
        self._request = arrival.request
        self._route = route
        self._scope = scope
        self._model = _asked_model(route, scope)
        # Only a name that the fleet has may become a label.
        self._resolved = facilities.directory.resolve(self._model)
        label = self._resolved if facilities.fleet.knows(self._resolved) else "other" if self._model else ""
        metrics = facilities.metrics.request(route.name, label)
        tally = RuleTally(facilities.metrics.rules, route, scope)
        self._call = Call(facilities, facilities.traffic(), route, scope, metrics, tally, arrival.started)
        self._tries: list[Tries] = []
        self._stream: StreamRun | None = None
        self._recording = facilities.recording()
        self._tape = self._new_tape()
        self._call.tape = None if self._tape is None else self._tape.part(0)

    def _new_tape(self) -> Tape | None:
        if self._recording is None:
            return None
        request, name = self._request, f"{self._route.pack}/{self._route.name}"
        size = self._arrival.share.size
        return self._recording.begin(request.method, request.path, self._scope, size, name)

    def stop(self, error: GatewayError) -> None:
        """What the client is to be told when the request is cancelled next, because the gateway stops."""
        for call in (self._call, *(tries.call for tries in self._tries)):
            call.stopped = error

    async def respond(self) -> Response | Streamed:
        """The response, sent already where it is a stream. Raises only CancelledError, after everything was let go."""
        error: GatewayError | None = None
        cancelled = True
        metrics = self._call.metrics
        metrics.started()
        try:
            try:
                response, error = await self._answer()
            except GatewayError as problem:
                error = problem
                response = error_response(self._route, problem)
            except asyncio.CancelledError:
                if self._call.stopped is None or self._sent() is not None:
                    raise
                error = self._call.stopped
                response = error_response(self._route, error)
            except ConnectionResetError:
                # The client left in the same moment in which its response was begun or ended.
                raise asyncio.CancelledError from None
            except Exception:
                log.exception("the gateway failed on a request", extra={"route": self._route.name})
                error = GatewayError("internal", "the gateway failed on this request; its log has the reason")
                response = self._sent() or error_response(self._route, error)
                if self._sent() is not None:
                    self._request.connection.abort()  # a stream that breaks off must not look complete
            cancelled = False
            if isinstance(response, Response):
                metrics.sent(0, len(response.body))
            if self._tape is not None and isinstance(response, Response):
                tape_answer(self._tape, response, self._route)
            return response
        finally:
            self._close(error, cancelled=cancelled)

    # --- the shapes of a route
    # ---------------------------------------------------------------------------------------------

    async def _answer(self) -> tuple[Response | Streamed, GatewayError | None]:
        route = self._route
        directory = self._facilities.directory
        self._scope["models"] = []
        if route.selection == "none":
            self._scope["models"] = directory.models()
            self._scope["gateway"] = {**directory.gateway(), "requests": directory.requests()}
            if self._tape is not None:
                self._tape.saw({name: self._scope[name] for name in ("models", "gateway")})
        wanted = self._wanted()
        if wanted is None or route.selection == "known":
            if wanted is not None:
                self._look_up(wanted)
            begun = time.perf_counter()
            for _ in build_request(route, self._scope):
                raise GatewayError("internal", f"the rule at {route.place} asks a worker without choosing one")
            self._call.spent = time.perf_counter() - begun
            self._call.tally.written()
            if route.operation is not None:
                await operate(self._facilities, route.operation, self._scope)
            return answer_response(route, client_answer(route, self._scope)), None
        if route.target is None:
            return await self._whole(wanted), None
        first = self._tried(self._call.part(0) if route.has_parts else self._call, wanted)
        stream = StreamRun(
            first, self._request, route.target, lambda index: self._tried(self._call.part(index), wanted), self._tape
        )
        self._stream = stream
        return await stream.respond()

    async def _whole(self, wanted: Wanted) -> Response:
        """One answer, to the request or to each element of an array."""
        if not self._route.has_parts:
            tries = self._tried(self._call, wanted)
            return await WholeRun(tries, lambda route, found: self._response(route, tries, [found])).answer()
        parts = await all_parts(self._part(wanted, 0), lambda index: self._part(wanted, index))
        return self._response(parts[0][0], self._tries[0], [found for _, found in parts])

    def _part(self, wanted: Wanted, index: int) -> WholeRun[tuple[Route, JsonObject]]:
        return WholeRun(self._tried(self._call.part(index), wanted), lambda route, found: (route, found))

    def _tried(self, call: Call, wanted: Wanted) -> Tries:
        """The attempts at the request, or at a part of it."""
        self._tries.append(Tries(call, wanted, self._mirrors, self._arrival.share))
        return self._tries[-1]

    def _response(self, route: Route, tries: Tries, found: list[JsonObject]) -> Response:
        """found: what workers said; route, tries: by which the first of it came."""
        total = self._facilities.clock() - self._call.started
        elapsed: JsonObject = {"first": total, "total": total}
        seen = tries.call.scope
        scope = {**seen, "elapsed": elapsed, **client_results(route, seen, found)}
        if self._tape is not None:
            self._tape.saw({"elapsed": scope["elapsed"]})
        return answer_response(route, client_answer(route, scope))

    # --- the request
    # -------------------------------------------------------------------------------------------------------

    def _wanted(self) -> Wanted | None:
        """What the request needs of the fleet, None where it needs nothing."""
        route, traffic = self._route, self._call.traffic
        if route.selection == "none" or route.model is None:
            return None
        name = self._model
        if not name:
            raise model_missing()
        if len(name) > MODEL_NAME_MAX:
            raise GatewayError(
                "model_unknown",
                f"model: a name of {len(name)} characters; no model has one over {MODEL_NAME_MAX}",
                field="model",
            )
        kind: Kind | None = "text2vec" if route.kind == "text2vec" else "llm" if route.kind else None
        header = traffic.pin_header
        pinned = self._request.headers.get(header.lower()) if header is not None else None
        try:
            key = traffic.hash_key(self._resolved, self._scope)
        except RULE_FAILURES:
            key = None  # a body in which there is no such field
        return Wanted(self._resolved, name, kind, key, pinned or None, header, route.backends)

    def _look_up(self, wanted: Wanted) -> None:
        """What is known of the model, for a route that needs no worker."""
        facts = self._facilities.fleet.known(wanted.model, wanted.kind)
        if facts is None:
            raise unknown_model(self._facilities.directory.models(), wanted.name, wanted.kind)
        self._scope["worker"] = worker = worker_document(facts, wanted.name)
        if self._call.tape is not None:
            self._call.tape.tried(worker)

    # --- the end
    # -----------------------------------------------------------------------------------------------------------

    def _sent(self) -> Response | Streamed | None:
        return None if self._stream is None else self._stream.sent

    def _close(self, error: GatewayError | None, *, cancelled: bool) -> None:
        call, metrics = self._call, self._call.metrics
        for tries in self._tries:
            tries.release(error, neutral=cancelled)
            if cancelled:
                tries.left()
            if tries.retried and error is None and not cancelled:
                self._facilities.metrics.on_event("failover", model=metrics.model)
            self._count_stream(tries.call.reader)
            if tries.call is not call:
                call.add(tries.call)
        call.tally.close(error)
        outcome = "cancelled" if cancelled else outcome_of(error)
        seconds = self._facilities.clock() - call.started
        metrics.spent("translate", call.spent)
        if call.queued is not None:
            metrics.spent("queue", call.queued)
        metrics.finished(outcome, seconds)
        if self._recording is not None and self._tape is not None:
            self._tape.over(outcome, error, seconds, complete=not cancelled)
            self._recording.keep(self._tape)
        if self._arrival.key is not None:
            self._facilities.metrics.on_event("keyed_request", key=self._arrival.key, outcome=outcome)
        level = logging.INFO if outcome in {"ok", "client_error", "cancelled"} else logging.WARNING
        if log.isEnabledFor(level):
            fields: dict[str, object] = {
                "route": self._route.name,
                "model": self._model[:MODEL_NAME_MAX],
                "key": self._arrival.key,
                "answered_by": call.model if call.model not in ("", self._resolved) else None,
                "worker": call.workers[-1] if call.workers else None,
                "outcome": outcome,
                "seconds": round(seconds, 4),
                "frames": call.frames,
                "attempts": len(call.workers) if len(call.workers) > 1 else None,
                "parts": len(self._tries) if len(self._tries) > 1 else None,
                "resumed": call.resumed or None,
                "span": self._trace(),
                "reason": error.message if error is not None else None,
            }
            log.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})

    def _count_stream(self, reader: StreamReader | None) -> None:
        if reader is None:
            return
        for note in reader.notes:
            self._facilities.metrics.note(note)
        usage = reader.usage
        if isinstance(usage, dict):
            prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self._call.metrics.tokens(
                prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0
            )

    def _trace(self) -> Json:
        """The trace id, where it is one: an array or object would cost more to write down than it says."""
        try:
            found = self._route.trace(self._scope) if self._route.trace is not None else None
        except RULE_FAILURES:
            return None
        return found if isinstance(found, (str, int, float)) else None


def _asked_model(route: Route, scope: Scope) -> str:
    """The model's name as the client says it, "" where it says none."""
    try:
        name = route.model(scope) if route.model is not None else None
    except RULE_FAILURES:
        return ""
    return name if isinstance(name, str) else ""
