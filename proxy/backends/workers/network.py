"""What the guard asks of this machine: the addresses of a host name, and which addresses are its own."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

from proxy.backends.workers.places import read_ip
from proxy.threads import in_thread


class NameLookUps:
    """Host names to addresses, on threads of their own, so that slow names delay neither other work nor the exit.

    seconds: how long one may take; pending: how many at once, those included that nobody waits for any more.
    """

    def __init__(self, *, seconds: float = 3.0, pending: int = 32) -> None:
        self._seconds, self._most = seconds, pending
        self._pending = 0

    async def __call__(self, host: str) -> list[str]:
        """The addresses of a host name, in the system's order; OSError with a reason otherwise."""
        if self._pending >= self._most:
            raise OSError(0, f"{self._pending} names are being looked up already")
        found = in_thread(partial(_addresses, host), "look-up of a name")
        self._pending += 1
        found.add_done_callback(self._ended)
        try:
            # Shielded: a thread cannot be cancelled, and counts as pending until it ends.
            return await asyncio.wait_for(asyncio.shield(found), self._seconds)
        except asyncio.TimeoutError:
            raise OSError(0, f"no answer in {self._seconds:g} s") from None
        except UnicodeError:
            raise OSError(socket.EAI_NONAME, "it is no legal host name") from None

    def _ended(self, found: asyncio.Future[list[str]]) -> None:
        self._pending -= 1
        if not found.cancelled():
            found.exception()  # nobody may have waited for it


def is_own_address(host: str) -> bool:
    """Whether an IP address is one of this machine's: the system would use it to speak with itself. Sends nothing."""
    address = read_ip(host)
    if address is None:
        return False
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:
        return False


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
