"""A model server that exists only here: its own paths, names, shapes and errors, in lines of JSON.

`tests/gateway/quill` has the rules for it; nothing else in this repository knows how it speaks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.typedefs import Handler

from proxy.types import JsonObject

CARD = "card-1"
VOLUME = "folio"
SKILLS = {"write": 1, "index": 1}


class Quill:
    """script: the strokes that answer every scene; then `blot` where there is one, `tears` closes the connection in the
    midst of a line, `rests` waits before the last line until the client leaves. Its bytes leave in pieces of any size.

    refusing: status and words for every request to write, instead of an answer. scenes: what came; left: how often a
    client left in the midst of an answer.
    """

    def __init__(self, seed: int = 1) -> None:
        self.script: list[str] = ["An ", "owl", "."]
        self.blot: JsonObject | None = None
        self.tears = False
        self.rests = False
        self.refusing: tuple[int, str] | None = None
        self.scenes: list[JsonObject] = []
        self.left = 0
        self.writing = 0
        self.url = ""
        self._rng = random.Random(seed)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_card])
        app.router.add_get("/shelf", self._shelf)
        app.router.add_post("/shelf/look", self._look)
        app.router.add_post("/write", self._write)
        app.router.add_post("/go-on", self._write)
        app.router.add_post("/index", self._index)
        app.router.add_post("/weigh", self._weigh)
        return app

    async def _shelf(self, _: web.Request) -> web.Response:
        return web.json_response({"volumes": {VOLUME: SKILLS}, "waiting": self.writing})

    async def _look(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if asked["volume"] != VOLUME:
            return _blot(404, f"no such volume: {asked['volume']}")
        return web.json_response({"reach": 4096, "skills": [*SKILLS]})

    async def _write(self, request: web.Request) -> web.StreamResponse:
        self.scenes.append(await request.json())
        if self.refusing is not None:
            return _blot(*self.refusing)
        self.writing += 1
        response = web.StreamResponse(headers={"Content-Type": "text/x-quill"})
        try:
            await response.prepare(request)
            for stroke in self.script:
                await self._send(response, {"stroke": stroke})
            if self.tears:
                await response.write(b'{"stroke": "half a li')
                assert request.transport is not None
                request.transport.abort()
                return response
            if self.rests:
                await asyncio.sleep(30)
            if self.blot is not None:
                await self._send(response, {"blot": self.blot})
            else:
                ink = self.scenes[-1].get("ink")
                how = "dry" if ink == len(self.script) else "fin"
                await self._send(response, {"end": {"how": how, "read": 4, "wrote": len(self.script)}})
            await response.write_eof()
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.writing -= 1
        return response

    async def _send(self, response: web.StreamResponse, line: JsonObject) -> None:
        data = json.dumps(line, ensure_ascii=self._rng.random() < 0.5).encode() + b"\n"
        while data:
            size = self._rng.randint(1, len(data))
            await response.write(data[:size])
            data = data[size:]
            await asyncio.sleep(0)

    async def _index(self, request: web.Request) -> web.Response:
        pages = (await request.json())["pages"]
        plates = [{"page": place, "point": [float(len(page)), 0.5]} for place, page in enumerate(pages)]
        return web.json_response({"plates": plates[::-1], "read": sum(map(len, pages))})

    async def _weigh(self, request: web.Request) -> web.Response:
        return web.json_response({"strokes": len((await request.json())["text"].split())})


@web.middleware
async def _card(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.headers.get("x-library-card") != CARD:
        return _blot(403, "no card, no book")
    return await handler(request)


def _blot(status: int, why: str) -> web.Response:
    return web.json_response({"blot": {"no": status, "why": why}}, status=status)


@contextlib.asynccontextmanager
async def quill() -> AsyncIterator[Quill]:
    """A running one; afterwards nobody is being answered."""
    server = Quill()
    # As in production, a client that leaves ends what is done for it.
    runner = web.AppRunner(server.app(), handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield server
        for _ in range(1000):
            if not server.writing:
                break
            await asyncio.sleep(0.005)
        assert server.writing == 0, "somebody is still being answered"
    finally:
        await runner.cleanup()
