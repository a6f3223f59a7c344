"""What becomes of a worker's response: pushed on to the client, collected, or kept as one answer.

These run inside the socket callback of the upstream connection: nothing here waits. A slow client is handled by pausing
the upstream, see `ClientStream`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from abc import ABC, abstractmethod

from aiohttp.http import StreamWriter

from proxy.errors import GatewayError, Kind
from proxy.framing import Decoder, Framing, FramingError
from proxy.limits import CLIENT_BUFFER_BYTES, ERROR_TEXT_MAX
from proxy.telemetry.request import RequestMetrics
from proxy.translate.stream import StreamReader, StreamTranslator
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
    return GatewayError(_KINDS[error.kind], f"the worker failed: {error}")


def _own_fault() -> GatewayError:
    """For an exception that nobody foresaw: not the worker's fault, and the client's stream still gets its end."""
    log.exception("the gateway failed on a worker's answer")
    return GatewayError("internal", "the gateway failed on this request; its log has the reason")


class ResponseSink(ABC):
    """One response of a worker, cut into frames. `done` is set when it is over: None, or the error it ended in.

    received_bytes, received_frames: what came; spent: seconds of CPU that rewriting took; last_frames: time of the
    last read that brought frames. Subclasses say what a frame does.
    """

    def __init__(self, framing: Framing, max_frame: int, address: str, metrics: RequestMetrics, started: float) -> None:
        self._decoder: Decoder = framing.new_decoder(max_frame)
        self._address = address
        self._metrics = metrics
        self._started = started
        self._last_frames = 0.0
        self._refused: ResponseHead | None = None
        self._refusal = b""
        self.done: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self.exchange: Exchange | None = None
        self.received_bytes = 0
        self.received_frames = 0
        self.spent = 0.0

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
        begun = time.perf_counter()
        try:
            frames = self._decoder.feed(data)
            if frames:
                self._observe(len(frames))
                self.frames(frames)
        except FramingError as error:
            self._end(GatewayError("upstream_protocol", f"the worker {self._address} sent a broken stream: {error}"))
        except GatewayError as error:
            self._end(error)
        except Exception:
            self._end(_own_fault())
        self.spent += time.perf_counter() - begun

    def on_end(self) -> None:
        """Called by the upstream."""
        if self.done.done():
            return
        if self._refused is not None:
            self._end(self._refusal_error(self._refused))
            return
        try:
            frames = self._decoder.finish()
            if frames:
                self._observe(len(frames))
                self.frames(frames)
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
        message = f"the worker {self._address} answered HTTP {head.status}{': ' if text else ''}{text}"
        return GatewayError("upstream_status", message)

    def _observe(self, count: int) -> None:
        self.received_frames += count
        now = time.monotonic()  # uvloop's own clock has milliseconds, and stands still within a turn
        if self._last_frames:
            self._metrics.gap(now - self._last_frames)
        else:
            self._metrics.first_frame(now - self._started)
        self._last_frames = now

    def _end(self, error: GatewayError | None) -> None:
        if self.done.done():
            return
        self.done.set_result(self.failed(error) if error is not None else None)
        if error is not None and self.exchange is not None:
            self.exchange.close()


class AnswerSink(ResponseSink):
    """A response that is one answer: `answer` has its bytes once `done` is set."""

    answer = b""

    def frames(self, frames: list[bytes]) -> None:
        """Keep the one frame of the body."""
        self.answer = frames[0]

    def _observe(self, count: int) -> None:
        """One answer is no stream: its time is the request's."""


class CollectSink(ResponseSink):
    """A worker's stream that is read to its end; `reader` has the result."""

    def __init__(
        self,
        reader: StreamReader,
        framing: Framing,
        max_frame: int,
        address: str,
        metrics: RequestMetrics,
        started: float,
    ) -> None:
        super().__init__(framing, max_frame, address, metrics, started)
        self.reader = reader

    def frames(self, frames: list[bytes]) -> None:
        """Read each frame."""
        for frame in frames:
            self.reader.read(frame)

    def ended(self) -> None:
        """Make sure that the answer is complete."""
        self.reader.end()

    def failed(self, error: GatewayError) -> GatewayError | None:
        """A failure after the worker said that its answer is complete changes nothing."""
        return None if self.reader.finish is not None else error


class ClientStream(ResponseSink):
    """A worker's stream rewritten into the client's.

    Until `attach` gives it the client's writer, output is kept; `begun` is set with the first of it. Afterwards each
    read of the upstream makes one write. When more than `CLIENT_BUFFER_BYTES` wait in the client's socket the upstream
    is paused until they have gone, so a slow client costs a bounded amount of memory.
    """

    def __init__(
        self,
        translator: StreamTranslator,
        framing: Framing,
        max_frame: int,
        address: str,
        metrics: RequestMetrics,
        started: float,
    ) -> None:
        super().__init__(framing, max_frame, address, metrics, started)
        self.translator = translator
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.sent_bytes = 0
        self._kept: list[bytes] = []
        self._writer: StreamWriter | None = None
        self._draining: asyncio.Task[None] | None = None

    def frames(self, frames: list[bytes]) -> None:
        """Rewrite and pass on."""
        self._out(self.translator.feed(frames))
        if self.translator.closed:
            self._end(self.translator.error)

    def ended(self) -> None:
        """End the client's stream."""
        self._out(self.translator.end())
        if self.translator.error is not None:
            raise self.translator.error

    def failed(self, error: GatewayError) -> GatewayError | None:
        """Tell the client in its own stream, unless its answer was complete already."""
        if not self.translator.closed:
            self._out(self.translator.fail(error))
        return self.translator.error

    def attach(self, writer: StreamWriter) -> None:
        """Write what was kept, and from now on at once."""
        self._writer = writer
        kept, self._kept = b"".join(self._kept), []
        if kept:
            self._write(writer, kept)

    async def drained(self) -> None:
        """Wait until a paused client has taken what waits."""
        if self._draining is not None:
            await self._draining

    def abandon(self) -> None:
        """The client is gone: stop everything."""
        if self._draining is not None:
            self._draining.cancel()
        if self.exchange is not None:
            self.exchange.close()

    def _out(self, data: bytes) -> None:
        if not data:
            return
        self.sent_bytes += len(data)
        if self._writer is not None:
            self._write(self._writer, data)
            return
        self._kept.append(data)
        if not self.begun.done():
            self.begun.set_result(None)

    def _write(self, writer: StreamWriter, data: bytes) -> None:
        transport = writer.transport
        if transport is None or transport.is_closing():
            return  # the client has left; its handler is being cancelled right now
        # Framed here, because a coroutine for each chunk would cost as much as the rewriting.
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if writer.chunked else data)
        if self._draining is None and transport.get_write_buffer_size() > CLIENT_BUFFER_BYTES:
            if self.exchange is not None:
                self.exchange.pause()  # now: a task's turn comes only after everything that waits in the socket
            self._draining = asyncio.ensure_future(self._drain(writer))

    async def _drain(self, writer: StreamWriter) -> None:
        try:
            # A client that leaves meanwhile ends its handler, which ends everything else.
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        finally:
            self._draining = None
            if self.exchange is not None:
                self.exchange.resume()
