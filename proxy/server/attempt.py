"""One attempt at a request on one worker: its lease, its questions, its exchange."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

import orjson

from proxy.errors import Fault, GatewayError
from proxy.fleet.facts import ModelFacts
from proxy.framing import FRAMINGS
from proxy.limits import ANSWER_MAX_BYTES, ANSWERS_MAX_BYTES, FRAME_MAX_BYTES, QUESTION_SECONDS
from proxy.server.call import Call
from proxy.server.leases import Hold
from proxy.server.outcomes import is_upstream, outcome_of, rest_after, verdict_of
from proxy.server.sinks import AnswerSink, CollectSink, ResponseSink, as_gateway_error
from proxy.server.taping import TapedSink
from proxy.telemetry.request import Outcome as RequestOutcome
from proxy.translate.answer import refuse_failure
from proxy.translate.changes import header_values
from proxy.translate.mapping import RULE_FAILURES, Constant, Scope
from proxy.translate.plan import StreamSource, UpstreamPlan
from proxy.translate.reader import StreamReader, collected
from proxy.translate.request import Built, Question, build_request
from proxy.types import Json, JsonObject
from proxy.upstream import Sink, Target, Timeouts, UpstreamError
from proxy.waiting import first_of

log = logging.getLogger("proxy.access")

# How often a response is looked at, for the fleet to know that its worker is alive (seconds).
_HEARD_SECONDS: Final = 5.0
# A question's body is made already.
_NO_BODY: Final = Constant(None)


class Attempt:
    """Holds a worker until `release`, which may be called again.

    Making one puts the worker into the request's scope.
    """

    def __init__(self, call: Call, lease: Hold, name: str) -> None:
        self.lease = lease
        model, backend = answers_as(lease.facts)
        self.metrics = call.metrics.backend(backend, model)
        self._call = call
        self._begun: float | None = None
        self.broke_off = False  # a collected stream ended without a reason
        self._unanswered = False
        self._sink: ResponseSink | None = None
        self._look: asyncio.TimerHandle | None = None
        self._heard = False  # an answer, or the beginning of one, came before that of `_sink`
        call.workers.append(lease.address)
        call.model = lease.facts.model
        call.scope["worker"] = worker = worker_document(lease.facts, name)
        if call.tape is not None:
            call.tape.tried(worker)

    @property
    def address(self) -> str:
        """The worker's base address."""
        return self.lease.address

    @property
    def answers_as(self) -> tuple[str, str]:
        """The model that answers, by the fleet's name, and the backend of its worker."""
        return answers_as(self.lease.facts)

    def ended(self, outcome: RequestOutcome) -> None:
        """Count how it went; only the first time counts."""
        if self._begun is not None:
            self.metrics.finished(outcome, time.monotonic() - self._begun)
            self._begun = None

    def release(self, error: GatewayError | None, *, neutral: bool = False) -> None:
        """Give the worker back, say how it went (neutral: nothing), and have it looked at where it failed."""
        facilities = self._call.facilities
        self._call.tally.failed(error)
        if self._call.tape is not None:
            self._call.tape.gave_back(error)
        self.ended("cancelled" if neutral and error is None else outcome_of(error))
        silent = neutral or (error is None and self._unanswered) or self._out_of_time(error)
        rest = 0.0 if neutral else rest_after(error)
        self.lease.release("neutral" if silent else verdict_of(error), facilities.clock(), rest)
        if error is not None and not neutral and is_upstream(error):
            facilities.metrics.upstream_error(self.address, error.kind)
            if error.kind in {"upstream_reset", "upstream_timeout"}:
                facilities.trouble(self.address)

    async def build(self) -> Built:
        """Steps, checks and mapping; questions of steps are put to the worker."""
        call = self._call
        begun = time.perf_counter()
        waited = 0.0
        run = build_request(call.route, call.scope, call.index, call.steps)
        try:
            question = next(run)
            while True:
                asked = time.perf_counter()
                answer = await self._question(question)
                if call.tape is not None:
                    call.tape.asked(question.step, question.path, question.body, answer)
                waited += time.perf_counter() - asked
                question = run.send(answer)
        except StopIteration as done:
            built: Built = done.value
            call.tally.built(built)
            return built
        finally:
            call.spent += time.perf_counter() - begun - waited

    async def ask(self, built: Built, body: Json) -> Json:
        """One whole answer of the worker, which must be JSON and must not say that it failed."""
        call, route = self._call, built.route
        if not route.exclusive:
            return await self._asked(built, body)
        asked = call.facilities.clock()
        what = route.name if route.asking is None else f"{route.asking.backend} {route.asking.name}"
        async with call.facilities.turns.turn((self.address, what)):
            call.waited(call.facilities.clock() - asked)
            return await self._asked(built, body)

    async def collect(self, source: StreamSource, built: Built) -> JsonObject:
        """A whole stream as one result: what the answer's mapping sees."""
        call = self._call
        reader = StreamReader(source, built.scope)
        sink = CollectSink(reader, source.framing, FRAME_MAX_BYTES, self.address, self.metrics, call.started)
        try:
            await self._finish(sink, built, built.bodies[0])
            self.broke_off = sink.broke_off
        finally:
            call.count(sink)
        return {**collected(reader), "elapsed": sink.elapsed()}

    async def open(
        self,
        sink: ResponseSink,
        built: Built,
        body: Json,
        seconds: float | None = None,
        plan: UpstreamPlan | None = None,
    ) -> None:
        """Send the request; returns once the head of the response has come, and `sink` gets the rest. seconds: a limit
        on everything; plan: another one than the request's. GatewayError where it fails before that.
        """
        facilities, plan = self._call.facilities, plan or _plan(built)
        sink.refusal, sink.asking = plan.refusal, built.route.asking
        if seconds is None:
            self._heard = self._got_something()
            self._sink = sink
        limits = self._limits(seconds)
        headers, data = _written(plan, built.scope, body)
        try:
            target = Target.parse(self.address)
        except ValueError as problem:
            raise GatewayError("upstream_refused", f"the worker cannot be called: {problem}") from None
        begun = sink.asked = time.monotonic()
        if seconds is None and self._begun is None:
            self._begun = begun
            self.metrics.started()
        try:
            exchange = await facilities.pool.open(
                target,
                method=plan.method,
                path=plan.path,
                headers=headers,
                body=data,
                timeouts=limits,
                sink=sink if seconds is not None else self._taped(sink, plan, built, headers, body, len(data)),
            )
        except UpstreamError as error:
            facilities.trouble(self.address)
            raise as_gateway_error(error) from None
        sink.opened(exchange)
        self._call.metrics.spent("connect", exchange.written_at - begun)

    def _taped(
        self, sink: ResponseSink, plan: UpstreamPlan, built: Built, headers: dict[str, str], body: Json, size: int
    ) -> Sink:
        tape, source = self._call.tape, built.route.source
        if tape is None:
            return sink
        framing = None if source is None else source.framing
        return TapedSink(sink, tape.sent(plan.method, plan.path, headers, body, size, framing))

    def _limits(self, seconds: float | None) -> Timeouts:
        """The time limits of one exchange. GatewayError where the request's time is over."""
        call = self._call
        limits = call.facilities.timeouts(self.lease.facts.model)
        left = call.left(limits.total)
        if left <= 0.0:
            text = f"total timeout: the request was not answered within {limits.total:g} s"
            raise GatewayError("upstream_timeout", text, final=True)
        if seconds is None:
            return limits._replace(spent=limits.total - left)
        connect, first, idle, _, _ = limits
        return Timeouts(min(connect, seconds), min(first, seconds), min(idle, seconds), min(left, seconds))

    def _got_something(self) -> bool:
        return self._heard or (self._sink is not None and self._sink.received_bytes > 0)

    def _out_of_time(self, error: GatewayError | None) -> bool:
        """Whether the time for the whole request is over without this worker being to blame for it: it was not silent,
        and its client may read slowly, or others had most of the time.
        """
        over = error is not None and error.kind == "upstream_timeout" and error.final
        return over and (self._got_something() or len(self._call.workers) > 1)

    async def over(self, sink: ResponseSink) -> GatewayError | None:
        """What a response that was opened ends in. The fleet is told now and then that something comes."""
        if not sink.done.done():  # a short answer comes with its head
            self._look_later(sink, 0)
            try:
                await first_of(sink.done)
            finally:
                if self._look is not None:
                    self._look.cancel()
        if sink.received_bytes > 0:
            self._call.facilities.leases.heard(self.address, self._call.facilities.clock())
        return sink.done.result()

    def _look_later(self, sink: ResponseSink, heard: int) -> None:
        self._look = asyncio.get_running_loop().call_later(_HEARD_SECONDS, self._look_now, sink, heard)

    def _look_now(self, sink: ResponseSink, heard: int) -> None:
        if sink.received_bytes > heard:
            self._call.facilities.leases.heard(self.address, self._call.facilities.clock())
        self._look_later(sink, sink.received_bytes)

    async def _question(self, question: Question) -> Json:
        """The worker's answer to a step, None where it gives none: the rule goes on without."""
        call = self._call
        plan = UpstreamPlan(question.method, question.path, question.headers, _NO_BODY)
        built = Built(call.route, question.scope or call.scope, [question.body])
        sink = AnswerSink(FRAMINGS["json"], ANSWER_MAX_BYTES, self.address, self.metrics, call.started)
        try:
            await self._finish(sink, built, question.body, QUESTION_SECONDS, plan)
            return _json(sink.answer, self.address)
        except GatewayError as error:
            self._unanswered = True
            call.facilities.metrics.upstream_error(self.address, error.kind)
            log.warning("a worker did not answer a question", extra={"step": question.step, "reason": error.message})
            return None

    async def _asked(self, built: Built, body: Json) -> Json:
        call = self._call
        sink = AnswerSink(FRAMINGS["json"], ANSWER_MAX_BYTES, self.address, self.metrics, call.started)
        try:
            await self._finish(sink, built, body)
        finally:
            call.metrics.received(0, sink.received_bytes)
        call.answered += sink.received_bytes
        if call.answered > ANSWERS_MAX_BYTES:
            text = f"the answer would have more than {ANSWERS_MAX_BYTES} bytes; ask for less at once"
            raise GatewayError("too_large", text)
        answer = _json(sink.answer, self.address)
        refuse_failure(_plan(built), built.scope, answer)
        call.tally.answered(answer, built.route.asking)
        return answer

    async def _finish(
        self,
        sink: ResponseSink,
        built: Built,
        body: Json,
        seconds: float | None = None,
        plan: UpstreamPlan | None = None,
    ) -> None:
        """Send and wait for the end; GatewayError where it ended in one. seconds, plan: as for `open`."""
        try:
            await self.open(sink, built, body, seconds, plan)
            error = await self.over(sink)
        except BaseException:
            sink.close()
            raise
        if error is not None:
            raise error


def _plan(built: Built) -> UpstreamPlan:
    plan = built.route.upstream
    if plan is None:
        raise GatewayError("internal", f"the rule at {built.route.place} asks no worker")
    return plan


def _written(plan: UpstreamPlan, scope: Scope, body: Json) -> tuple[dict[str, str], bytes]:
    try:
        headers = {"Content-Type": "application/json", **header_values(plan.headers, scope)}
    except RULE_FAILURES as problem:
        text = f"the request does not fit the rule: {problem}"
        raise GatewayError("invalid_request", text, fault=Fault("call")) from None
    try:
        return headers, orjson.dumps(body)
    except orjson.JSONEncodeError as problem:
        text = f"the request cannot be passed on as JSON: {problem}"
        raise GatewayError("invalid_request", text, fault=Fault("call")) from None


def worker_document(facts: ModelFacts, asked: str) -> JsonObject:
    """What rules see as `worker`; asked: the name that the client gave the model."""
    return facts.document if facts.model == asked else {**facts.document, "public_name": asked}


def answers_as(facts: ModelFacts) -> tuple[str, str]:
    """A model by the fleet's name, and the backend of its worker ("": not said)."""
    backend = facts.document.get("backend")
    return facts.model, backend if isinstance(backend, str) else ""


def _json(raw: bytes, address: str) -> Json:
    try:
        value: Json = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayError(
            "upstream_protocol", f"the worker {address} sent an answer that is not JSON ({error})"
        ) from None
    return value
