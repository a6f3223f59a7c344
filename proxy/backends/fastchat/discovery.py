"""Finding workers through a FastChat controller.

A controller only introduces addresses; whether a worker is there is asked of the worker itself. So a controller that is
down, or was restarted and knows nobody yet, takes nothing away.

Two of its calls are harmless: /list_models at any rate, and /get_worker_address seldom, because each call adds one to
the controller's own idea of that worker's queue until the worker's next heartbeat, up to 45 s later. It names one
worker a call, the one with the shortest queue; asking on until a known address comes back finds the replicas of an idle
model at once, those of a busy one over time. /list_multimodal_models says which models take images, from fschat 0.2.36
on. /refresh_all_workers is never called: it empties the controller's table.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp

from proxy.backends.base_url import normalise_base_url
from proxy.backends.control import ControlError, EventHook, brief, call_json
from proxy.backends.fastchat.look import FastChatLooks
from proxy.backends.workers.finder import Naming
from proxy.backends.workers.settings import SourceSettings
from proxy.types import JsonObject

log = logging.getLogger(__name__)


class FastChatFinders:
    """Finders of FastChat workers, with the settings of their looks."""

    def __init__(self, looks: FastChatLooks, clock: Callable[[], float], on_event: EventHook) -> None:
        self.looks = looks
        self._clock, self._on_event = clock, on_event

    def open(self, session: aiohttp.ClientSession, url: str, naming: Naming) -> ControllerWatch:
        """A finder that asks the controller of this base address."""
        return ControllerWatch(session, url, self.looks, self._clock, naming, self._on_event)


class ControllerWatch:
    """One controller. `step` is one poll; it never raises for anything that the controller does.

    naming: told of each worker that the controller names, again with each naming.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        looks: FastChatLooks,
        clock: Callable[[], float],
        naming: Naming,
        on_event: EventHook,
    ) -> None:
        self.url = url
        self._session, self._looks, self._settings, self._clock = session, looks, looks.settings, clock
        self._naming, self._on_event = naming, on_event
        self._told = ""
        self._warned: set[str] = set()
        self._asked_at: dict[str, float] = {}
        self._addresses: dict[str, set[str]] = {}

    def reconfigure(self, settings: SourceSettings) -> None:
        """Other settings from the next poll on; every address is asked for again."""
        self._settings = settings
        self._asked_at.clear()

    async def step(self) -> None:
        """Poll once: the list of models, and the addresses that are due."""
        try:
            models = await self._models()
            now, interval = self._clock(), self._settings.resolve_interval
            due = [model for model in models if now - self._asked_at.get(model, -interval) >= interval]
            if due:
                await self._learn_images(models)
            for model in due:
                await self._resolve(model)
        except ControlError as error:
            self._tell("failed", str(error))
            return
        for gone in self._asked_at.keys() - set(models):
            del self._asked_at[gone]
            self._addresses.pop(gone, None)
        self._tell("ok" if models else "empty", ", ".join(models) or "it lists no models")

    async def _models(self) -> list[str]:
        names = (await self._call("/list_models", {})).get("models")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ControlError("malformed", f"{self.url}/list_models: models is {brief(names)}, expected strings")
        models = sorted(name for name in names if isinstance(name, str) and 0 < len(name) <= self._settings.max_name)
        most = self._settings.max_listed_models
        if len(models) > most:
            self._warn_once(f"it lists {len(models)} models, only the first {most} are looked for")
        return models[:most]

    async def _learn_images(self, models: list[str]) -> None:
        try:
            found = (await self._call("/list_multimodal_models", {})).get("models")
        except ControlError as error:
            if error.kind != "status":
                raise
            return  # it is older, and so is what it knows of its workers
        if isinstance(found, list):
            self._looks.image_models.update(model for model in models if model in found)

    async def _resolve(self, model: str) -> None:
        known = self._addresses.setdefault(model, set())
        for _ in range(self._settings.resolve_burst):
            address = (await self._call("/get_worker_address", {"model": model})).get("address")
            self._asked_at[model] = self._clock()
            if not isinstance(address, str):
                raise ControlError("malformed", f"{self.url}/get_worker_address: address is not a string")
            if not address:  # it lost its last worker since it listed the model
                return
            try:
                base = normalise_base_url(address)
            except ValueError as error:
                self._warn_once(f"worker of model {model!r} ignored: {error}")
                return
            if _is_local(base) and not _is_local(self.url):
                self._warn_once(f"it knows a worker as {base}, which is this machine seen from here; start that worker "
                                "with the address under which others reach it")  # fmt: skip
            await self._naming.introduce(base)
            if base in known or len(known) >= self._settings.max_workers:
                return
            known.add(base)

    async def _call(self, path: str, body: JsonObject) -> JsonObject:
        answer = await call_json(self._session, "POST", self.url + path, self._settings.look_limits(), body=body)
        if not isinstance(answer, dict):
            raise ControlError("malformed", f"{self.url}{path}: the answer is not an object")
        return answer

    def _warn_once(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 1_000:
            self._warned.add(text)
            log.warning("controller %s: %s", self.url, text)

    def _tell(self, result: str, text: str) -> None:
        """Count every poll, log those that ended differently from the one before."""
        self._on_event("discovery", controller=self.url, result=result)
        if result != self._told:
            log.log(
                logging.INFO if result == "ok" else logging.WARNING, "controller %s: %s: %s", self.url, result, text
            )
            self._told = result


def _is_local(url: str) -> bool:
    """Whether an address means the machine that uses it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified
