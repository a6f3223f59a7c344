"""A model server that costs next to nothing: precomputed frames, paced or flat out, in a process of its own.

`python -m benchmarks.fake_worker --chunks 100 --interval 20` prints `listening HOST:PORT` and serves until it is ended.
It is a FastChat worker, the controller that names it, and an OpenAI-compatible server.
`POST /bench/answer {"chunks": C, "interval_ms": I}` sets the answer of the streams that begin afterwards, and
`POST /bench/sent` tells when each chunk of each paced stream was written since then.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import TYPE_CHECKING, cast

import httptools
import orjson

from benchmarks.answers import marked
from benchmarks.fake_replies import Answer, Worker
from benchmarks.loop import run_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# asyncio's default of 100 pending connections is too few for a load that opens 1,000 at once.
BACKLOG = 4096

# uvicorn sends no content type for FastChat's stream either.
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENTS_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class WorkerProtocol(asyncio.Protocol):
    """One connection: requests in turn, each answered before the next is read."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._body: list[bytes] = []
        self._path = ""
        self._keep_alive = True
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transport is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._worker.connections += 1
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._worker.connections -= 1
        if self._stream is not None:
            self._stream.stop()

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.paused = True

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    # The names below are httptools' callbacks.

    def on_message_begin(self) -> None:
        self._body.clear()

    def on_url(self, url: bytes) -> None:
        self._path = url.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        # Asked now: the parser has forgotten it by the end of a stream.
        self._keep_alive = self._parser.should_keep_alive()
        body = b"".join(self._body)
        if self._path == "/worker_generate_stream":
            self._begin_stream(_STREAM_HEAD, self._worker.answer.writes, body)
        elif self._path == "/v1/chat/completions" and _wants_stream(body):
            self._begin_stream(_EVENTS_HEAD, self._worker.answer.event_writes, body)
        else:
            self._transport.write(self._reply(body))
            self._finish()

    def _begin_stream(self, head: bytes, writes: list[bytes], body: bytes) -> None:
        self._transport.write(head)
        self._stream = Stream(self._worker, self._transport, self._loop, writes, self._end_stream)
        self._stream.start(marked(body))

    def _end_stream(self) -> None:
        self._stream = None
        self._finish()

    def _finish(self) -> None:
        if not self._keep_alive:
            self._transport.close()

    def _reply(self, body: bytes) -> bytes:
        try:
            document = orjson.loads(body or b"{}")
            text = self._worker.reply(self._path, document if isinstance(document, dict) else {})
        except (TypeError, ValueError) as error:
            return _response(b"400 Bad Request", orjson.dumps({"detail": str(error)}))
        return _response(b"404 Not Found", b'{"detail":"Not Found"}') if text is None else _response(b"200 OK", text)


def _wants_stream(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and document.get("stream") is True


def _response(status: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 %b\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class Stream:
    """One running answer. Frame k is due k intervals after the request, so a late frame delays no other."""

    def __init__(
        self,
        worker: Worker,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        writes: list[bytes],
        done: Callable[[], None],
    ) -> None:
        self.paused = False
        self._worker = worker
        self._writes = writes
        self._interval = worker.answer.interval
        self._transport = transport
        self._loop = loop
        self._done = done
        self._next = 0
        self._handle: asyncio.Handle | None = None
        self._begin = 0.0
        self._sent: list[int] = []

    def start(self, number: bytes | None) -> None:
        """Begin now. number: of the stream, for the record of what was sent when."""
        if number is not None and self._interval:
            self._worker.sent[number.decode("latin-1")] = self._sent
        # The loop's own clock may be a millisecond old; the schedule is held against the real one.
        self._begin = time.monotonic()
        self._worker.streams += 1
        self._tick()

    def _tick(self) -> None:
        self._handle = None
        if self.paused:
            return
        interval = self._interval
        now = 0.0
        if interval:
            now = time.monotonic()
            self._sent.append(int(now * 1e6))
        self._transport.write(self._writes[self._next])
        self._next += 1
        if self._next == len(self._writes):
            self._worker.streams -= 1
            self._done()
        elif interval:
            wait = self._begin + self._next * interval - now
            self._handle = self._loop.call_later(max(wait, 0), self._tick)
        else:
            self._handle = self._loop.call_soon(self._tick)

    def resume(self) -> None:
        self.paused = False
        if self._handle is None:
            self._tick()

    def stop(self) -> None:
        """The client has gone."""
        self._worker.streams -= 1
        self.paused = True
        if self._handle is not None:
            self._handle.cancel()


async def serve(host: str, port: int, answer: Answer) -> None:
    """Serve until cancelled; prints the address, which port 0 leaves to the system."""
    loop = asyncio.get_running_loop()
    worker = Worker(answer)
    server = await loop.create_server(lambda: WorkerProtocol(worker), host, port, backlog=BACKLOG)
    address = f"{host}:{server.sockets[0].getsockname()[1]}"
    worker.address = f"http://{address}"
    print(f"listening {address}", flush=True)
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A fast fake model server with precomputed frames.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument(
        "--chunks", type=int, default=100, help="frames of one answer, the trailing finish frame included"
    )
    parser.add_argument("--interval", type=float, default=20, help="milliseconds between frames; 0: flat out")
    options = parser.parse_args(arguments)
    run_loop(serve("127.0.0.1", options.port, Answer(options.chunks, options.interval / 1000)))


if __name__ == "__main__":
    main()
