"""How workers are found: what every backend whose workers are named by controllers says of those."""

from __future__ import annotations

from typing import Protocol

import aiohttp

from proxy.backends.workers.look import Looks
from proxy.backends.workers.settings import SourceSettings


class Naming(Protocol):
    """What one finder tells of the workers that its controller names."""

    async def introduce(self, address: str) -> str | None:
        """A worker is named, by its normalised base address; again with each naming. The answer is the address under
        which it is watched, which may have the host's name instead; None where it stays out.
        """

    def changed(self, address: str) -> None:
        """What is said of a watched worker has changed: it is asked everything anew."""

    def gone(self, address: str) -> None:
        """A watched worker is named no more."""


class Finder(Protocol):
    """One controller that names workers. `step` is one poll; it never raises for anything that the controller does."""

    url: str

    def reconfigure(self, settings: SourceSettings) -> None:
        """Other settings from the next poll on; every worker is named again."""

    async def step(self) -> None:
        """Poll once."""


class Finders(Protocol):
    """What makes the finders of one backend. looks: how the workers that they name are looked at."""

    @property
    def looks(self) -> Looks: ...

    def open(self, session: aiohttp.ClientSession, url: str, naming: Naming) -> Finder:
        """A finder that asks the controller of this base address."""
