"""The addresses that clients call: one for all models, and on request one port for each model."""

from __future__ import annotations

import logging

from aiohttp import web

from proxy.limits import LISTEN_BACKLOG

log = logging.getLogger(__name__)


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
