"""The peer to beat: a relay as one would write it with aiohttp: every frame decoded, rebuilt, and its write awaited.

Run as `python -m benchmarks.plain_relay UPSTREAM_URL`; prints `listening HOST:PORT`.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

import aiohttp
import orjson
from aiohttp import web

from benchmarks.loop import run_loop

if TYPE_CHECKING:
    from collections.abc import Sequence

SESSION = web.AppKey("session", aiohttp.ClientSession)
FIELDS = ("text", "error_code", "usage", "finish_reason")


class Relay:
    """Passes any POST to `upstream` and the NUL-delimited answer back, frame by frame."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        response = web.StreamResponse()
        async with request.app[SESSION].post(self._upstream + request.path, data=body) as answer:
            response.set_status(answer.status)
            await response.prepare(request)
            pending = b""
            async for data in answer.content.iter_any():
                *frames, pending = (pending + data).split(b"\0")
                for frame in frames:
                    chunk = orjson.loads(frame)
                    await response.write(orjson.dumps({name: chunk.get(name) for name in FIELDS}) + b"\0")
            await response.write_eof(pending)
        return response


async def serve(upstream: str) -> None:
    app = web.Application()
    app.router.add_post("/{path:.*}", Relay(upstream).handle)
    # aiohttp's own limits (100 connections, 300 s) would be what is measured.
    app[SESSION] = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
    await site.start()
    print(f"listening 127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="A plain aiohttp relay of FastChat's stream.")
    parser.add_argument("upstream", help="http://HOST:PORT")
    run_loop(serve(parser.parse_args(arguments).upstream.rstrip("/")))


if __name__ == "__main__":
    main()
