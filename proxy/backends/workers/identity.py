"""Which addresses mean the same worker: one by a host's name, another by that host's IP address.

A worker that is known twice would get twice as many requests at once as it works on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from proxy.backends.workers.places import IP, read_ip

# A name may move, and nobody must wait for the same name again and again.
_FRESH_SECONDS: Final = 30.0
# The name service may be back in a moment.
_FAILED_SECONDS: Final = 10.0
# Names looked up at once, of the many that a fleet may have.
_AT_ONCE: Final = 8
# Names and addresses remembered; more than a fleet has workers.
_MOST: Final = 2_000
_NOWHERE: Final[frozenset[IP]] = frozenset()


class _Parts(NamedTuple):
    """door: scheme, port and path, in which one worker is the same everywhere; address: None where host is a name."""

    door: tuple[str, int, str]
    host: str
    address: IP | None


class SameWorkers:
    """Tells whether a base address means a worker that is known by another one.

    look_up: the addresses of a host name, OSError when there are none. None: a name means itself and nothing else.
    """

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up, self._clock = look_up, clock
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._found: dict[str, tuple[float, frozenset[IP]]] = {}  # name to when it is looked up again, and its places

    async def find(self, address: str, known: Collection[str]) -> str | None:
        """The known base address that means the same worker; None when there is none.

        Waits for a name that was not looked up lately, and where there is none it does not wait. Never raises.
        """
        if address in known:
            return address
        own = _parts(address)
        others = [(other, parts) for other in known if (parts := _parts(other)).door == own.door]
        if own.address is not None:
            same = next((other for other, parts in others if parts.address == own.address), None)
            others = [(other, parts) for other, parts in others if parts.address is None]
            if same is not None or not others:
                return same
        places = await self._places(own) if others else _NOWHERE
        if not places:
            return None
        found = await asyncio.gather(*(self._places(parts) for _, parts in others))
        return next((other for (other, _), where in zip(others, found, strict=True) if places & where), None)

    async def places(self, address: str) -> frozenset[IP]:
        """Where the host of a base address is; as `find`, empty where that is not known."""
        return await self._places(_parts(address))

    async def _places(self, parts: _Parts) -> frozenset[IP]:
        """Where one machine of this name is; empty for a name that stands for several machines, or for none."""
        if parts.address is not None:
            return frozenset({parts.address})
        due, places = self._found.get(parts.host, (0.0, _NOWHERE))
        if self._look_up is None or self._clock() < due:
            return places
        try:
            async with self._turns:
                answers = await self._look_up(parts.host)
        except OSError:  # whoever calls the worker by this name tells what is wrong with it
            return self._remember(parts.host, places, _FAILED_SECONDS)
        found = {address for address in map(read_ip, answers) if address is not None}
        # One address of each version is one machine; several of one version are several machines in turn.
        is_one = len({address.version for address in found}) == len(found)
        return self._remember(parts.host, frozenset(found) if is_one else _NOWHERE, _FRESH_SECONDS)

    def _remember(self, host: str, places: frozenset[IP], seconds: float) -> frozenset[IP]:
        self._found.pop(host, None)
        if len(self._found) >= _MOST:
            del self._found[next(iter(self._found))]
        self._found[host] = self._clock() + seconds, places
        return places


def has_name(address: str) -> bool:
    """Whether the host of a base address is a name."""
    return _parts(address).address is None


@lru_cache(maxsize=_MOST)
def _parts(address: str) -> _Parts:
    parts = urlsplit(address)
    host = parts.hostname or ""
    literal = read_ip(host)
    if literal is not None and literal.is_unspecified:  # calls to it stay on this machine
        literal = ipaddress.ip_address("127.0.0.1" if literal.version == 4 else "::1")
    return _Parts((parts.scheme, parts.port or (443 if parts.scheme == "https" else 80), parts.path), host, literal)
