"""A load client that is never the bottleneck: N streams at once in a process of its own, one JSON line as the result.

Run as `python -m benchmarks.load_client URL --body JSON --streams 100 --chunks 100 --interval 20`.

The delay of a chunk is its arrival minus the moment at which the worker wrote it, which the worker tells afterwards
(`--sent URL`): the two processes share the machine's monotonic clock. It is the way through whatever is between, and
both ends of it; what a proxy adds is the difference to the same figure without the proxy. A worker that falls behind
its own pace is not counted against the proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import socket
import time
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from benchmarks.delays import all_delays
from benchmarks.load_protocol import Load, Measured, StreamProtocol
from benchmarks.loop import run_loop
from benchmarks.streams import FORMS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from proxy.types import JsonObject

# Multiples of it, modulo 1, fill the range from 0 to 1 evenly however many there are.
_GOLDEN = 0.6180339887
# What a slow reader lets the system keep for it: with the default of megabytes a short answer would never be held up.
_SLOW_BUFFER = 64 * 1024


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
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    loop = asyncio.get_running_loop()
    if not load.read_rate:
        _, protocol = await loop.create_connection(lambda: StreamProtocol(load, measured), host, port)
        return protocol
    own = socket.socket()
    try:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        own.setblocking(False)
        await loop.sock_connect(own, (host, port))
        _, protocol = await loop.create_connection(lambda: StreamProtocol(load, measured), sock=own)
    except BaseException:
        own.close()
        raise
    return protocol


def beginnings(streams: int, interval: float, spread: float) -> list[float]:
    """When each stream begins: evenly over `spread` seconds and over the phases of the interval; without one, all at 0.

    Streams that begin together stay in step, which no set of real users does.
    """
    if not spread:
        return [0.0] * streams
    return [spread * index / streams + interval * (index * _GOLDEN % 1) for index in range(streams)]


async def run_load(load: Load) -> Measured:
    """Run all lanes to their end or to the time limit; an answer that is not complete by then counts as a failure.

    The answers that came are not judged yet.
    """
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


def result(
    load: Load, measured: Measured, seconds: float, cpu_seconds: float, sent: Mapping[str, Sequence[int]]
) -> JsonObject:
    """The printed line; `measured` is judged. sent: when the worker wrote each chunk, by stream."""
    return {
        "requests": load.streams * load.rounds,
        "complete": measured.complete,
        "failures": dict(measured.failures),
        "bytes": measured.bytes,
        "seconds": round(seconds, 4),
        "cpu_seconds": round(cpu_seconds, 6),
        "first_byte_ms": _milliseconds(measured.first_byte),
        "first_text_ms": _milliseconds(measured.first_text),
        "delay_ms": _milliseconds(all_delays(measured.progress, sent)),
    }


def _sent(url: str) -> dict[str, list[int]]:
    with urllib.request.urlopen(url, data=b"{}", timeout=60) as response:
        found: dict[str, list[int]] = orjson.loads(response.read())
        return found


def _options(arguments: Sequence[str] | None) -> tuple[Load, str | None]:
    parser = argparse.ArgumentParser(description="Concurrent streams against one URL; prints one JSON line.")
    parser.add_argument("url", help="http://HOST:PORT/PATH")
    parser.add_argument("--body", default="{}", help="the request's JSON text")
    parser.add_argument("--streams", type=int, default=100, help="at once")
    parser.add_argument("--rounds", type=int, default=1, help="requests of each stream, one after the other")
    parser.add_argument("--chunks", type=int, default=100, help="expected in each answer")
    parser.add_argument("--interval", type=float, default=20, help="the worker's, milliseconds")
    parser.add_argument("--form", choices=FORMS, default="nul", help="of the answer")
    parser.add_argument("--last", type=orjson.loads, default={}, help="members of the last frame, as JSON")
    parser.add_argument("--texts", type=int, default=0, help="of an embeddings request")
    parser.add_argument("--spread", type=float, default=0, help="begin the streams evenly over so many milliseconds")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for everything")
    parser.add_argument("--new-connections", action="store_true", help="one for each request")
    parser.add_argument("--read-rate", type=float, default=0, help="bytes a second that each stream reads; 0: all")
    parser.add_argument("--sent", metavar="URL", help="where the worker tells when it wrote each chunk")
    given = parser.parse_args(arguments)
    load = Load(
        url=given.url,
        body=given.body.encode(),
        streams=given.streams,
        chunks=given.chunks,
        interval=given.interval / 1000,
        form=given.form,
        rounds=given.rounds,
        spread=given.spread / 1000,
        timeout=given.timeout,
        new_connections=given.new_connections,
        last=given.last,
        texts=given.texts,
        read_rate=given.read_rate,
    )
    return load, given.sent


def main(arguments: Sequence[str] | None = None) -> None:
    load, sent_url = _options(arguments)
    begin, cpu = time.perf_counter(), time.process_time()
    measured = run_loop(run_load(load))
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    measured.judge()
    line = result(load, measured, seconds, cpu_seconds, _sent(sent_url) if sent_url else {})
    print(orjson.dumps(line).decode(), flush=True)


if __name__ == "__main__":
    main()
