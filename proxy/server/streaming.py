"""A request that is answered by a stream: begun on one worker, and where the operator wants it finished on another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.errors import GatewayError
from proxy.http import Request, Streamed
from proxy.limits import FRAME_MAX_BYTES
from proxy.recording.tape import Said, Tape
from proxy.server.attempt import Attempt
from proxy.server.outcomes import is_upstream, worth_retrying
from proxy.server.output import ClientOutput
from proxy.server.sinks import ClientStream
from proxy.server.taping import TapedOutput
from proxy.server.tries import Tries
from proxy.translate.plan import StreamTarget
from proxy.translate.request import Built, resumed_request
from proxy.translate.stream import StreamTranslator, failure, translator_of
from proxy.types import Json
from proxy.waiting import first_of


class StreamRun:
    """One response that is a stream, or the streams of several elements one behind the other. `respond` may be called
    once; `sent` is the response once it is begun. part: the attempts at a further element.
    """

    def __init__(
        self,
        tries: Tries,
        request: Request,
        target: StreamTarget,
        part: Callable[[int], Tries],
        tape: Tape | None = None,
    ) -> None:
        self._tries = tries
        self._call = tries.call
        self._part = part
        self._request = request
        self._target = target
        self._resumes = False
        self._built: Built | None = None
        self._tape = tape
        self._told = Said(target.framing) if tape is None else tape.said(target.framing)
        self._output = self._new_output()
        self._sink: ClientStream | None = None
        self._last_frames = 0.0  # of the element before
        self._usages: list[Json] = []
        self._sent_frames = self._sent_bytes = 0
        self.sent: Streamed | None = None

    async def respond(self) -> tuple[Streamed, GatewayError | None]:
        """The response, sent to its end, and what it ended in. GatewayError where it failed before it was begun."""
        try:
            response, error = await self._first()
            while error is None and self._call.index + 1 < self._elements():
                self._turn_to(self._part(self._call.index + 1))
                error = await self._further()
            self._request.end_stream()
            await self._request.connection.flushed()
            return response, error
        finally:
            self._let_go()

    async def _first(self) -> tuple[Streamed, GatewayError | None]:
        sink, error = await self._begun()
        response = self._prepared()
        return response, await self._written(sink, error)

    async def _further(self) -> GatewayError | None:
        """The stream of one more element. What goes wrong before its first frame ends the response in an error too."""
        try:
            if self._call.stopped is not None:
                raise self._call.stopped  # while the element before was ending
            sink, error = await self._begun()
        except GatewayError as problem:
            error = problem
        except asyncio.CancelledError:
            if self._call.stopped is None:
                raise
            error = self._call.stopped
        else:
            return await self._written(sink, error)
        self._tries.release(error)
        self._output = self._attached(self._new_output())
        self._output.send(failure(self._target, self._call.route.errors, error) + self._target.framing.terminator)
        self._sent_frames += 1
        return error

    async def _written(self, sink: ClientStream, error: GatewayError | None) -> GatewayError | None:
        """Write what a stream that is begun has, and say in what it ended."""
        self._attached(self._output)
        try:
            sink, error = await self._followed(sink, error)
        except asyncio.CancelledError:
            if self._call.stopped is None:
                raise
            error = self._call.stopped
        error = self._ended(sink, error)
        self._tries.release(error)  # the worker is free; its client may still be reading
        await self._output.drained()
        return error

    def _elements(self) -> int:
        return 1 if self._built is None else self._built.elements

    def _turn_to(self, tries: Tries) -> None:
        """Leave an element that is answered for the next one."""
        if self._sink is not None:
            self._last_frames = self._sink.last_frames
            self._usages.append(self._sink.translator.reader.usage)
        self._count()
        self._tries.forget()
        self._tries, self._call = tries, tries.call
        self._output = self._new_output()

    async def _begun(self) -> tuple[ClientStream, GatewayError | None]:
        """Try workers until one has something for the client, which is kept; with the error that came right behind it.
        GatewayError where none has.
        """
        attempt = await self._tries.first()
        while True:
            self._resumes = False
            try:
                built = self._built = await attempt.build()
                sink = await self._open(attempt, built, self._translator(built, attempt), built.bodies[0])
                await first_of(self._output.begun, sink.done)
                error = sink.done.result() if sink.done.done() else None
                if error is None:
                    return sink, None
                if sink.broke_off:
                    return sink, error
            except GatewayError as problem:
                error = problem
            try:
                attempt = await self._tries.another(error)
            except GatewayError as final:
                if self._sink is None or not self._output.begun.done():
                    raise
                return self._sink, final
            self._output = self._new_output()

    async def _followed(
        self, sink: ClientStream, error: GatewayError | None
    ) -> tuple[ClientStream, GatewayError | None]:
        """Wait for the end, on as many workers as it takes and as there may be."""
        if error is None and self._tries.current is not None:
            error = await self._tries.current.over(sink)
        lost = False
        neutral = sink.broke_off
        while error is not None and self._resumes and worth_retrying(error) and self._tries.current is not None:
            lost = True
            if self._concluded(sink.translator):
                self._tries.release(error, neutral=neutral)
                error = None
                break
            try:
                attempt = await self._tries.another(error, neutral=neutral, resuming=True)
            except GatewayError as final:
                error = final
                break
            self._call.resumed += 1
            if self._call.tape is not None:
                self._call.tape.resumed()
            try:
                sink = await self._gone_on(attempt, sink)
                error = None if sink.translator.closed else await attempt.over(sink)
                neutral = sink.broke_off
            except GatewayError as problem:
                neutral = not is_upstream(problem)
                error = error if neutral else problem
        if lost:
            self._call.facilities.metrics.on_event(
                "resumed", model=self._call.metrics.model, result="ok" if error is None else "failed"
            )
        return sink, error

    def _new_output(self) -> ClientOutput:
        return ClientOutput() if self._tape is None else TapedOutput(self._told)

    async def _gone_on(self, attempt: Attempt, lost: ClientStream) -> ClientStream:
        """Let another worker go on with what was lost."""
        built = self._built = await attempt.build()
        translator = lost.translator
        body = self._rest(translator)
        if body is None:
            self._output.send(translator.conclude())
            self._tries.release(None, neutral=True)
            return lost
        translator.resume(built.scope)
        return await self._open(attempt, built, translator, body)

    def _translator(self, built: Built, attempt: Attempt) -> StreamTranslator:
        plan, call = built.route.upstream, self._call
        self._resumes = plan is not None and plan.resume is not None and call.traffic.resumes(attempt.lease.facts.model)
        more = call.index + 1 < built.elements
        return translator_of(built, call.scope, resumable=self._resumes, earlier=self._usages, more=more)

    def _concluded(self, translator: StreamTranslator) -> bool:
        """Whether nothing was left to ask for, so that the client's stream is complete."""
        try:
            if self._rest(translator) is not None:
                return False
            self._output.send(translator.conclude())
        except GatewayError:
            return False  # as much is left as before
        return True

    def _rest(self, translator: StreamTranslator) -> Json:
        """The request for what is left; None where nothing is. GatewayError where it cannot be made."""
        received, built = translator.reader.received(), self._built
        if built is None:
            raise GatewayError("internal", "nothing was asked for yet")
        return resumed_request(built, built.bodies[0], received.text, received.tokens)

    async def _open(self, attempt: Attempt, built: Built, translator: StreamTranslator, body: Json) -> ClientStream:
        call, before, source = self._call, self._sink, built.route.source
        if source is None:
            raise GatewayError("internal", f"the rule at {built.route.place} reads no stream")
        sink = ClientStream(
            translator,
            self._output,
            source.framing,
            FRAME_MAX_BYTES,
            attempt.address,
            attempt.metrics,
            call.started,
            complete_only=self._resumes,
        )
        sink.last_frames = self._last_frames
        if before is not None:
            sink.last_frames = before.last_frames
            call.count(before)
        self._sink = sink
        await attempt.open(sink, built, body)
        return sink

    def _prepared(self) -> Streamed:
        framing = self._target.framing
        self.sent = self._request.stream(200, framing.content_type, {"Cache-Control": "no-cache"})
        if self._tape is not None:
            self._tape.answered(self.sent.status, framing.content_type, self._told)
        return self.sent

    def _attached(self, output: ClientOutput) -> ClientOutput:
        if self.sent is not None:
            output.attach(self._request)
        return output

    def _ended(self, sink: ClientStream, error: GatewayError | None) -> GatewayError | None:
        """End the client's stream, and say in what: what broke off without a reason stands where nobody went on."""
        sink.close()
        translator = sink.translator
        if error is None or (sink.broke_off and error is not self._call.stopped):
            self._output.send(translator.end())
            error = translator.lost
        if error is not None:
            self._output.send(translator.fail(error))
        if self._call.tape is not None:
            self._call.tape.timed(translator.scope.get("elapsed"))
        return translator.error

    def _let_go(self) -> None:
        self._output.abandon()
        if self._sink is not None:
            self._sink.close()
        self._count()
        if self.sent is not None:
            self._call.metrics.sent(self._sent_frames, self._sent_bytes)

    def _count(self) -> None:
        """Add the stream of an element that is over to the numbers."""
        sink, self._sink = self._sink, None
        if sink is not None:
            self._call.count(sink)
            self._sent_frames += sink.translator.sent_frames
        if self.sent is not None:
            self._sent_bytes += self._output.sent_bytes
            self._output.sent_bytes = 0
