"""Copies of requests for other workers, whose answers are measured and thrown away.

A copy is for whoever wants to know how other workers would do. It never costs a client anything: it takes only a place
that is free, gives it back as soon as a client's request needs one, and whatever becomes of it is told to nobody but
the metrics and the log. A worker's breaker hears nothing of it either; the worker is looked at where it failed.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final, Literal

import orjson

from proxy.errors import GatewayError
from proxy.fleet.facts import Kind, WorkerView
from proxy.framing import FRAMINGS
from proxy.limits import FRAME_MAX_BYTES, MIRROR_ANSWER_BYTES, MIRROR_SECONDS, MIRRORS_MAX
from proxy.server.admission import Wanted, lease_now
from proxy.server.attempt import Attempt, answers_as
from proxy.server.body import Share
from proxy.server.call import Call
from proxy.server.leases import Hold
from proxy.server.outcomes import outcome_of
from proxy.server.sinks import AnswerSink, CollectSink, ResponseSink
from proxy.server.split import directed
from proxy.server.tally import RuleTally
from proxy.telemetry.request import Outcome
from proxy.telemetry.rules import RuleTable
from proxy.translate.answer import refuse_failure
from proxy.translate.plan import StreamSource, UpstreamPlan
from proxy.translate.reader import StreamReader
from proxy.translate.request import Built
from proxy.types import Json
from proxy.upstream import Timeouts

log = logging.getLogger("proxy.access")

Skipped = Literal[
    "full",  # as many copies are under way as may be, or the bodies have all the memory that they may have
    "busy",  # every worker of the mirror is at its limit
    "no_worker",  # none can answer now, or the rule can ask none
    "same",  # the request itself is on such a worker
]

# How long the end waits for copies that were told to end.
_CLOSE_SECONDS: Final = 1.0


class Mirrors:
    """The copies under way. `close` ends them; afterwards none is begun."""

    def __init__(self) -> None:
        self._copies: set[Copy] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._copies)

    async def begin(self, call: Call, wanted: Wanted, attempt: Attempt, share: Share) -> Copy | None:
        """Copy a request that has a worker, where its mirror wants that and can have it at once."""
        mirror, facilities = call.spread(wanted.model).mirror, call.facilities
        if mirror is None or wanted.pinned is not None or self._closed:
            return None
        if facilities.rng.random() >= mirror.weight or not call.traffic.accepting():
            return None
        there = directed(wanted, mirror, call.scope, facilities.directory.resolve)
        found = await self._copied(call, there, attempt, share)
        if isinstance(found, str):
            facilities.metrics.on_event("mirror_skipped", reason=found)
            return None
        self._copies.add(found)
        found.task.add_done_callback(lambda _: self._copies.discard(found))
        return found

    def give_way(self, wanted: Wanted, avoid: frozenset[str]) -> bool:
        """End a copy that is on a worker which this request could have; whether there was one."""
        for copy in self._copies:
            if not copy.ended and copy.address not in avoid and copy.could_serve(wanted):
                copy.stop()
                return True
        return False

    def end(self, hold: Hold) -> None:
        """End the copy that has this lease."""
        for copy in tuple(self._copies):
            if copy.hold is hold:
                copy.stop()

    async def close(self) -> None:
        """End all of them."""
        self._closed = True
        tasks = [copy.task for copy in self._copies]
        for copy in tuple(self._copies):
            copy.stop()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    async def _copied(self, call: Call, wanted: Wanted, attempt: Attempt, share: Share) -> Copy | Skipped:
        if len(self._copies) >= MIRRORS_MAX:
            return "full"
        facilities = call.facilities
        unfit = facilities.directory.unfit(wanted.backends)
        try:
            # Beside the request itself a copy would slow it down.
            lease = await lease_now(facilities, wanted, unfit | {attempt.address}, spare=True)
        except GatewayError:
            return "same" if _is_for(wanted, attempt) else "no_worker"
        if lease is None:
            return "busy"
        on_trial = lease.on_trial  # a trial is for a request that may say how it went
        same = answers_as(lease.facts) == attempt.answers_as
        is_full = self._closed or len(self._copies) >= MIRRORS_MAX  # while the lease was asked for
        room = None if on_trial or same or is_full else share.copy()
        if room is None:
            lease.release("neutral", facilities.clock())
            return "no_worker" if on_trial else "same" if same else "full"
        return Copy(call, Attempt(_call_of_copy(call), lease, wanted.name), room)


def could_serve(view: WorkerView, model: str, kind: Kind, pinned: str | None) -> bool:
    """Whether this worker could have a request. pinned: the only one that will do, by id or address."""
    if pinned not in (None, view.address, view.id):
        return False
    return any(facts.model == model and kind in facts.kinds for facts in view.models)


def _is_for(wanted: Wanted, attempt: Attempt) -> bool:
    """Whether the request itself is on a worker that its copy could have."""
    model, backend = attempt.answers_as
    return model == wanted.model and (wanted.backends is None or backend in wanted.backends)


class Copy:
    """One copy of a request, from its worker to the end of the answer."""

    def __init__(self, call: Call, attempt: Attempt, room: Share) -> None:
        self._call = call
        self._attempt = attempt
        self._room = room
        self._begun = call.facilities.clock()
        self.ended = False
        self.task = asyncio.create_task(self._run(), name="mirror")

    @property
    def address(self) -> str:
        """Of its worker."""
        return self._attempt.address

    @property
    def hold(self) -> Hold:
        """Its lease."""
        return self._attempt.lease

    def could_serve(self, wanted: Wanted) -> bool:
        """Whether the worker that it is on could have this request."""
        view = self._call.facilities.fleet.worker(self.address)
        return view is not None and could_serve(view, wanted.model, wanted.kind or "llm", wanted.pinned)

    def stop(self) -> None:
        """Let the worker go at once; the rest ends by itself."""
        self._end("cancelled", None)
        self.task.cancel()

    async def _run(self) -> None:
        outcome: Outcome = "cancelled"
        error: GatewayError | None = None
        try:
            await self._answered()
            outcome = "ok"
        except GatewayError as problem:
            outcome, error = outcome_of(problem), problem
        except Exception:
            log.exception("the gateway failed on a copy of a request")
            outcome = "gateway_error"
        finally:
            self._end(outcome, error)

    def _end(self, outcome: Outcome, error: GatewayError | None) -> None:
        """Once, however often it is called."""
        if self.ended:
            return
        self.ended = True
        call, facilities = self._call, self._call.facilities
        seconds = facilities.clock() - self._begun
        self._attempt.ended(outcome)
        self._attempt.lease.release("neutral", facilities.clock())
        self._room.release()
        fields: dict[str, object] = {
            "route": call.route.name,
            "model": self._attempt.answers_as[0],
            "backend": self._attempt.answers_as[1],
            "worker": self.address,
            "outcome": outcome,
            "seconds": round(seconds, 4),
            "reason": error.message if error is not None else None,
        }
        log.info("mirrored", extra={name: value for name, value in fields.items() if value is not None})

    async def _answered(self) -> None:
        """The whole answer, read and judged. GatewayError where it is none."""
        built = await self._attempt.build()
        route, plan = built.route, built.route.upstream
        if plan is None or route.exclusive:
            raise GatewayError("unsupported", "a copy takes no turn at a worker, in which others would wait")
        if route.source is not None:
            await self._streamed(route.source, built)
            return
        for body in built.bodies:
            await self._asked(plan, built, body)

    async def _streamed(self, source: StreamSource, built: Built) -> None:
        reader, metrics = StreamReader(source, built.scope), self._attempt.metrics
        sink = _CopySink(reader, source.framing, FRAME_MAX_BYTES, self.address, metrics, self._begun)
        sink.held = source.mode == "incremental"
        try:
            await self._through(sink, built, built.bodies[0])
        finally:
            sink.count_tokens()

    async def _asked(self, plan: UpstreamPlan, built: Built, body: Json) -> None:
        sink = AnswerSink(FRAMINGS["json"], MIRROR_ANSWER_BYTES, self.address, self._attempt.metrics, self._begun)
        await self._through(sink, built, body)
        try:
            answer: Json = orjson.loads(sink.answer)
        except orjson.JSONDecodeError as problem:
            raise GatewayError("upstream_protocol", f"the answer is not JSON ({problem})") from None
        refuse_failure(plan, built.scope, answer)

    async def _through(self, sink: ResponseSink, built: Built, body: Json) -> None:
        try:
            await self._attempt.open(sink, built, body)
            error = await self._attempt.over(sink)
        finally:
            sink.close()
        if error is not None:
            raise error


class _CopySink(CollectSink):
    """A stream that is read to its end. held: its frames are the parts of a text, which has to be held."""

    held = False

    def frames(self, frames: list[bytes]) -> None:
        """Read each frame."""
        if self.held and self.received_bytes > MIRROR_ANSWER_BYTES:
            raise GatewayError("upstream_protocol", f"the answer has more than {MIRROR_ANSWER_BYTES} bytes")
        super().frames(frames)


def _call_of_copy(call: Call) -> Call:
    """A request of its own, which shares nothing with the client's that either of them changes."""
    facilities, scope = call.facilities, dict(call.scope)
    patience = facilities.timeouts
    return Call(
        replace(facilities, timeouts=lambda model: _impatient(patience(model))),
        call.traffic,
        call.route,
        scope,
        facilities.metrics.mirrored(call.route.name, call.metrics.model),
        RuleTally(RuleTable(1), call.route, scope),  # what the rules do is counted for the request itself
        facilities.clock(),
        asked=facilities.clock(),
        index=call.index,
    )


def _impatient(limits: Timeouts) -> Timeouts:
    return Timeouts(*(min(each, MIRROR_SECONDS) for each in (limits.connect, limits.first, limits.idle, limits.total)))
