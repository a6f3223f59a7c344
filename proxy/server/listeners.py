"""The addresses that clients call: one for all models, and on request one port for each model."""

from __future__ import annotations

import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from proxy.limits import KEEPALIVE_SECONDS, LISTEN_BACKLOG, REQUEST_MAX_BYTES
from proxy.server.http_log import server_log

log = logging.getLogger(__name__)

# How long the server waits for handlers that have been told to end; aiohttp (3.14) waits twice as long.
_CLOSE_SECONDS: Final = 0.5


def catch_all(handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    """An application that gives every path to `handle`."""
    app = web.Application(client_max_size=REQUEST_MAX_BYTES)
    app.router.add_route("*", r"/{path:[\s\S]*}", handle)  # an encoded line break too
    return app


async def client_runner(app: web.Application) -> web.AppRunner:
    """The server of an application that clients call; it listens nowhere yet."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=None,
        logger=server_log(),
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=_CLOSE_SECONDS,
    )
    await runner.setup()
    return runner


async def bind(runner: web.AppRunner, host: str, port: int) -> int:
    """Listen there; the port, as chosen by the system where it is 0. OSError, whose strerror is a reason for people."""
    try:
        await web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG).start()
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise OSError(error.errno, reason) from None
    return int(runner.addresses[-1][1])


class ModelPortSites:
    """Gives each model a port of a range and keeps it for as long as the program runs.

    Some clients send no model with a count of tokens; the port that they called tells which is meant.
    """

    def __init__(self, runner: web.AppRunner, host: str, first: int, last: int) -> None:
        self._runner = runner
        self._host = host
        self._free = list(range(last, first - 1, -1))
        self._ports: dict[str, int] = {}
        self._models: dict[int, str] = {}
        self._told: set[str] = set()

    def port(self, model: str) -> int | None:
        """The model's own port, once it is open."""
        return self._ports.get(model)

    def model(self, port: int) -> str | None:
        """The model that a port stands for."""
        return self._models.get(port)

    async def ensure(self, models: list[str]) -> None:
        """Open a port for each model that has none. A port in use is skipped; a model for which none is free shares."""
        for model in models:
            while model not in self._ports and self._free:
                port = self._free.pop()
                try:
                    await web.TCPSite(self._runner, self._host, port, backlog=LISTEN_BACKLOG).start()
                except OSError as error:
                    log.warning("port %d for model %s cannot be opened: %s", port, model, error.strerror)
                    continue
                self._ports[model] = port
                self._models[port] = model
                log.info("model %s has port %d of its own", model, port)
            if model not in self._ports and model not in self._told:
                self._told.add(model)
                log.warning("no port of model_ports is left for model %s; it shares the common address", model)
