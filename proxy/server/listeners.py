"""The addresses that clients call: one for all models, and on request one port for each model."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web

from proxy.address import told
from proxy.http import Handler, HttpServer, Limits
from proxy.limits import KEEPALIVE_SECONDS, LISTEN_BACKLOG
from proxy.server.http_log import server_log

log = logging.getLogger(__name__)

# How long the server waits for handlers that have been told to end; aiohttp (3.14) waits twice as long.
_CLOSE_SECONDS: Final = 0.5


ClosePort = Callable[[], Awaitable[None]]


def client_server(handle: Handler) -> HttpServer:
    """The server that clients call; it listens nowhere yet."""
    return HttpServer(handle, Limits(KEEPALIVE_SECONDS))


async def operator_runner(app: web.Application) -> web.AppRunner:
    """The server of the operator's pages: what was asked for is done also for who leaves."""
    runner = web.AppRunner(
        app,
        handler_cancellation=False,
        access_log=None,
        logger=server_log(),
        keepalive_timeout=KEEPALIVE_SECONDS,
        shutdown_timeout=_CLOSE_SECONDS,
    )
    await runner.setup()
    return runner


async def bind(runner: web.AppRunner, host: str, port: int) -> int:
    """Let operators call there; the port, as chosen by the system where it is 0. OSError, whose strerror is a reason
    for people.
    """
    try:
        await web.TCPSite(runner, host, port, backlog=LISTEN_BACKLOG).start()
    except OSError as error:
        raise told(error) from None
    return int(runner.addresses[-1][1])


def port_opener(server: HttpServer, host: str) -> Callable[[int], Awaitable[ClosePort]]:
    """What opens a further port of a server, which is closed by what it answers with. It raises OSError."""

    async def open_port(port: int) -> ClosePort:
        site = await server.listen(host, port)

        async def close() -> None:
            server.leave(site)

        return close

    return open_port


class ModelPortSites:
    """Gives each model a port of a range and keeps it for as long as the fleet knows the model.

    Some clients send no model with a count of tokens; the port that they called tells which is meant. open_port: as
    `port_opener` makes it, for `host`.
    """

    def __init__(self, open_port: Callable[[int], Awaitable[ClosePort]], host: str, first: int, last: int) -> None:
        self._open_port = open_port
        self._host = host
        self._range = range(first, last + 1)
        self._free = deque(self._range)
        self._sites: dict[str, ClosePort] = {}
        self._ports: dict[str, int] = {}
        self._models: dict[int, str] = {}
        self._told: set[str | int] = set()

    def port(self, model: str) -> int | None:
        """The model's own port, once it is open."""
        return self._ports.get(model)

    def model(self, port: int) -> str | None:
        """The model that a port stands for."""
        return self._models.get(port)

    def ports(self) -> dict[str, int]:
        """Each model that has a port of its own, and that."""
        return dict(self._ports)

    def adopt(self, model: str, port: int, close: ClosePort) -> None:
        """The model has this port already, which is open. A port that is not of the range is none of its own."""
        if port in self._free:
            self._free.remove(port)
            self._sites[model], self._ports[model], self._models[port] = close, port, model

    def is_own(self, port: int) -> bool:
        """Whether it is a port of the range that is open here, or could be, because nobody else listens there."""
        if port in self._models or port not in self._range:
            return port in self._models
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed port is free at once
            try:
                probe.bind((self._host, port))
            except OSError:
                return False
        return True

    async def ensure(self, models: list[str], known: Mapping[str, bool]) -> None:
        """Open a port for each of these models, which can be answered; one in use is skipped until it is needed again.

        known: those that the fleet remembers, and whether a worker of it has them. The ports of others are closed.
        Where no port is free, one is taken from a model that no worker has; where there is none, the model shares.
        """
        for model in [model for model in self._ports if model not in known and model not in models]:
            await self._close(model, "it is not known any more")
        for model in models:
            if model in self._ports or await self._open(model):
                continue
            spare = next((other for other in self._ports if not known.get(other) and other not in models), None)
            if spare is not None:
                await self._close(spare, f"model {model} needs its port")
                await self._open(model)
            elif model not in self._told:
                self._told.add(model)
                log.warning("no port of model_ports is left for model %s; it shares the common address", model)

    async def _open(self, model: str) -> bool:
        for _ in range(len(self._free)):
            port = self._free.popleft()
            try:
                close = await self._open_port(port)
            except OSError as error:
                self._free.append(port)
                if port not in self._told:
                    self._told.add(port)
                    log.warning("port %d for model %s cannot be opened: %s", port, model, error.strerror)
                continue
            self._sites[model], self._ports[model], self._models[port] = close, port, model
            log.info("model %s has port %d of its own", model, port)
            return True
        return False

    async def _close(self, model: str, why: str) -> None:
        """Who is connected stays so, at the common address from now on."""
        port = self._ports.pop(model)
        del self._models[port]
        self._told -= {model, port}
        await self._sites.pop(model)()
        self._free.append(port)  # the longest free one is used first, for those who still call the old one
        log.info("model %s has no port of its own any more: %s", model, why)
