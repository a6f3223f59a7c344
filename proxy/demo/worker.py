"""A worker on a socket of its own that speaks the worker API of FastChat 0.2.36 and answers without a model.

Paths, field names, frame shapes, status codes and the five slots of its queue are those of `model_worker`; so are its
weak spots (a null parameter costs it a slot for ever), because a gateway must be safe from them. The texts are its own.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

from aiohttp import web

from proxy.demo.faults import Fault, FaultHook
from proxy.demo.generation import INTERNAL_ERROR, Parameters, RefusedError, UnhandledError, encode, frames
from proxy.demo.language import embedding, tokens, vicuna_template
from proxy.demo.slots import Slots
from proxy.types import Json, JsonObject

# The first line of every error text, whatever the cause; the cause follows in brackets.
BANNER: Final = "**THE DEMONSTRATION WORKER COULD NOT ANSWER.**"
SYSTEM_SENTENCE: Final = "You talk with a demonstration worker. It repeats what it was told and counts it."
# A conversation with images as data URLs.
BODY_MAX_BYTES: Final = 64 * 1024 * 1024
# The real worker does not read the body of these, and its controller sends none.
BODY_UNREAD: Final = ("/worker_get_status", "/worker_get_conv_template", "/model_details")
# uvicorn, which serves the real worker, closes an idle connection after this many seconds.
KEEPALIVE_SECONDS: Final = 5.0


def _json(body: Json, status: int = 200) -> web.Response:
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return web.Response(status=status, body=data, content_type="application/json")


def _text(status: int, data: bytes) -> web.Response:
    return web.Response(status=status, body=data, headers={"Content-Type": "text/plain; charset=utf-8"})


async def _no_content_type(_: web.Request, response: web.StreamResponse) -> None:
    if not isinstance(response, web.Response):
        response.headers.popall("Content-Type", None)


def _hang_up(request: web.Request, *, reset: bool = False) -> None:
    """Close the connection after what was written: without the last chunk, so that the client sees a broken body."""
    transport = request.transport
    if transport is None:
        return
    if reset:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()


class DemoWorker:
    """One worker that serves `models`, all alike.

    chunks_per_second: frames of one stream in a second, 0: as fast as it can; words: how far each answer counts at its
    end, which sets its length; concurrency: slots, further requests wait; context_length: tokens;
    fault: asked with path and body of each request, says what goes wrong with it, and may be replaced at any time;
    banner: first line of error texts. `requests` holds the last bodies that came, as (path, body).
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        chunks_per_second: float = 20.0,
        words: int = 40,
        concurrency: int = 5,
        context_length: int = 4096,
        fault: FaultHook | None = None,
        banner: str = BANNER,
        keepalive: float = KEEPALIVE_SECONDS,
        requests_kept: int = 200,
    ) -> None:
        self.models = list(models)
        self.chunks_per_second = chunks_per_second
        self.words = words
        self.concurrency = concurrency
        self.context_length = context_length
        self.fault = fault
        self.banner = banner
        self.keepalive = keepalive
        self.requests: deque[tuple[str, JsonObject]] = deque(maxlen=requests_kept)
        self.address = ""
        self._slots = Slots(concurrency)
        self._runner: web.AppRunner | None = None

    @property
    def queue_length(self) -> int:
        """Slots that are taken, those lost for ever among them, and requests that wait for one."""
        return self._slots.queue_length

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, listener: socket.socket | None = None) -> str:
        """Listen (port 0: any free one) and return the address, such as `http://127.0.0.1:21002`. OSError if taken.
        listener: a socket that is bound already.

        A worker that was stopped may start again, like a restarted program: with all its slots.
        """
        self._slots = Slots(self.concurrency)
        # Without handler_cancellation a client that leaves is noticed only at the next write, or never.
        runner = web.AppRunner(
            self.app(),
            handler_cancellation=True,
            keepalive_timeout=self.keepalive,
            access_log=None,
            shutdown_timeout=0.1,
        )
        await runner.setup()
        site: web.BaseSite = web.TCPSite(runner, host, port, reuse_address=True)
        if listener is not None:
            site = web.SockSite(runner, listener)
        try:
            await site.start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        bound = runner.addresses[0][1]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
        return self.address

    async def stop(self) -> None:
        """Close the socket and end every request at once. Does nothing where nothing was started."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    def app(self) -> web.Application:
        calls: dict[str, Callable[[JsonObject], JsonObject]] = {
            "/worker_get_status": lambda _: self._status(),
            "/count_token": self._count_token,
            "/worker_get_conv_template": lambda _: {"conv": vicuna_template(SYSTEM_SENTENCE)},
            "/model_details": lambda _: {"context_length": self.context_length},
        }
        slow: dict[str, Callable[[JsonObject], Awaitable[JsonObject]]] = {
            "/worker_generate": self._generate,
            "/worker_get_embeddings": self._embeddings,
        }
        app = web.Application(client_max_size=BODY_MAX_BYTES, middlewares=[_plain_errors])
        app.on_response_prepare.append(_no_content_type)
        app.router.add_post("/worker_generate_stream", self._serve_stream)
        for path, call in calls.items():
            app.router.add_post(path, self._served(_at_once(call)))
        for path, slow_call in slow.items():
            app.router.add_post(path, self._served(self._in_slot(slow_call)))
        return app

    def _served(
        self, call: Callable[[JsonObject], Awaitable[JsonObject]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            params = await self._body(request, optional=request.path in BODY_UNREAD)
            fault = self._fault_of(request.path, params)
            if fault is not None:
                struck = await self._strike_before_head(fault, request)
                if struck is not None:
                    return struck
                if fault.kind == "error":
                    return _json(self._error(fault.message, fault.code))
            return _json(await call(params))

        return serve

    def _in_slot(
        self, call: Callable[[JsonObject], Awaitable[JsonObject]]
    ) -> Callable[[JsonObject], Awaitable[JsonObject]]:
        async def call_in_slot(params: JsonObject) -> JsonObject:
            async with self._slots.one():
                return await call(params)

        return call_in_slot

    async def _body(self, request: web.Request, *, optional: bool = False) -> JsonObject:
        data = await request.read()
        try:
            body = json.loads(data)
        except ValueError:
            body = {} if optional else None
        if not isinstance(body, dict):
            raise UnhandledError("the body is not a JSON object")
        self.requests.append((request.path, body))
        return body

    def _fault_of(self, path: str, params: JsonObject) -> Fault | None:
        return None if self.fault is None else self.fault(path, params)

    def _error(self, message: str, code: int = INTERNAL_ERROR) -> JsonObject:
        return {"text": f"{self.banner}\n\n({message})", "error_code": code}

    async def _pace(self, began: float, sent: int) -> None:
        """Wait until frame number `sent` is due; late frames catch up, so the rate holds on a busy machine."""
        loop = asyncio.get_running_loop()
        due = began + sent / self.chunks_per_second if self.chunks_per_second > 0 else 0.0
        await asyncio.sleep(max(0.0, due - loop.time()))

    def _frames(self, params: JsonObject) -> Iterator[JsonObject]:
        """The frames of a request's answer; parameters that the real worker reports make an error frame."""
        model = params.get("model")
        try:
            yield from frames(
                Parameters.read(params),
                model=model if isinstance(model, str) else self.models[0],
                words=self.words,
                context_length=self.context_length,
            )
        except RefusedError as error:
            yield self._error(str(error))

    async def _serve_stream(self, request: web.Request) -> web.StreamResponse:
        params = await self._body(request)
        fault = self._fault_of(request.path, params)
        if fault is not None and fault.after is None:
            struck = await self._strike_before_head(fault, request)
            if struck is not None:
                return struck
            if fault.kind == "stall":
                fault = None
        response = web.StreamResponse()
        try:
            async with self._slots.one():
                await response.prepare(request)
                await self._send_frames(request, response, params, fault)
        except UnhandledError:
            _hang_up(request)
        return response

    async def _send_frames(
        self, request: web.Request, response: web.StreamResponse, params: JsonObject, fault: Fault | None
    ) -> None:
        began = asyncio.get_running_loop().time()
        for sent, frame in enumerate(self._frames(params)):
            await self._pace(began, sent)
            struck = fault is not None and sent == (fault.after or 0)
            if fault is not None and struck and not await self._strike_in_stream(fault, request, response):
                return
            await response.write(encode(frame))

    async def _strike_in_stream(self, fault: Fault, request: web.Request, response: web.StreamResponse) -> bool:
        """Do what the fault says between two frames; whether the stream goes on."""
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "frame":
            await response.write(fault.data)
        elif fault.kind == "error":
            await response.write(encode(self._error(fault.message, fault.code)))
        elif fault.kind != "end":
            _hang_up(request, reset=fault.kind == "reset")
        return fault.kind in ("stall", "frame")

    async def _strike_before_head(self, fault: Fault, request: web.Request) -> web.StreamResponse | None:
        """What a fault makes of a request that has no head yet; None: it goes on."""
        if fault.kind == "stall":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "status":
            return _text(fault.status, fault.data)
        elif fault.kind in ("cut", "reset"):
            _hang_up(request, reset=fault.kind == "reset")
            return web.Response()
        return None

    async def _generate(self, params: JsonObject) -> JsonObject:
        began = asyncio.get_running_loop().time()
        last: JsonObject = {}
        for sent, frame in enumerate(self._frames(params)):
            await self._pace(began, sent)
            last = frame
        return last

    async def _embeddings(self, params: JsonObject) -> JsonObject:
        texts = params.get("input")
        if not isinstance(texts, list) or not texts:
            raise UnhandledError("input is not a list of texts")
        vectors: list[Json] = []
        count = 0
        for text in texts:
            if not isinstance(text, str):
                raise UnhandledError("input has an entry that is not a text")
            vector = embedding(text)
            packed = base64.b64encode(array("f", vector).tobytes()).decode()
            vectors.append(packed if params.get("encoding_format") == "base64" else list(vector))
            count += len(tokens(text))
            await asyncio.sleep(0)
        return {"embedding": vectors, "token_num": count}

    def _status(self) -> JsonObject:
        return {"model_names": list(self.models), "speed": 1, "queue_length": self.queue_length}

    def _count_token(self, params: JsonObject) -> JsonObject:
        prompt = params.get("prompt")
        if not isinstance(prompt, str):
            raise UnhandledError("prompt is not a string")
        return {"count": len(tokens(prompt)), "error_code": 0}


def _at_once(call: Callable[[JsonObject], JsonObject]) -> Callable[[JsonObject], Awaitable[JsonObject]]:
    async def answer(params: JsonObject) -> JsonObject:
        return call(params)

    return answer


@web.middleware
async def _plain_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The real worker's answers to what it does not serve and to what it does not survive."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json({"detail": error.reason}, error.status)
    except UnhandledError:
        return _text(500, b"Internal Server Error")
