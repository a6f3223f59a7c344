"""One request and its response on one connection, with its timers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from .connection import Connection
from .contract import ErrorKind, Sink, Timeouts, UpstreamError
from .response_reader import ResponseReader

# Loops round timers to milliseconds; a timer that comes this early (seconds) counts as due.
_TIMER_SLACK = 0.001
# A read of this many bytes filled the loop's buffer (uvloop: 256,000, asyncio: 262,144), so more is waiting.
_FULL_READ = 200_000


class Exchange:
    """The caller's hold on a response under way; every method may be called at any time, also from inside the sink.

    A failure before the head is the result of `opened` (for `UpstreamPool.open` to raise), one after it goes to
    `sink.on_error`. There is one loop timer: it is set once, moved only to an earlier time, and when it fires too early
    it is set anew, so that a chunk costs one look at the clock. `written_at`: when the request was written, as
    `time.monotonic` has it.
    """

    __slots__ = (
        "_address",
        "_begun",
        "_connection",
        "_deadline",
        "_head_given",
        "_loop",
        "_over",
        "_paused",
        "_reader",
        "_since",
        "_sink",
        "_time",
        "_timeouts",
        "_timer",
        "opened",
        "written_at",
    )

    def __init__(
        self, connection: Connection, reader: ResponseReader, sink: Sink, timeouts: Timeouts, deadline: float
    ) -> None:
        """`deadline` is the loop time at which `timeouts.total` is over."""
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._connection = connection
        self._address = connection.target.address
        self._reader = reader
        self._sink = sink
        self._timeouts = timeouts
        self._deadline = deadline
        self._head_given = False
        self._begun = False
        self._paused = False
        self._over = False
        self._since = self._time()
        self._timer: asyncio.TimerHandle | None = None
        self.written_at = 0.0
        self.opened: asyncio.Future[UpstreamError | None] = self._loop.create_future()

    def start(self, request: bytes) -> None:
        """Write the request; `opened` is done when the head has been given to the sink, or the exchange has failed."""
        self._connection.exchange = self
        self._connection.write(request)
        self.written_at = time.monotonic()
        self._since = self._time()
        self._set_timer()

    def pause(self) -> None:
        """Stop reading from the socket, so that the peer has to wait. What one read had already brought still comes."""
        if not self._over and not self._paused:
            self._paused = True
            self._connection.pause()

    def resume(self) -> None:
        """Read on; the time limit that `pause` suspended begins anew."""
        if not self._over and self._paused:
            self._paused = False
            self._since = self._time()
            self._set_timer()
            self._connection.resume()

    def close(self) -> None:
        """Drop the connection at once; the sink hears nothing more. Nothing happens when the exchange is over."""
        if not self._over:
            self._stop()
            self._connection.abort()

    def fail(self, kind: ErrorKind, text: str, cause: BaseException | None = None) -> None:
        """Drop the connection and report, to `opened` or to the sink."""
        if self._over:
            return
        error = UpstreamError(kind, text, begun=self._reader.begun)
        error.__cause__ = cause
        sink = self._stop()
        self._connection.abort()
        if self._head_given:
            self._guard("on_error", lambda: sink.on_error(error))
        elif not self.opened.done():
            self.opened.set_result(error)

    # Called by the connection

    def receive(self, data: bytes) -> None:
        """Everything one socket read brought; the one path that runs per chunk."""
        reader = self._reader
        body = reader.feed(data)
        if not self._head_given:
            self._give_head()
            if self._over or not self._head_given:
                return
        if self._begun:
            self._since = self._time()
        if body:
            try:
                self._sink.on_data(body)
            except Exception as error:  # whatever the sink raises is reported by the one rule
                self._sink_raised("on_data", error)
            if self._over:
                return
            if not self._begun and self._sink.begun:
                self._begun = True
                if not reader.complete:
                    self._since = self._time()
                    self._set_timer()
        if reader.complete:
            self._finish()
        elif reader.failure is not None:
            self.fail(reader.failure.kind, f"{self._address}: {reader.failure.text}")
        elif len(data) >= _FULL_READ and not self._paused:
            self._breathe()

    def peer_closed(self, cause: Exception | None, *, eof: bool) -> None:
        """The connection is gone; `eof` says that the peer closed it in order."""
        if eof and self._reader.ends_at_eof():
            self._finish()
        else:
            reason = f" ({cause})" if cause is not None else ""
            self.fail("reset", f"{self._address} closed the connection {self._reader.progress()}{reason}", cause)

    def _breathe(self) -> None:
        """Let all others have their turn: uvloop reads a full socket up to 32 times, 8 MB, before anybody else runs."""
        self._connection.pause()
        self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self._over and not self._paused:
            self._connection.resume()

    # The sink

    def _give_head(self) -> None:
        reader = self._reader
        if reader.head is None:
            if reader.failure is not None:
                self.fail(reader.failure.kind, f"{self._address}: {reader.failure.text}")
            return
        head = reader.head
        self._head_given = True
        self._guard("on_head", lambda: self._sink.on_head(head))
        if not self.opened.done():
            self.opened.set_result(None)

    def _finish(self) -> None:
        reusable = self._reader.reusable
        sink = self._stop()
        self._connection.release(reusable=reusable)
        self._guard("on_end", sink.on_end)

    def _guard(self, method: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever the sink raises is reported by the one rule
            self._sink_raised(method, error)

    def _sink_raised(self, method: str, error: Exception) -> None:
        text = f"{method} of the sink raised {type(error).__name__} on the response of {self._address}"
        self._loop.call_exception_handler({"message": text, "exception": error})
        self.fail("protocol", text, error)

    def _stop(self) -> Sink:
        """The sink, which is let go of: it may hold this exchange, and the cycle would wait for garbage collection."""
        self._over = True
        sink = self._sink
        del self._sink
        self._reader.discard()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return sink

    # Timers

    def _due(self) -> tuple[float, ErrorKind]:
        if self._paused:
            return self._deadline, "total_timeout"
        limit, kind = self._phase()
        due = self._since + limit
        return (due, kind) if due < self._deadline else (self._deadline, "total_timeout")

    def _phase(self) -> tuple[float, ErrorKind]:
        if self._begun:
            return self._timeouts.idle, "idle_timeout"
        return self._timeouts.first, "first_timeout"

    def _set_timer(self) -> None:
        """Make sure that the timer comes no later than the next limit."""
        due, _ = self._due()
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        due, kind = self._due()
        if self._time() + _TIMER_SLACK < due:
            self._set_timer()
            return
        limits = self._timeouts
        if kind == "first_timeout":
            text = f"first timeout: no answer began at {self._address} within {limits.first:g} s of the request"
        elif kind == "idle_timeout":
            text = f"idle timeout: nothing came from {self._address} for {limits.idle:g} s within the body"
        else:
            text = f"total timeout: the exchange with {self._address} was not over within {limits.whole}"
        self.fail(kind, text)
