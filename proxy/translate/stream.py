"""A worker's stream rewritten frame by frame, either into the client's stream or into one collected result.

Nothing here waits or writes: bytes of decoded frames in, bytes for the client out. The end of the worker's stream, a
broken frame and an error frame all come out as a legal end in the client's dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import orjson

from proxy.errors import Fault, GatewayError
from proxy.translate.errors import error_frame
from proxy.translate.mapping import OMIT, RULE_FAILURES, Omit, Scope
from proxy.translate.operations import summed
from proxy.translate.plan import ErrorTable, StreamSource, StreamTarget
from proxy.translate.reader import NO_RESULTS, SPENT, Received, StreamReader
from proxy.translate.reasoning_view import ReasoningView
from proxy.translate.request import Built
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from proxy.translate.quick import Step as QuickStep
    from proxy.translate.splice import Spliced

# What the frame before the first one sees.
NOTHING_YET: Final[JsonObject] = {**NO_RESULTS, "text": "", "new_text": "", "finish": None}


def failure(target: StreamTarget, errors: ErrorTable, error: GatewayError, text: str = "") -> bytes:
    """The frame of an error in a stream, of which the client has `text` already."""
    return target.framing.encode(orjson.dumps(error_frame(errors, error, text)))


class StreamTranslator:
    """A worker's stream in, the client's stream out. scope: what the reading of the worker's frames sees; client: what
    the mapping of the client's frames sees, None where that is the same. earlier: the usages of the streams that came
    before it in the same response; more: another one follows, so that this one's end is not that of the response.

    `feed`, `end`, `fail` and `conclude` give the bytes to write; after `closed` nothing more comes. `lost` is set when
    the worker's stream went wrong: then either `fail` ends the client's stream with that error, or `resume` (of a
    `resumable` one) makes the next `feed` go on with another worker's. `error` is what the client's stream ended in.
    """

    __slots__ = (
        "_earlier",
        "_errors",
        "_first",
        "_mended",
        "_more",
        "_sent_length",
        "_target",
        "closed",
        "error",
        "finished",
        "lost",
        "quick",
        "reader",
        "scope",
        "sent_frames",
        "spliced",
    )

    def __init__(
        self,
        source: StreamSource,
        target: StreamTarget,
        errors: ErrorTable,
        scope: Scope,
        *,
        client: Scope | None = None,
        resumable: bool = False,
        earlier: Sequence[Json] = (),
        more: bool = False,
    ) -> None:
        self.reader = StreamReader(source, scope, target.hold_back, resumable=resumable)
        self.scope = self.reader.scope if client is None else {**client, **NO_RESULTS}
        self._target = target
        self._errors = errors
        self._earlier = earlier
        self._more = more
        self._sent_length = 0
        self._first = target.first  # None once it is out
        self._mended = False  # the frames are no longer those of one worker
        # Rewrites a usual frame where it is one; None before the client's first frame and from the finish on.
        self.quick = self._usual()
        self.spliced: Spliced | None = None  # how far its long frames were rewritten
        self.sent_frames = 0
        self.finished = False  # the finishing frame is out
        self.closed = False
        self.lost: GatewayError | None = None
        self.error: GatewayError | None = None

    def feed(self, frames: Sequence[bytes]) -> bytes:
        """The bytes for the client that these frames make; those before a broken frame where `lost` is set by it."""
        if self.closed or self.lost is not None:
            return b""
        out: list[bytes] = []
        reader = self.reader
        try:
            for frame in frames:
                if self.quick is not None and (data := self.quick(self, frame)) is not None:
                    out.append(data)
                    continue
                self.spliced = None
                if reader.read(frame):
                    out.append(self._emit(final=reader.finish is not None))
        except GatewayError as error:
            self.lost, self.quick = error, None
        return out[0] if len(out) == 1 else b"".join(out)

    def end(self) -> bytes:
        """The worker's stream ended cleanly; the bytes that end the client's, none where `lost` is set by it."""
        if self.closed or self.lost is not None:
            return b""
        try:
            tail = self._emit(final=True) if self.reader.end() else b""
        except GatewayError as error:
            self.lost = error
            return b""
        return tail + self._close()

    def fail(self, error: GatewayError) -> bytes:
        """End the client's stream with this error, unless the answer was complete already."""
        if self.closed:
            return b""
        if self.reader.announced and self.lost is None:
            return self.end() or self.fail(self.lost or error)
        if self.finished:
            return self._close()
        self.error = error
        self.sent_frames += 1
        self._more = False
        return failure(self._target, self._errors, error, self.reader.seen_text) + self._close()

    def resume(self, scope: Scope, received: Received | None = None) -> None:
        """The next frames are those of a worker that goes on from what was received (default: here); `scope` is its
        request's. GatewayError where the rule cannot be followed; then nothing has changed.
        """
        apart = self.scope is not self.reader.scope
        self.reader = self.reader.continued(scope, received)
        if not apart:
            self.scope = self.reader.scope
        self.lost, self.quick, self._mended = None, None, True

    def conclude(self) -> bytes:
        """End the client's stream as complete with the text that there is. GatewayError where it cannot be written."""
        self.reader.finish, self._mended = SPENT, True
        return self._emit(final=True) + self._close()

    def _close(self) -> bytes:
        self.closed, self.quick = True, None
        return b"" if self._more else self._target.framing.terminator

    def _view(self, view: ReasoningView, text: str, *, final: bool) -> None:
        """Put the text and the thought that the client is to see into the scope."""
        self.quick = None
        thought, new = self.reader.viewed(text, final=final)
        if not self._sent_length:
            new = self.reader.flow.prefix + new
        self._sent_length += len(new)
        incremental, scope = self._target.mode == "incremental", self.scope
        scope["new_text"], scope["new_reasoning"] = new, thought or None
        scope["text"] = new if incremental else self.reader.flow.prefix + view.text
        scope["reasoning"] = (thought if incremental else view.reasoning) or None

    def _usual(self) -> QuickStep | None:
        """What rewrites the usual frame, where it sees all that matters."""
        plain = self.reader.flow.is_plain and self.reader.view is None
        step = self._target.step
        return step.run if step and plain and self._first is None and not self._mended else None

    def _emit(self, *, final: bool) -> bytes:
        reader, target, scope = self.reader, self._target, self.scope
        text = reader.final_text() if final else reader.flow.advance()
        if reader.view is not None:
            self._view(reader.view, text, final=final)
        else:
            scope["new_text"] = new = text[self._sent_length :]
            scope["text"] = new if target.mode == "incremental" else text
            self._sent_length = len(text)
        scope["finish"] = reader.finish
        scope["usage"] = reader.usage
        scope["logprobs"] = reader.logprobs
        try:
            if self._mended and target.resumed is not None:
                chunk = target.resumed(scope)
                scope["chunk"] = None if chunk is OMIT else chunk
            frames = self._mapped(final=final)
            data = [target.framing.encode(orjson.dumps(frame)) for frame in frames]
        except RULE_FAILURES as problem:
            text = f"a frame of the worker does not fit the rule: {problem}"
            raise GatewayError("upstream_protocol", text, fault=Fault("result")) from None
        except orjson.JSONEncodeError as problem:
            raise GatewayError(
                "upstream_protocol",
                f"the worker sent a frame that cannot be passed on: {problem}",
                fault=Fault("result"),
            ) from None
        if final:
            self.quick = None
        elif frames and self._first is not None:
            self._first = None
            self.quick = self._usual()
        self.finished = final
        self.sent_frames += len(frames)
        return data[0] if len(data) == 1 else b"".join(data)

    def _mapped(self, *, final: bool) -> list[Json | Omit]:
        """The frames for the client, those before the first and behind the last too."""
        target, scope = self._target, self.scope
        usual = None if self.reader.view is not None else target.usual
        frame = (target.last or target.chunk)(scope) if final else (usual or target.chunk)(scope)
        frames: list[Json | Omit] = [] if frame is OMIT else [frame]
        if final and target.final is not None and not self._more:
            seen = {**scope, "usage": summed([*self._earlier, scope["usage"]])} if self._earlier else scope
            if (frame := target.final(seen)) is not OMIT:
                frames.append(frame)
        if frames and self._first is not None and (frame := self._first({**scope, **NOTHING_YET})) is not OMIT:
            frames.insert(0, frame)
        return frames


def translator_of(
    built: Built, scope: Scope, *, resumable: bool = False, earlier: Sequence[Json] = (), more: bool = False
) -> StreamTranslator:
    """What rewrites the stream of the worker that got this request. scope: the client's; earlier, more: of the streams
    before and behind it, as for `StreamTranslator`.
    """
    route = built.route
    if route.source is None or route.target is None:
        raise GatewayError("internal", f"the rule at {route.place} writes no stream")
    client = None if route.call is None else scope
    return StreamTranslator(
        route.source,
        route.target,
        route.errors,
        built.scope,
        client=client,
        resumable=resumable,
        earlier=earlier,
        more=more,
    )
