"""One request from its route to its last byte: the one owner of its attempts and its numbers."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from aiohttp import web

from proxy.errors import GatewayError
from proxy.fleet.facts import Kind
from proxy.limits import MODEL_NAME_MAX
from proxy.server.admission import Wanted, model_missing, unknown_model
from proxy.server.attempt import Attempt, Call, worker_document
from proxy.server.body import Share
from proxy.server.facilities import Facilities
from proxy.server.mirror import Mirrors
from proxy.server.operate import operate
from proxy.server.outcomes import outcome_of
from proxy.server.output import whole_size
from proxy.server.responses import answer_response, error_response
from proxy.server.sinks import broke_off
from proxy.server.streaming import StreamRun
from proxy.server.tally import RuleTally
from proxy.server.taping import tape_answer
from proxy.server.tries import Tries
from proxy.server.turns import Turns
from proxy.translate.answer import call_result, client_answer
from proxy.translate.mapping import RULE_FAILURES, Scope
from proxy.translate.plan import Route
from proxy.translate.request import build_request
from proxy.types import Json

log = logging.getLogger("proxy.access")


class Arrival(NamedTuple):
    """A request as it came. started: when; key: the name of the key that it brings; share: its part of the bytes that
    bodies may have.
    """

    request: web.Request
    started: float
    key: str | None
    share: Share


class RequestRun:
    """Answers one request whose route is known. `respond` may be called once."""

    def __init__(
        self, facilities: Facilities, turns: Turns, mirrors: Mirrors, arrival: Arrival, route: Route, scope: Scope
    ) -> None:
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
        self._call = Call(facilities, facilities.traffic(), turns, route, scope, metrics, tally, arrival.started)
        self._tries: Tries | None = None
        self._stream: StreamRun | None = None
        self._recording = recording = facilities.recording()
        if recording is not None:
            request, name = self._request, f"{route.pack}/{route.name}"
            size = request.content_length or 0
            self._call.tape = recording.begin(request.method, request.rel_url.raw_path, scope, size, name)

    def stop(self, error: GatewayError) -> None:
        """What the client is to be told when the request is cancelled next, because the gateway stops."""
        self._call.stopped = error

    async def respond(self) -> web.StreamResponse:
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
                if self._sent() is not None and self._request.transport is not None:
                    self._request.transport.abort()  # a stream that breaks off must not look complete
            cancelled = False
            metrics.sent(0, whole_size(response))
            if self._call.tape is not None:
                tape_answer(self._call.tape, response, self._route)
            return response
        finally:
            self._close(error, cancelled=cancelled)

    # --- the shapes of a route
    # ---------------------------------------------------------------------------------------------

    async def _answer(self) -> tuple[web.StreamResponse, GatewayError | None]:
        route = self._route
        directory = self._facilities.directory
        self._scope["models"] = []
        if route.selection == "none":
            self._scope["models"] = directory.models()
            self._scope["gateway"] = {**directory.gateway(), "requests": directory.requests()}
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
                operate(self._facilities, route.operation, self._scope)
            return answer_response(route, client_answer(route, self._scope)), None
        self._tries = tries = Tries(self._call, wanted, self._mirrors, self._arrival.share)
        if route.target is not None:
            stream = StreamRun(self._call, tries, self._request, route.target)
            self._stream = stream
            return await stream.respond()
        return await self._whole(tries), None

    async def _whole(self, tries: Tries) -> web.Response:
        """One answer, from the first worker that gives one."""
        answers: list[Json] = []
        model = ""
        attempt = await tries.first()
        while True:
            if attempt.lease.facts.model != model:
                answers, model = [], attempt.lease.facts.model  # parts by two models make no answer
            try:
                response = await self._once(attempt, answers)
            except GatewayError as error:
                attempt = await tries.another(error)
            else:
                follower = await self._instead(tries, attempt)
                if follower is None:
                    tries.release(None)
                    return response
                attempt = follower

    async def _instead(self, tries: Tries, attempt: Attempt) -> Attempt | None:
        """Another attempt where this one's answer may have been cut off and the operator wants lost streams whole."""
        if not attempt.broke_off or not self._call.traffic.resumes(attempt.lease.facts.model):
            return None
        try:
            return await tries.another(broke_off(attempt.address), neutral=True)
        except GatewayError:
            return None  # then it stands

    async def _once(self, attempt: Attempt, answers: list[Json]) -> web.Response:
        """The answer of one worker. answers: of the parts that were asked for, also by earlier attempts."""
        scope = self._scope
        built = await attempt.build()
        asked = built.route
        if asked.source is not None:
            found = await attempt.collect(asked.source, built)
            attempt.broke_off = attempt.broke_off and asked.upstream is not None and asked.upstream.resume is not None
            scope.update(found)
        elif asked.upstream is not None:
            for body in built.bodies[len(answers) :]:
                answers.append(await attempt.ask(built, body))  # noqa: PERF401  what came before a failure stays
            whole = answers.copy()
            total = self._facilities.clock() - self._call.started
            scope["elapsed"] = {"first": total, "total": total}
            answers.clear()  # if they do not make an answer together, the next worker is asked for all of them
            if asked.asking is not None:
                found = call_result(asked.asking, built.scope, whole)
                self._call.tally.resulted(found)
                scope.update(found)
            else:
                scope["answers"] = whole
                scope["upstream"] = whole[0] if whole else None
        return answer_response(asked, client_answer(asked, scope))

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
        pinned = self._request.headers.get(header) if header is not None else None
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

    def _sent(self) -> web.StreamResponse | None:
        return None if self._stream is None else self._stream.sent

    def _close(self, error: GatewayError | None, *, cancelled: bool) -> None:
        call, metrics = self._call, self._call.metrics
        if self._tries is not None:
            self._tries.release(error, neutral=cancelled)
            if cancelled:
                self._tries.left()
            if self._tries.retried and error is None and not cancelled:
                self._facilities.metrics.on_event("failover", model=metrics.model)
        self._count_stream()
        call.tally.close(error)
        outcome = "cancelled" if cancelled else outcome_of(error)
        seconds = self._facilities.clock() - call.started
        metrics.spent("translate", call.spent)
        if call.queued is not None:
            metrics.spent("queue", call.queued)
        metrics.finished(outcome, seconds)
        if self._recording is not None and call.tape is not None:
            scope = self._scope if self._stream is None else {**self._scope, **self._stream.timed()}
            call.tape.over(outcome, error, seconds, scope, complete=not cancelled)
            self._recording.keep(call.tape)
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
                "resumed": call.resumed or None,
                "span": self._trace(),
                "reason": error.message if error is not None else None,
            }
            log.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})

    def _count_stream(self) -> None:
        reader = self._call.reader
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
