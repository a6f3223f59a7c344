"""A FastChat worker that costs next to nothing: precomputed frames, paced or flat out, in a process of its own.

`python -m benchmarks.fake_worker --chunks 100 --interval 20` prints `listening HOST:PORT` and serves until it is ended.
`POST /bench/answer {"chunks": C, "interval_ms": I}` sets the answer of the streams that begin afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import httptools
import orjson

from benchmarks.answers import MODEL, PROMPT_TOKENS, frames
from benchmarks.loop import run_loop
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from collections.abc import Sequence

# asyncio's default of 100 pending connections is too few for a load that opens 1,000 at once.
BACKLOG = 4096
EMBEDDING_SIZE = 1024

# uvicorn sends no content type for FastChat's stream either.
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"

_CONVERSATION: JsonObject = {
    "name": "vicuna_v1.1",
    "system_template": "{system_message}",
    "system_message": "Be brief.",
    "roles": ["USER", "ASSISTANT"],
    "messages": [],
    "offset": 0,
    "sep_style": 2,
    "sep": " ",
    "sep2": "</s>",
    "stop_str": None,
    "stop_token_ids": None,
}


class Answer:
    """What the worker streams: `writes` are HTTP chunks ready for the socket, `interval` is seconds, 0 for flat out."""

    def __init__(self, chunks: int, interval: float) -> None:
        self.frames = frames(chunks)
        self.writes = [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in self.frames]
        self.writes[-1] += _LAST_CHUNK
        self.interval = interval


class Worker:
    """State that all connections share."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.streams = 0
        self.connections = 0
        self.replies: dict[str, Callable[[JsonObject], Json]] = {
            "/worker_get_status": lambda _: {"model_names": [MODEL], "speed": 1, "queue_length": self.streams},
            "/worker_get_conv_template": lambda _: {"conv": _CONVERSATION},
            "/model_details": lambda _: {"context_length": 1 << 20},
            "/count_token": lambda body: {"count": len(str(body.get("prompt", "")).split()), "error_code": 0},
            "/worker_get_embeddings": _embeddings,
            "/worker_generate": lambda _: orjson.loads(self.answer.frames[-1][:-1]),
            "/bench/answer": self._set_answer,
        }

    def _set_answer(self, body: JsonObject) -> Json:
        chunks, interval_ms = body.get("chunks"), body.get("interval_ms")
        if not isinstance(chunks, int) or not isinstance(interval_ms, (int, float)):
            raise TypeError('/bench/answer takes {"chunks": a number, "interval_ms": a number}')
        self.answer = Answer(chunks, interval_ms / 1000)
        return {"chunks": chunks, "interval_ms": interval_ms}


def _embeddings(body: JsonObject) -> Json:
    texts = body.get("input")
    count = len(texts) if isinstance(texts, list) else 1
    vector: list[Json] = [((index * 37) % 199 - 99) / 100 for index in range(EMBEDDING_SIZE)]
    return {"embedding": [vector] * count, "token_num": PROMPT_TOKENS * count}


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
        if self._path == "/worker_generate_stream":
            self._transport.write(_STREAM_HEAD)
            self._stream = Stream(self._worker, self._transport, self._loop, self._end_stream)
            self._stream.start()
        else:
            self._transport.write(self._reply(b"".join(self._body)))
            self._finish()

    def _end_stream(self) -> None:
        self._stream = None
        self._finish()

    def _finish(self) -> None:
        if not self._keep_alive:
            self._transport.close()

    def _reply(self, body: bytes) -> bytes:
        reply = self._worker.replies.get(self._path)
        if reply is None:
            return _response(b"404 Not Found", {"detail": "Not Found"})
        try:
            document = orjson.loads(body or b"{}")
            return _response(b"200 OK", reply(document if isinstance(document, dict) else {}))
        except (TypeError, ValueError) as error:
            return _response(b"400 Bad Request", {"detail": str(error)})


def _response(status: bytes, document: Json) -> bytes:
    body = orjson.dumps(document)
    head = b"HTTP/1.1 %b\r\nserver: uvicorn\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class Stream:
    """One running answer. Frame k is due k intervals after the request, so a late frame delays no other."""

    def __init__(
        self, worker: Worker, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, done: Callable[[], None]
    ) -> None:
        self.paused = False
        self._worker = worker
        self._answer = worker.answer
        self._transport = transport
        self._loop = loop
        self._done = done
        self._next = 0
        self._handle: asyncio.Handle | None = None
        self._begin = 0.0

    def start(self) -> None:
        # The loop's own clock may be a millisecond old; the schedule is held against the real one.
        self._begin = time.monotonic()
        self._worker.streams += 1
        self._tick()

    def _tick(self) -> None:
        self._handle = None
        if self.paused:
            return
        writes, interval = self._answer.writes, self._answer.interval
        self._transport.write(writes[self._next])
        self._next += 1
        if self._next == len(writes):
            self._worker.streams -= 1
            self._done()
        elif interval:
            wait = self._begin + self._next * interval - time.monotonic()
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
    print(f"listening {host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A fast fake FastChat worker with precomputed frames.")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument(
        "--chunks", type=int, default=100, help="frames of one answer, the trailing finish frame included"
    )
    parser.add_argument("--interval", type=float, default=20, help="milliseconds between frames; 0: flat out")
    options = parser.parse_args(arguments)
    run_loop(serve("127.0.0.1", options.port, Answer(options.chunks, options.interval / 1000)))


if __name__ == "__main__":
    main()
