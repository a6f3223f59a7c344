"""Calls to a DB-GPT controller's registry (the same in 0.5.10 to 0.8.2, stand-alone or inside the web server)."""

from __future__ import annotations

from typing import NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, ControlError, brief, call_json
from proxy.types import Json, JsonObject


class Instance(NamedTuple):
    """One row of the registry. key: NAME@llm, NAME@text2vec or WorkerManager@service."""

    key: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.key} at {self.host}:{self.port}"


class Row(NamedTuple):
    """A row as the controller lists it."""

    instance: Instance
    healthy: bool


class ControllerApi:
    """Calls to the controller at `url`; each raises ControlError unless the controller agreed."""

    def __init__(self, session: aiohttp.ClientSession, url: str, limits: CallLimits) -> None:
        self._session = session
        self.url = url
        self._limits = limits

    async def health(self) -> None:
        """Whether a controller answers there."""
        await self._call("GET", "/api/health")

    async def register(self, instance: Instance) -> None:
        """Enter an instance, or make a known one healthy again."""
        self._expect_true(await self._call("POST", "/api/controller/models", body=_document(instance)), "register")

    async def heartbeat(self, instance: Instance) -> None:
        """Keep an instance healthy; a controller that does not know it enters it."""
        self._expect_true(await self._call("POST", "/api/controller/heartbeat", body=_document(instance)), "heartbeat")

    async def withdraw(self, instance: Instance) -> None:
        """Remove an instance; one that is not there is fine. Controllers up to 0.6.3 only mark it as unhealthy."""
        params = {
            "model_name": instance.key,
            "host": instance.host,
            "port": str(instance.port),
            "remove_from_registry": "true",
        }
        self._expect_true(await self._call("DELETE", "/api/controller/models", params=params), "withdraw")

    async def rows(self) -> list[Row]:
        """All that is registered there, by anybody. Rows of a shape we do not know are left out."""
        answer = await self._call("GET", "/api/controller/models")
        if not isinstance(answer, list):
            raise ControlError("malformed", f"{self.url}/api/controller/models answered no list")
        return [row for row in map(_row, answer) if row is not None]

    async def _call(self, method: str, path: str, *, body: Json = None, params: dict[str, str] | None = None) -> Json:
        return await call_json(self._session, method, self.url + path, self._limits, body=body, params=params)

    def _expect_true(self, answer: Json, what: str) -> None:
        if answer is not True:
            raise ControlError("malformed", f"{self.url}: {what} answered {brief(answer)}, expected true")


def _document(instance: Instance) -> JsonObject:
    """All fields that a controller of any version stores; weight and enabled do not steer its clients."""
    return {
        "model_name": instance.key,
        "host": instance.host,
        "port": instance.port,
        "weight": 1.0,
        "check_healthy": True,
        "healthy": True,
        "enabled": True,
        "prompt_template": None,
        "last_heartbeat": None,
    }


def _row(value: Json) -> Row | None:
    if not isinstance(value, dict):
        return None
    key, host, port = value.get("model_name"), value.get("host"), value.get("port")
    if not isinstance(key, str) or not isinstance(host, str) or not isinstance(port, int):
        return None
    return Row(Instance(key, host, port), value.get("healthy") is True)
