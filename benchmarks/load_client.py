"""A load client that is never the bottleneck: N streams at once in a process of its own, one JSON line as the result.

Run as `python -m benchmarks.load_client URL --body JSON --streams 100 --chunks 100 --interval 20`.

The delay of chunk k is its arrival minus (the moment its request was written + k intervals): the way there and back,
the work of whatever is between, and the timer of the fake worker (a millisecond of grain, so a delay can be slightly
negative). What a proxy adds is the difference to the same figure without the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import httptools
import orjson

from benchmarks.answers import final_text
from benchmarks.loop import run_loop
from benchmarks.streams import FRAMINGS, Reading, new_reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.types import JsonObject


# Multiples of it, modulo 1, fill the range from 0 to 1 evenly however many there are.
_GOLDEN = 0.6180339887


@dataclass(frozen=True)
class Load:
    """What to send and what must come back. Times are seconds."""

    url: str
    body: bytes
    streams: int
    chunks: int
    interval: float
    framing: str = "nul"
    rounds: int = 1
    spread: float = 0.0
    timeout: float = 120.0
    new_connections: bool = False


@dataclass
class Measured:
    """What all streams of a load saw. Times are seconds; `failures` counts answers by what was wrong with them."""

    first_byte: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    chunks: int = 0
    bytes: int = 0
    complete: int = 0
    failures: Counter[str] = field(default_factory=Counter)


class StreamProtocol(asyncio.Protocol):
    """One connection: one request at a time, its answer read and timed."""

    def __init__(self, load: Load, measured: Measured) -> None:
        self._load = load
        self._measured = measured
        self._loop = asyncio.get_running_loop()
        self._clock = time.perf_counter
        self._request = _request(load)
        self._expected = final_text(load.chunks)
        self._answered: asyncio.Future[None] | None = None
        self._lost: asyncio.Future[None] = self._loop.create_future()

    async def ask(self) -> None:
        """Send the request and wait for the whole answer, whatever it is; the result goes into `measured`."""
        self._answered = self._loop.create_future()
        self._reading: Reading = new_reading(self._load.framing)
        self._parser = httptools.HttpResponseParser(self)
        self._first = 0.0
        self._seen = 0
        self._begin = self._clock()
        self._transport.write(self._request)
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
        if not self._first:
            self._first = self._clock()
            self._measured.first_byte.append(self._first - self._begin)
        self._measured.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"broken HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost.set_result(None)
        if self._answered is not None and not self._answered.done():
            self._end("connection lost in the middle of the answer" if self._first else "connection lost, no answer")

    # httptools' callbacks.

    def on_body(self, data: bytes) -> None:
        count = self._reading.feed(data)
        if not count:
            return
        now = self._clock() - self._begin
        interval, seen = self._load.interval, self._seen
        if interval:
            self._measured.delays.extend([now - index * interval for index in range(seen, seen + count)])
        self._seen = seen + count

    def on_message_complete(self) -> None:
        self._measured.chunks += self._seen
        if self._parser.get_status_code() != 200:
            self._end(f"status {self._parser.get_status_code()}")
        elif self._reading.text() != self._expected:
            self._end("the text differs from the expected one")
        elif self._load.framing != "sse" and self._seen != self._load.chunks:
            self._end(f"{self._seen} chunks instead of {self._load.chunks}")
        else:
            self._end(None)
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _end(self, failure: str | None) -> None:
        if failure is None:
            self._measured.complete += 1
        else:
            self._measured.failures[failure] += 1
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


def _request(load: Load) -> bytes:
    parts = urlsplit(load.url)
    head = "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{}\r\n"
    closing = "connection: close\r\n" if load.new_connections else ""
    return head.format(parts.path or "/", parts.netloc, len(load.body), closing).encode() + load.body


async def _lane(load: Load, measured: Measured, begin: float) -> None:
    await asyncio.sleep(begin)
    protocol: StreamProtocol | None = None
    try:
        for _ in range(load.rounds):
            if protocol is None:
                protocol = await _connect(load, measured)
            await protocol.ask()
            if not protocol.reusable:
                await protocol.close()
                protocol = None
    except OSError as error:
        measured.failures[f"cannot connect: {error.strerror}"] += 1
    finally:
        if protocol is not None:
            await protocol.close()


async def _connect(load: Load, measured: Measured) -> StreamProtocol:
    parts = urlsplit(load.url)
    _, protocol = await asyncio.get_running_loop().create_connection(
        lambda: StreamProtocol(load, measured), parts.hostname or "127.0.0.1", parts.port or 80
    )
    return protocol


def beginnings(streams: int, interval: float, spread: float) -> list[float]:
    """When each stream begins: evenly over `spread` seconds and over the phases of the interval; without one, all at 0.

    Streams that begin together stay in step, which no set of real users does; and a rush of requests at the start would
    be seen in the delay of every chunk, since that is counted from the request.
    """
    if not spread:
        return [0.0] * streams
    return [spread * index / streams + interval * (index * _GOLDEN % 1) for index in range(streams)]


async def run_load(load: Load) -> Measured:
    """Run all lanes to their end or to the time limit; an answer that is not complete by then counts as a failure."""
    measured = Measured()
    lanes = [
        asyncio.ensure_future(_lane(load, measured, begin))
        for begin in beginnings(load.streams, load.interval, load.spread)
    ]
    ended, late = await asyncio.wait(lanes, timeout=load.timeout, return_when=asyncio.FIRST_EXCEPTION)
    for lane in late:
        lane.cancel()
    for lane in ended:
        lane.result()
    if late:
        await asyncio.wait(late)
        measured.failures[f"not complete after {load.timeout:g} s"] += len(late)
    return measured


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted `values` that `share` of them do not exceed; None of no values."""
    return values[max(math.ceil(share * len(values)) - 1, 0)] if values else None


def _milliseconds(values: list[float]) -> JsonObject:
    ordered = sorted(values)
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    found = {name: percentile(ordered, share) for name, share in shares.items()}
    return {name: None if value is None else round(value * 1000, 3) for name, value in found.items()}


def result(load: Load, measured: Measured, seconds: float, cpu_seconds: float) -> JsonObject:
    """The printed line."""
    return {
        "requests": load.streams * load.rounds,
        "complete": measured.complete,
        "failures": dict(measured.failures),
        "chunks": measured.chunks,
        "bytes": measured.bytes,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 6),
        "first_byte_ms": _milliseconds(measured.first_byte),
        "delay_ms": _milliseconds(measured.delays),
    }


def _options(arguments: Sequence[str] | None) -> Load:
    parser = argparse.ArgumentParser(description="Concurrent streams against one URL; prints one JSON line.")
    parser.add_argument("url", help="http://HOST:PORT/PATH")
    parser.add_argument("--body", default="{}", help="the request's JSON text")
    parser.add_argument("--streams", type=int, default=100, help="at once")
    parser.add_argument("--rounds", type=int, default=1, help="requests of each stream, one after the other")
    parser.add_argument("--chunks", type=int, default=100, help="expected in each answer")
    parser.add_argument(
        "--interval", type=float, default=20, help="the worker's, milliseconds; 0: delays are not measured"
    )
    parser.add_argument("--framing", choices=FRAMINGS, default="nul")
    parser.add_argument("--spread", type=float, default=0, help="begin the streams evenly over so many milliseconds")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for everything")
    parser.add_argument("--new-connections", action="store_true", help="one for each request")
    given = parser.parse_args(arguments)
    return Load(
        url=given.url,
        body=given.body.encode(),
        streams=given.streams,
        chunks=given.chunks,
        interval=given.interval / 1000,
        framing=given.framing,
        rounds=given.rounds,
        spread=given.spread / 1000,
        timeout=given.timeout,
        new_connections=given.new_connections,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    load = _options(arguments)
    begin, cpu = time.perf_counter(), time.process_time()
    measured = run_loop(run_load(load))
    line = result(load, measured, time.perf_counter() - begin, time.process_time() - cpu)
    print(orjson.dumps(line).decode(), flush=True)


if __name__ == "__main__":
    main()
