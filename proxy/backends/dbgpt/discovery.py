"""Finding DB-GPT's own workers through its controllers (0.5.10 to 0.8.2).

A row of the registry is one model of one worker: NAME@llm or NAME@text2vec at a host and port. A worker program with
several models has several rows of one address. What a row says is all that is known of which models a worker serves,
because the worker itself does not tell; so a row that vanishes, or that the controller calls unhealthy, takes the model
away, and a controller that is not there takes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Final

import aiohttp

from proxy.address import Address
from proxy.backends.base_url import normalise_base_url
from proxy.backends.control import ControlError, EventHook
from proxy.backends.dbgpt.controller_api import ControllerApi, Row
from proxy.backends.declared.look import Entry, PlannedLooks, WantedModel
from proxy.backends.workers.finder import Naming
from proxy.backends.workers.settings import SourceSettings
from proxy.fleet.facts import KINDS, Kind
from proxy.translate.probe import Said

log = logging.getLogger(__name__)

BACKEND: Final = "dbgpt-worker"

# What one controller says of one worker: its models, each with what it is for.
_Models = Mapping[str, frozenset[Kind]]


class DbgptFinders:
    """Finders of DB-GPT workers, and what they found. looks: set before the first `open`, and whenever rules change."""

    looks: PlannedLooks

    def __init__(self, on_event: EventHook) -> None:
        self._on_event = on_event
        self._said: dict[str, dict[str, _Models]] = {}  # controller to what it says of each worker

    def open(self, session: aiohttp.ClientSession, url: str, naming: Naming) -> DbgptFinder:
        """A finder that asks the controller of this base address."""
        self._said[url] = {}
        api = ControllerApi(session, url, self.looks.settings.list_limits())
        return DbgptFinder(api, naming, self._said[url], self.looks.settings, self._on_event)

    def keep(self, urls: Collection[str]) -> None:
        """Forget what other controllers than these have said."""
        for url in self._said.keys() - set(urls):
            del self._said[url]

    def entry(self, address: str) -> Entry:
        """What all controllers together say of one worker."""
        kinds: _Models = {}
        for said in self._said.values():
            kinds = _together(kinds, said.get(address, {}))
        models = {model: WantedModel(model, Said(found)) for model, found in sorted(kinds.items())}
        return Entry(models, seen=True, nothing="no controller says that it is healthy")

    def controllers_of(self, address: str) -> frozenset[str]:
        """The controllers that name this worker."""
        return frozenset(url for url, said in self._said.items() if address in said)


class DbgptFinder:
    """One controller. said: where to note what it says of each worker, by the address under which that is watched."""

    def __init__(
        self,
        api: ControllerApi,
        naming: Naming,
        said: dict[str, _Models],
        settings: SourceSettings,
        on_event: EventHook,
    ) -> None:
        self.url = api.url
        self._api, self._naming, self._said = api, naming, said
        self._settings, self._on_event = settings, on_event
        self._told = ""
        self._warned: set[str] = set()

    def reconfigure(self, settings: SourceSettings) -> None:
        """Other settings from the next poll on."""
        self._settings = settings

    async def step(self) -> None:
        """Poll once."""
        try:
            rows = await self._api.rows()
        except ControlError as error:
            self._tell("failed", str(error))
            return
        found: dict[str, _Models] = {}
        fresh = set()
        for named, models in self._by_worker(rows).items():
            address = await self._naming.introduce(named)
            if address is not None:
                found[address] = _together(found.get(address, {}), models)
                if address not in self._said:  # before it is looked at for the first time
                    self._said[address] = found[address]
                    fresh.add(address)
        for address, models in found.items():
            if self._said[address] != models or address in fresh:
                self._said[address] = models
                self._naming.changed(address)
        for address in self._said.keys() - found.keys():
            del self._said[address]
            self._naming.gone(address)
        self._tell("ok" if found else "empty", f"{len(found)} workers" if found else "it has no healthy worker to use")

    def _by_worker(self, rows: list[Row]) -> dict[str, _Models]:
        workers: dict[str, _Models] = {}
        for row in rows:
            model, _, kind = row.instance.key.rpartition("@")
            known = next((each for each in KINDS if each == kind), None)
            if not row.healthy or known is None or not model:
                continue
            try:
                address = normalise_base_url(f"http://{Address(row.instance.host, row.instance.port)}")
            except ValueError as error:
                self._warn_once(f"row {row.instance.key!r} ignored: {error}")
                continue
            workers[address] = _together(workers.get(address, {}), {model: frozenset({known})})
        most = self._settings.max_workers
        if len(workers) > most:
            self._warn_once(f"it lists {len(workers)} workers, only the first {most} are used")
        return {address: workers[address] for address in sorted(workers)[:most]}

    def _warn_once(self, text: str) -> None:
        if text not in self._warned and len(self._warned) < 1_000:
            self._warned.add(text)
            log.warning("controller %s: %s", self.url, text)

    def _tell(self, result: str, text: str) -> None:
        """Count every poll, log those that ended differently from the one before."""
        self._on_event("discovery", controller=self.url, result=result)
        if result != self._told:
            level = logging.INFO if result == "ok" else logging.WARNING
            log.log(level, "controller %s: %s: %s", self.url, result, text)
            self._told = result


def _together(some: _Models, more: _Models) -> _Models:
    return {model: some.get(model, frozenset()) | more.get(model, frozenset()) for model in [*some, *more]}
