"""Membership with controllers: one independent loop for each of them; a dead one delays no other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import aiohttp

from proxy.backends.base_url import base_urls
from proxy.backends.control import end_tasks, new_session, pause

log = logging.getLogger(__name__)


class ControllerStatus(NamedTuple):
    """One controller for people and metrics. reachable: None before the first try; registered: what it holds of ours;
    heartbeat_age: seconds, or None.
    """

    url: str
    reachable: bool | None
    registered: tuple[object, ...]
    heartbeat_age: float | None
    error: str


class Link(Protocol):
    """Membership with one controller. wake: set it where what is to be registered may have changed."""

    url: str
    wake: asyncio.Event

    async def run(self) -> None:
        """Keep the controller as wanted until cancelled."""

    async def withdraw_all(self) -> None:
        """Take back all that the controller might hold of ours. Raises nothing that the controller does."""

    def status(self) -> ControllerStatus:
        """How things stand."""

    def left(self) -> Sequence[object]:
        """What the controller might still hold of ours."""


class KeptLink(ABC):
    """The loop of a link. log: of the product's own module, where a change of state is told."""

    def __init__(self, url: str, log: logging.Logger) -> None:
        self.url = url
        self.wake = asyncio.Event()
        self._log = log
        self._told = ""

    async def run(self) -> None:
        """Keep the controller as wanted until cancelled."""
        while True:
            self.wake.clear()
            try:
                await self.step()
            except Exception as error:
                self._tell("fault", repr(error), exc_info=True)
            await pause(self.wake, self._pause())

    @abstractmethod
    async def step(self) -> None:
        """One round."""

    @abstractmethod
    def _pause(self) -> float:
        """Seconds until the next round."""

    def _tell(self, state: str, text: str, *, exc_info: bool = False) -> None:
        """Log a change of state, not each round."""
        if state != self._told:
            level = logging.INFO if state == "ok" else logging.WARNING
            self._log.log(level, "controller %s: %s: %s", self.url, state, text, exc_info=exc_info)
            self._told = state


class Links:
    """A link to each controller. urls: base addresses; ValueError with one sentence for one that cannot be used.

    open: makes the link of a base address; withdraw_timeout: seconds in which a controller must let go of us.
    """

    def __init__(
        self,
        urls: Iterable[str],
        open: Callable[[aiohttp.ClientSession, str], Link],  # noqa: A002  as in the other makers of this package
        *,
        withdraw_timeout: float,
        session_factory: Callable[[], aiohttp.ClientSession] = new_session,
    ) -> None:
        self._urls = base_urls(urls)
        self._make, self._withdraw_timeout, self._session_factory = open, withdraw_timeout, session_factory
        self._session: aiohttp.ClientSession | None = None
        self._links: dict[str, Link] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._running = False
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep all controllers in step until cancelled or until `withdraw_all`."""
        self._open()
        if not self._stopped.is_set():
            self._running = True
            for url, link in self._links.items():
                self._start(url, link)
        try:
            await self._stopped.wait()
        finally:
            await self._stop_links()

    def update(self, urls: Iterable[str]) -> None:
        """Other controllers from now on. One that is left out loses what it holds of ours in the background."""
        wanted = base_urls(urls)
        self._urls = wanted
        if self._session is None or self._stopped.is_set():
            return
        for url in self._links.keys() - set(wanted):
            work = self._leave(self._links.pop(url), self._tasks.pop(url, None), self._leaving.get(url))
            self._leaving[url] = asyncio.create_task(work, name=f"leave {url}")
        for url in wanted:
            if url not in self._links:
                link = self._links[url] = self._make(self._session, url)
                if self._running:
                    self._start(url, link)
        self.changed()

    def changed(self) -> None:
        """What is wanted may have changed: act at once. Cheap, may be called from anywhere in the loop's thread."""
        for link in self._links.values():
            link.wake.set()

    async def withdraw_all(self) -> None:
        """Stop, and take everything back from all controllers at the same time; ends within `withdraw_timeout`."""
        self._stopped.set()
        await self._stop_links()
        links = self._links.values()
        work = {asyncio.create_task(link.withdraw_all(), name=f"withdraw {link.url}") for link in links}
        if work or self._leaving:
            leaving = set(self._leaving.values())
            _, late = await asyncio.wait(work | leaving, timeout=self._withdraw_timeout)
            await end_tasks(late)
        for link in links:
            _tell_what_is_left(link)

    def status(self) -> list[ControllerStatus]:
        """Each controller's state, in the order given."""
        return [
            self._links[url].status() if url in self._links else ControllerStatus(url, None, (), None, "")
            for url in self._urls
        ]

    async def close(self) -> None:
        """End all tasks and close the session; does not withdraw."""
        self._stopped.set()
        await self._stop_links()
        await end_tasks(self._leaving.values())
        if self._session is not None:
            await self._session.close()

    def _open(self) -> None:
        if self._session is None:
            session = self._session = self._session_factory()
            self._links = {url: self._make(session, url) for url in self._urls}

    def _start(self, url: str, link: Link) -> None:
        self._tasks[url] = asyncio.create_task(self._keep(url, link), name=f"register {url}")

    async def _keep(self, url: str, link: Link) -> None:
        if url in self._leaving:  # it was left a moment ago, and what is entered now must not be taken back
            await asyncio.wait([self._leaving[url]])
        await link.run()

    async def _leave(self, link: Link, task: asyncio.Task[None] | None, before: asyncio.Task[None] | None) -> None:
        """Take back what is ours from a controller that is none of ours any more."""
        await end_tasks([task] if task is not None else [])
        if before is not None:
            await asyncio.wait([before])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(link.withdraw_all(), self._withdraw_timeout)
        _tell_what_is_left(link)

    async def _stop_links(self) -> None:
        self._running = False
        tasks, self._tasks = list(self._tasks.values()), {}
        await end_tasks(tasks)


def _tell_what_is_left(link: Link) -> None:
    if left := link.left():
        log.warning("controller %s: may still hold %s until its heartbeat timeout", link.url, ", ".join(map(str, left)))
