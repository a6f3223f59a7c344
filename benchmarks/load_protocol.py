"""One connection of the load client: requests sent, answers read, and what all of them saw."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httptools

from benchmarks.answers import MARK_BLANK, MARK_DIGITS, mark
from benchmarks.streams import Progress, Reading, new_reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.types import JsonObject


@dataclass(frozen=True)
class Load:
    """What to send and what must come back. Times are seconds.

    body: MARK_BLANK in it becomes the number of the stream. form, last, texts: see `new_reading`. read_rate: bytes a
    second that each stream reads, 0 for as fast as they come.
    """

    url: str
    body: bytes
    streams: int
    chunks: int
    interval: float
    form: str = "nul"
    rounds: int = 1
    spread: float = 0.0
    timeout: float = 120.0
    new_connections: bool = False
    last: JsonObject = field(default_factory=dict)
    texts: int = 0
    read_rate: float = 0.0


@dataclass
class Measured:
    """What all streams of a load saw. Times are seconds; `failures` counts answers by what was wrong with them.

    `judge` reads the answers once the load is over, so that reading them disturbs nobody's time; `complete`,
    `first_text` and `progress`, by the number of the stream as the worker writes it, are there afterwards.
    """

    first_byte: list[float] = field(default_factory=list)
    first_text: list[float] = field(default_factory=list)
    bytes: int = 0
    complete: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    progress: dict[str, Progress] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    answers: list[tuple[int, float, Reading]] = field(default_factory=list)

    def judge(self) -> None:
        for number, begin, reading in self.answers:
            wrong = reading.wrong()
            if wrong is not None:
                self.failures[wrong] += 1
                continue
            self.complete += 1
            progress = reading.progress()
            self.progress[f"{number:0{MARK_DIGITS}d}"] = progress
            self.first_text += [now - begin for now, count in progress if count][:1]
        self.answers.clear()


class StreamProtocol(asyncio.Protocol):
    """One connection: one request at a time, its answer read and timed."""

    def __init__(self, load: Load, measured: Measured) -> None:
        self._load = load
        self._measured = measured
        self._loop = asyncio.get_running_loop()
        self._clock = time.monotonic
        self._request = _request(load)
        self._answered: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()

    async def ask(self) -> None:
        """Send the request and wait for the whole answer, whatever it is; the result goes into `measured`."""
        load = self._load
        self._answered = self._loop.create_future()
        self._reading = new_reading(load.form, load.chunks, last=load.last, texts=load.texts)
        self._parser = httptools.HttpResponseParser(self)
        self._first = 0.0
        self._number = next(self._measured.numbers)
        request = self._request.replace(MARK_BLANK, mark(self._number))
        self._begin = self._clock()
        self._transport.write(request)
        await self._answered

    @property
    def reusable(self) -> bool:
        return not self._load.new_connections and not self._transport.is_closing()

    async def close(self) -> None:
        self._transport.close()
        await self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transport is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._answered is None or self._answered.done():
            return
        self._now = self._clock()
        if not self._first:
            self._first = self._now
            self._measured.first_byte.append(self._now - self._begin)
        self._measured.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"broken HTTP: {error}")
        if self._load.read_rate:
            self._transport.pause_reading()
            self._loop.call_later(len(data) / self._load.read_rate, self._resume)

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set_result(None)
        if self._answered is not None and not self._answered.done():
            self._end("connection lost in the middle of the answer" if self._first else "connection lost, no answer")

    # httptools' callbacks.

    def on_body(self, data: bytes) -> None:
        self._reading.feed(data, self._now)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        self._end(None if status == 200 else f"status {status}")
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _end(self, failure: str | None) -> None:
        if failure is None:
            self._measured.answers.append((self._number, self._begin, self._reading))
        else:
            self._measured.failures[failure] += 1
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


def _request(load: Load) -> bytes:
    parts = urlsplit(load.url)
    head = "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n"
    closing = "connection: close\r\n" if load.new_connections else ""
    return head.format(parts.path or "/", parts.netloc, len(load.body), closing).encode() + load.body
