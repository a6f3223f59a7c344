"""What becomes of a worker's response: pushed on to the client, collected, or kept as one answer.

These run inside the socket callback of the upstream connection: nothing here waits. A slow client is handled by pausing
the upstream, see `ClientOutput`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod

from proxy.errors import GatewayError, Kind
from proxy.framing import Decoder, Framing, FramingError
from proxy.limits import ERROR_TEXT_MAX
from proxy.server.output import ClientOutput
from proxy.telemetry.request import BackendMetrics
from proxy.translate.answer import refused
from proxy.translate.plan import Asking, Refusal
from proxy.translate.reader import StreamReader
from proxy.translate.stream import StreamTranslator
from proxy.types import JsonObject
from proxy.upstream import Exchange, ResponseHead, UpstreamError

log = logging.getLogger(__name__)

_KINDS: dict[str, Kind] = {
    "refused": "upstream_refused",
    "connect_timeout": "upstream_timeout",
    "first_timeout": "upstream_timeout",
    "idle_timeout": "upstream_timeout",
    "total_timeout": "upstream_timeout",
    "reset": "upstream_reset",
    "protocol": "upstream_protocol",
    "too_large": "upstream_protocol",
}


def as_gateway_error(error: UpstreamError) -> GatewayError:
    """An exchange's failure in the words of the gateway's error tables."""
    # When the time for the whole is over there is none left for another worker.
    return GatewayError(_KINDS[error.kind], f"the worker failed: {error}", final=error.kind == "total_timeout")


def broke_off(address: str) -> GatewayError:
    """For a stream that ended well as far as HTTP can tell, but without a reason."""
    return GatewayError(
        "upstream_protocol", f"the worker {address} ended its answer without saying that it was complete"
    )


def _own_fault() -> GatewayError:
    """For an exception that nobody foresaw: not the worker's fault, and the client's stream still gets its end."""
    log.exception("the gateway failed on a worker's answer")
    return GatewayError("internal", "the gateway failed on this request; its log has the reason")


class ResponseSink(ABC):
    """One response of a worker, cut into frames. `done` is set when it is over: None, or the error it ended in.

    refusal: what an HTTP status other than 200 means; asking: the backend's rule by which it is read; received_bytes,
    received_frames: what came; spent: seconds of CPU that rewriting took; asked: when the request was sent, set by
    whoever did; first_frames: time of the first read that brought frames; last_frames: of the last one, also of another
    worker's that this one goes on from. Subclasses say what a frame does.
    """

    def __init__(self, framing: Framing, max_frame: int, address: str, metrics: BackendMetrics, started: float) -> None:
        self._decoder: Decoder = framing.new_decoder(max_frame)
        self._address = address
        self._metrics = metrics
        self._started = started
        self.asked = 0.0
        self.first_frames = 0.0
        self.last_frames = 0.0
        self._refused: ResponseHead | None = None
        self._refusal = b""
        self.done: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.exchange: Exchange | None = None
        self.refusal: Refusal | None = None
        self.asking: Asking | None = None
        self.received_bytes = 0
        self.received_frames = 0
        self.spent = 0.0

    @property
    def begun(self) -> bool:
        """Whether a frame came; empty ones are none."""
        return self.received_frames > 0

    def elapsed(self) -> JsonObject:
        """What rules see as `elapsed`: seconds from the request to the first frame and to now."""
        now = time.monotonic()
        return {"first": (self.first_frames or now) - self._started, "total": now - self._started}

    @abstractmethod
    def frames(self, frames: list[bytes]) -> None:
        """Take complete frames. GatewayError ends the exchange."""

    def ended(self) -> None:  # noqa: B027  a whole answer has nothing more to end
        """The body is complete and all its frames were taken. GatewayError where it should not have ended here."""

    def failed(self, error: GatewayError) -> GatewayError | None:
        """The exchange failed; what the request's result is then."""
        return error

    def opened(self, exchange: Exchange) -> None:
        """The exchange is under way; what came with its head may have ended it already."""
        self.exchange = exchange
        if self.done.done():
            exchange.close()

    def close(self) -> None:
        """Nobody wants the rest."""
        if self.exchange is not None:
            self.exchange.close()

    def on_head(self, head: ResponseHead) -> None:
        """Called by the upstream."""
        if head.status != 200:
            self._refused = head

    def on_data(self, data: bytes) -> None:
        """Called by the upstream for each read."""
        self.received_bytes += len(data)
        if self.done.done():
            return
        if self._refused is not None:
            self._refusal += data
            if len(self._refusal) > ERROR_TEXT_MAX:
                self._end(self._refusal_error(self._refused))
            return
        begun = time.monotonic()  # uvloop's own clock has milliseconds, and stands still within a turn
        try:
            self._taken(data, begun)
        except FramingError as error:
            self._end(GatewayError("upstream_protocol", f"the worker {self._address} sent a broken stream: {error}"))
        except GatewayError as error:
            self._end(error)
        except Exception:
            self._end(_own_fault())
        self.spent += time.monotonic() - begun

    def _taken(self, data: bytes, now: float) -> None:
        """now: when it came."""
        frame = self._decoder.only(data)
        self._counted(self._decoder.feed(data) if frame is None else [frame], now)

    def _counted(self, frames: list[bytes], now: float) -> None:
        if frames:
            self.received_frames += len(frames)
            self.frames(frames)
            self._observe(now)

    def on_end(self) -> None:
        """Called by the upstream."""
        if self.done.done():
            return
        if self._refused is not None:
            self._end(self._refusal_error(self._refused))
            return
        try:
            self._counted(self._decoder.finish(), time.monotonic())
            self.ended()
        except FramingError as error:
            self._end(GatewayError("upstream_reset", f"the worker {self._address} ended its answer too early: {error}"))
        except GatewayError as error:
            self._end(error)
        except Exception:
            self._end(_own_fault())
        else:
            self._end(None)

    def on_error(self, error: UpstreamError) -> None:
        """Called by the upstream."""
        self._end(as_gateway_error(error))

    def _refusal_error(self, head: ResponseHead) -> GatewayError:
        text = self._refusal.decode("utf-8", "replace").strip()[:ERROR_TEXT_MAX]
        kind, said = refused(self.refusal, head.status, text)
        message = f"the worker {self._address} answered HTTP {head.status}{': ' if said else ''}{said}"
        return GatewayError(
            kind,
            message,
            upstream_status=head.status,
            retry_after=_seconds(head.headers.get("retry-after")),
        )

    def _observe(self, now: float) -> None:
        """The time of frames that told something; an error frame is not the beginning of an answer."""
        if self.first_frames:
            self._metrics.gap(now - self.last_frames)
        else:
            self._observe_first(now)
        self.last_frames = now

    def _observe_first(self, now: float) -> None:
        self.first_frames = now
        self._metrics.first_frame(now - self.asked)
        if self.last_frames:
            self._metrics.request.switched(now - self.last_frames)
        else:
            self._metrics.request.first_frame(now - self._started)

    def _end(self, error: GatewayError | None) -> None:
        if self.done.done():
            return
        self.done.set_result(self.failed(error) if error is not None else None)
        if error is not None and self.exchange is not None:
            self.exchange.close()


class AnswerSink(ResponseSink):
    """A response that is one answer: `answer` has its bytes once `done` is set."""

    answer = b""

    @property
    def begun(self) -> bool:
        """Whether anything came: all of it is one frame."""
        return self.received_bytes > 0

    def frames(self, frames: list[bytes]) -> None:
        """Keep the one frame of the body."""
        self.answer = frames[0]

    def _observe(self, now: float) -> None:
        """One answer is no stream: its time is the request's."""


class StreamSink(ResponseSink):
    """A worker's stream; `reader` has what its frames mean."""

    reader: StreamReader

    def count_tokens(self) -> None:
        """Count what the worker said that it had read and made, once its stream is over."""
        self._metrics.tokens(*self.reader.own_tokens(), self.last_frames - self.first_frames)


class CollectSink(StreamSink):
    """A stream that is read to its end."""

    def __init__(
        self,
        reader: StreamReader,
        framing: Framing,
        max_frame: int,
        address: str,
        metrics: BackendMetrics,
        started: float,
    ) -> None:
        super().__init__(framing, max_frame, address, metrics, started)
        self.reader = reader
        self.broke_off = False  # as in `ClientStream`

    def frames(self, frames: list[bytes]) -> None:
        """Read each frame."""
        for frame in frames:
            self.reader.read(frame)

    def ended(self) -> None:
        """Make sure that the answer is complete."""
        said = self.reader.complete
        self.broke_off = self.reader.end() and not said

    def failed(self, error: GatewayError) -> GatewayError | None:
        """A failure after the worker said that its answer is complete changes nothing."""
        if not self.reader.complete:
            return error
        self.reader.end()
        return None


class ClientStream(StreamSink):
    """A worker's stream rewritten into the client's, as far as it goes.

    What ends it in an error is left to the owner, who may go on with another worker: the translator's `lost` is then
    set, or the error is `done`'s result alone. complete_only: an end without a reason for it is taken for a loss.
    """

    def __init__(
        self,
        translator: StreamTranslator,
        output: ClientOutput,
        framing: Framing,
        max_frame: int,
        address: str,
        metrics: BackendMetrics,
        started: float,
        *,
        complete_only: bool = False,
    ) -> None:
        super().__init__(framing, max_frame, address, metrics, started)
        self.translator = translator
        self.reader = translator.reader
        self.broke_off = False  # it ended well as far as HTTP can tell, but without a reason
        self._output = output
        self._complete_only = complete_only

    def _taken(self, data: bytes, now: float) -> None:
        """As for any response, with less to do for the usual read: one frame like those before."""
        quick = self.translator.quick
        frame = self._decoder.only(data)
        out = quick(self.translator, frame) if quick is not None and frame is not None else None
        if out is None:
            self._counted(self._decoder.feed(data) if frame is None else [frame], now)
            return
        self.received_frames += 1
        self._output.send(out)
        self._observe(now)

    def frames(self, frames: list[bytes]) -> None:
        """Rewrite and pass on."""
        self._time()
        self._output.send(self.translator.feed(frames))
        if self.translator.lost is not None:
            raise self.translator.lost

    def _time(self) -> None:
        if not self.translator.finished:
            self.translator.scope["elapsed"] = self.elapsed()

    def ended(self) -> None:
        """End the client's stream."""
        translator = self.translator
        self._time()
        if self._complete_only and translator.reader.frames and not translator.reader.complete:
            self.broke_off = True
            raise broke_off(self._address)
        self._output.send(translator.end())
        if translator.lost is not None:
            raise translator.lost

    def failed(self, error: GatewayError) -> GatewayError | None:
        """A failure after the finishing frame changes nothing."""
        return None if self.translator.finished or self.translator.reader.complete else error

    def opened(self, exchange: Exchange) -> None:
        """As for each sink; a client that does not read makes this worker wait too."""
        super().opened(exchange)
        self._output.follow(exchange)


def _seconds(retry_after: str | None) -> float | None:
    """The header's number; a date is not understood."""
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdigit() else None
