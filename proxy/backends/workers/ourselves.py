"""Which base addresses are this gateway's own: one that took itself for a worker would ask itself for ever."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from urllib.parse import urlsplit

from proxy.backends.workers.identity import SameWorkers


class Ourselves:
    """Tells whether a base address leads here.

    ports: where this gateway listens on this machine; advertised: base addresses under which others reach it;
    is_own_host: whether an IP address is one of this machine's. A name is looked up as `same` does it; one that stands
    for several machines in turn is nobody's own.
    """

    def __init__(
        self,
        same: SameWorkers,
        *,
        ports: Collection[int],
        advertised: Iterable[str],
        is_own_host: Callable[[str], bool],
    ) -> None:
        self._same, self._ports, self._is_own_host = same, ports, is_own_host
        self._advertised = [*map(_root, advertised)]

    async def __call__(self, address: str) -> bool:
        """Waits for a name that was not looked up lately. Never raises."""
        parts = urlsplit(address)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        here = port in self._ports and any(map(self._is_own_host, map(str, await self._same.places(address))))
        return here or await self._same.find(_root(address), self._advertised) is not None


def _root(address: str) -> str:
    """A base address without its path: whatever the path, it is the same program."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"
