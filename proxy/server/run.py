"""One request from its route to its last byte: the one owner of its lease, its exchange and its numbers."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

import orjson
from aiohttp import web
from aiohttp.http import StreamWriter

from proxy.errors import CALLER_KINDS, GatewayError
from proxy.fleet.facts import Kind, ModelFacts, NoWorker, Outcome, UnknownModel
from proxy.fleet.lease import Lease
from proxy.framing import FRAMINGS
from proxy.limits import ANSWER_MAX_BYTES, FRAME_MAX_BYTES, MODEL_NAME_MAX, QUESTION_SECONDS
from proxy.server.facilities import Facilities
from proxy.server.responses import answer_response, error_response
from proxy.server.sinks import AnswerSink, ClientStream, CollectSink, ResponseSink, as_gateway_error
from proxy.telemetry import request as telemetry
from proxy.translate.answer import client_answer, refuse_failure
from proxy.translate.mapping import RULE_FAILURES, Scope, header_values
from proxy.translate.plan import Route, StreamSource, StreamTarget, UpstreamPlan
from proxy.translate.request import Question, build_request
from proxy.translate.stream import StreamReader, StreamTranslator, collected
from proxy.types import Json, JsonObject
from proxy.upstream import Target, Timeouts, UpstreamError

log = logging.getLogger("proxy.access")


class RequestRun:
    """Answers one request whose route is known. `respond` may be called once."""

    def __init__(
        self,
        facilities: Facilities,
        exclusive: dict[tuple[str, str], asyncio.Lock],
        request: web.Request,
        route: Route,
        scope: Scope,
        started: float,
    ) -> None:
        self._facilities = facilities
        self._exclusive = exclusive
        self._request = request
        self._route = route
        self._scope = scope
        self._started = started
        self._lease: Lease | None = None
        self._model = ""
        known = self._known_model()
        self._metrics: telemetry.RequestMetrics = facilities.metrics.request(route.name, known)
        self._sent: web.StreamResponse | None = None
        self._spent = 0.0
        self._frames = 0

    async def respond(self) -> web.StreamResponse:
        """The response, sent already where it is a stream. Raises only CancelledError, after everything was let go."""
        error: GatewayError | None = None
        cancelled = True
        self._metrics.started()
        try:
            try:
                response, error = await self._answer()
            except GatewayError as problem:
                error = problem
                response = error_response(self._route, problem)
            except ConnectionResetError:
                # The client left in the same moment in which its response was begun or ended.
                raise asyncio.CancelledError from None
            except Exception:
                log.exception("the gateway failed on a request", extra={"route": self._route.name})
                error = GatewayError("internal", "the gateway failed on this request; its log has the reason")
                response = self._sent or error_response(self._route, error)
                if self._sent is not None and self._request.transport is not None:
                    self._request.transport.abort()  # a stream that breaks off must not look complete
            cancelled = False
            if isinstance(response, web.Response) and isinstance(response.body, bytes):
                self._metrics.sent(0, len(response.body))
            return response
        finally:
            self._close(error, cancelled=cancelled)

    # --- the shapes of a route
    # ---------------------------------------------------------------------------------------------

    async def _answer(self) -> tuple[web.StreamResponse, GatewayError | None]:
        route = self._route
        self._choose_worker()
        async with AsyncExitStack() as stack:
            if route.exclusive and self._lease is not None:
                lock = self._exclusive.setdefault((self._lease.address, route.name), asyncio.Lock())
                asked = self._facilities.clock()
                await stack.enter_async_context(lock)
                self._metrics.spent("queue", self._facilities.clock() - asked)
            bodies = await self._bodies()
            if route.source is not None and route.target is not None:
                return await self._stream(route.source, route.target, bodies[0])
            if route.source is not None:
                await self._collect(route.source, bodies[0])
            elif route.upstream is not None:
                answers = [await self._ask(route.upstream, body) for body in bodies]
                self._scope["answers"] = answers
                self._scope["upstream"] = answers[0] if answers else None
            return answer_response(route, client_answer(route, self._scope)), None

    async def _stream(
        self, source: StreamSource, target: StreamTarget, body: Json
    ) -> tuple[web.StreamResponse, GatewayError | None]:
        translator = StreamTranslator(source, target, self._route.errors, self._scope)
        lease = self._held()
        sink = ClientStream(translator, source.framing, FRAME_MAX_BYTES, lease.address, self._metrics, self._started)
        try:
            await self._open(sink, self._plan(), body)
            await asyncio.wait((sink.begun, sink.done), return_when=asyncio.FIRST_COMPLETED)
            response = web.StreamResponse(
                headers={"Content-Type": target.framing.content_type, "Cache-Control": "no-cache"}
            )
            if self._request.version >= (1, 1):
                response.enable_chunked_encoding()
            else:
                response.force_close()  # the end of the connection is the only end that such a stream has
            self._sent = response
            writer = await response.prepare(self._request)
            if not isinstance(writer, StreamWriter):
                raise TypeError(f"aiohttp prepared a {type(writer).__name__} instead of a StreamWriter")
            sink.attach(writer)
            error = await sink.done
            lease.release(_verdict(error, cancelled=False))  # the worker is free; its client may still be reading
            await sink.drained()
            await response.write_eof()
        except BaseException:
            sink.abandon()
            raise
        finally:
            self._count_stream(sink, translator.reader)
            self._metrics.sent(translator.sent_frames, sink.sent_bytes)
        return response, error

    async def _collect(self, source: StreamSource, body: Json) -> None:
        reader = StreamReader(source, self._scope)
        lease = self._held()
        sink = CollectSink(reader, source.framing, FRAME_MAX_BYTES, lease.address, self._metrics, self._started)
        try:
            await self._finish(sink, self._plan(), body)
        finally:
            self._count_stream(sink, reader)
        self._scope.update(collected(reader))

    async def _ask(self, plan: UpstreamPlan, body: Json) -> Json:
        """One whole answer of the worker, which must be JSON and must not say that it failed."""
        lease = self._held()
        sink = AnswerSink(FRAMINGS["json"], ANSWER_MAX_BYTES, lease.address, self._metrics, self._started)
        try:
            await self._finish(sink, plan, body)
        finally:
            self._metrics.received(0, sink.received_bytes)
        answer = _json(sink.answer, lease.address)
        refuse_failure(plan, self._scope, answer)
        return answer

    # --- the request
    # -------------------------------------------------------------------------------------------------------

    def _known_model(self) -> str:
        """The model's name as the fleet has it; only such a name may become a label."""
        read = self._route.model
        try:
            name = read(self._scope) if read is not None else None
        except RULE_FAILURES:
            name = None
        if not isinstance(name, str) or not name:
            return ""
        self._model = name
        resolved = self._facilities.directory.resolve(name)
        return resolved if self._facilities.fleet.known(resolved) is not None else "other"

    def _choose_worker(self) -> None:
        route, facilities = self._route, self._facilities
        self._scope["models"] = facilities.directory.models() if route.selection == "none" else []
        if route.selection == "none" or route.model is None:
            return
        name = self._model
        if not name:
            message = "model: is missing or not a string; expected the name of a model"
            raise GatewayError("model_missing", message, field="model")
        if len(name) > MODEL_NAME_MAX:
            raise GatewayError(
                "model_unknown",
                f"model: a name of {len(name)} characters; no model has one over {MODEL_NAME_MAX}",
                field="model",
            )
        resolved = facilities.directory.resolve(name)
        kind: Kind | None = "text2vec" if route.kind == "text2vec" else "llm" if route.kind else None
        if route.selection == "known":
            facts = facilities.fleet.known(resolved, kind)
            if facts is None:
                raise self._unknown(name, kind)
        else:
            try:
                self._lease = facilities.fleet.acquire(resolved, kind or "llm", facilities.rng)
            except UnknownModel:
                raise self._unknown(name, kind) from None
            except NoWorker:
                raise GatewayError(
                    "model_unavailable", f"no worker for the model '{name}' can answer now", field="model"
                ) from None
            facts = self._lease.facts
        self._scope["worker"] = _worker_document(facts, name)

    def _unknown(self, name: str, kind: Kind | None) -> GatewayError:
        rows = [row for row in self._facilities.directory.models() if isinstance(row, dict)]
        known = sorted({str(row["model"]) for row in rows if kind is None or row["kind"] == kind})
        names = ", ".join(known[:20]) or "none"
        return GatewayError("model_unknown", f"model: no worker serves '{name}'; known models: {names}", field="model")

    async def _bodies(self) -> list[Json]:
        """Steps, checks and mapping; questions of steps are put to the chosen worker."""
        begun = self._facilities.clock()
        waited = 0.0
        run = build_request(self._route, self._scope)
        try:
            question = next(run)
            while True:
                asked = self._facilities.clock()
                answer = await self._question(question)
                waited += self._facilities.clock() - asked
                question = run.send(answer)
        except StopIteration as done:
            bodies: list[Json] = done.value
            return bodies
        finally:
            self._spent += self._facilities.clock() - begun - waited

    async def _question(self, question: Question) -> Json:
        """The worker's answer to a step, None where it gives none: the rule goes on without."""
        lease = self._held()
        plan = UpstreamPlan("POST", question.path, {}, lambda scope: None)
        sink = AnswerSink(FRAMINGS["json"], ANSWER_MAX_BYTES, lease.address, self._metrics, self._started)
        try:
            await self._finish(sink, plan, question.body, seconds=QUESTION_SECONDS)
            return _json(sink.answer, lease.address)
        except GatewayError as error:
            self._facilities.metrics.upstream_error(lease.address, error.kind)
            log.warning("a worker did not answer a question", extra={"step": question.step, "reason": error.message})
            return None

    # --- the exchange
    # ------------------------------------------------------------------------------------------------------

    async def _finish(self, sink: ResponseSink, plan: UpstreamPlan, body: Json, seconds: float | None = None) -> None:
        """Send and wait for the end; GatewayError where it ended in one."""
        try:
            await self._open(sink, plan, body, seconds)
            error = await sink.done
        except BaseException:
            if sink.exchange is not None:
                sink.exchange.close()
            raise
        if error is not None:
            raise error

    async def _open(self, sink: ResponseSink, plan: UpstreamPlan, body: Json, seconds: float | None = None) -> None:
        facilities = self._facilities
        lease = self._held()
        address = lease.address
        limits = facilities.timeouts(lease.facts.model)
        if seconds is not None:
            most = (min(limit, seconds) for limit in (limits.connect, limits.first, limits.idle, limits.total))
            limits = Timeouts(*most)
        try:
            headers = {"Content-Type": "application/json", **header_values(plan.headers, self._scope)}
        except RULE_FAILURES as problem:
            raise GatewayError("invalid_request", f"the request does not fit the rule: {problem}") from None
        try:
            data = orjson.dumps(body)
        except orjson.JSONEncodeError as problem:
            raise GatewayError("invalid_request", f"the request cannot be passed on as JSON: {problem}") from None
        try:
            target = Target.parse(address)
        except ValueError as problem:
            raise GatewayError("upstream_refused", f"the worker cannot be called: {problem}") from None
        begun = time.monotonic()
        try:
            exchange = await facilities.pool.open(
                target,
                method=plan.method,
                path=plan.path,
                headers=headers,
                body=data,
                timeouts=limits,
                sink=sink,
            )
        except UpstreamError as error:
            facilities.trouble(address)
            raise as_gateway_error(error) from None
        sink.opened(exchange)
        self._metrics.spent("connect", exchange.written_at - begun)

    def _plan(self) -> UpstreamPlan:
        if self._route.upstream is None:
            raise GatewayError("internal", f"the rule at {self._route.place} sends no request")
        return self._route.upstream

    def _held(self) -> Lease:
        if self._lease is None:
            raise GatewayError("internal", f"the rule at {self._route.place} asks a worker without choosing one")
        return self._lease

    # --- the end
    # -----------------------------------------------------------------------------------------------------------

    def _count_stream(self, sink: ResponseSink, reader: StreamReader) -> None:
        self._spent += sink.spent
        self._frames = sink.received_frames
        self._metrics.received(sink.received_frames, sink.received_bytes)
        for note in reader.notes:
            self._facilities.metrics.note(note)
        usage = reader.usage
        if isinstance(usage, dict):
            prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self._metrics.tokens(
                prompt if isinstance(prompt, int) else 0, completion if isinstance(completion, int) else 0
            )

    def _close(self, error: GatewayError | None, *, cancelled: bool) -> None:
        outcome = _outcome(error, cancelled=cancelled)
        address = self._lease.address if self._lease is not None else None
        if self._lease is not None:
            self._lease.release(_verdict(error, cancelled=cancelled))
            if error is not None and error.kind.startswith("upstream"):
                self._facilities.metrics.upstream_error(self._lease.address, error.kind)
                if error.kind in {"upstream_reset", "upstream_timeout"}:
                    self._facilities.trouble(self._lease.address)
        seconds = self._facilities.clock() - self._started
        self._metrics.spent("translate", self._spent)
        self._metrics.finished(outcome, seconds)
        level = logging.INFO if outcome in {"ok", "client_error", "cancelled"} else logging.WARNING
        if log.isEnabledFor(level):
            fields: dict[str, object] = {
                "route": self._route.name,
                "model": self._model[:MODEL_NAME_MAX],
                "worker": address,
                "outcome": outcome,
                "seconds": round(seconds, 4),
                "frames": self._frames,
                "span": self._trace(),
                "reason": error.message if error is not None else None,
            }
            log.log(level, "request", extra={name: value for name, value in fields.items() if value is not None})

    def _trace(self) -> Json:
        """The trace id, where it is one: an array or object would cost more to write down than it says."""
        try:
            found = self._route.trace(self._scope) if self._route.trace is not None else None
        except RULE_FAILURES:
            return None
        return found if isinstance(found, (str, int, float)) else None


def _worker_document(facts: ModelFacts, asked: str) -> JsonObject:
    return facts.document if facts.model == asked else {**facts.document, "public_name": asked}


def _json(raw: bytes, address: str) -> Json:
    try:
        value: Json = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise GatewayError(
            "upstream_protocol", f"the worker {address} sent an answer that is not JSON ({error})"
        ) from None
    return value


def _outcome(error: GatewayError | None, *, cancelled: bool) -> telemetry.Outcome:
    if cancelled:
        return "cancelled"
    if error is None:
        return "ok"
    if error.kind in CALLER_KINDS:
        return "client_error"
    if error.kind == "model_unavailable":
        return "refused"
    return "upstream_error" if error.kind.startswith("upstream") else "gateway_error"


def _verdict(error: GatewayError | None, *, cancelled: bool) -> Outcome:
    """What a request says of its worker. With a code of 40000 to 49999 the worker blames the caller or the load."""
    if cancelled:
        return "neutral"
    if error is None:
        return "success"
    if not error.kind.startswith("upstream") or (
        error.upstream_code is not None and 40_000 <= error.upstream_code < 50_000
    ):
        return "neutral"
    return "failure"
