"""The addresses of a gateway of several processes, which all of them listen on. They outlive each of its processes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

from proxy.address import Address, told
from proxy.limits import LISTEN_BACKLOG

# One for each address that a host's name has.
Listeners = list[socket.socket]


class Reserved(NamedTuple):
    """The addresses as bound. clients: the listeners of each serving process; operators, workers: control's; fleet: the
    demonstration fleet's.
    """

    listen: Address
    admin: Address
    accepts: Address | None
    clients: list[Listeners]
    operators: Listeners
    workers: Listeners
    demo: Address | None
    fleet: Listeners

    def all(self) -> Iterator[socket.socket]:
        """Each of them."""
        for each in (*self.clients, self.operators, self.workers, self.fleet):
            yield from each


def reserve(address: Address, count: int) -> tuple[Address, list[Listeners]]:
    """Listen `count` times at an address, whose port is chosen by the system where it is 0; the address as bound.

    Connections are shared out among them. OSError, whose strerror is a reason for people; where somebody else listens
    there, also with the same option, it is that the port is in use.
    """
    port = address.port
    each: list[Listeners] = [[] for _ in range(count)]
    with contextlib.ExitStack() as undo:
        try:
            places = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, place in dict.fromkeys(places):
                with _bound(family, (place[0], port, *place[2:]), shared=False) as alone:
                    port = alone.getsockname()[1]
                for listeners in each:
                    made = undo.enter_context(_bound(family, (place[0], port, *place[2:]), shared=count > 1))
                    made.listen(LISTEN_BACKLOG)
                    made.settimeout(0.0)
                    listeners.append(made)
        except OSError as error:
            raise told(error) from None
        undo.pop_all()
    return Address(address.host, port), each


def check_free(host: str, port: int) -> None:
    """OSError where somebody listens there."""
    for family, _, _, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE):
        _bound(family, place, shared=False).close()


def shared(host: str, port: int) -> Listeners:
    """A further listener of an address that others of this gateway's processes listen on too. OSError."""
    made: Listeners = []
    with contextlib.ExitStack() as undo:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, place in dict.fromkeys(places):
            one = undo.enter_context(_bound(family, place, shared=True))
            one.settimeout(0.0)
            made.append(one)
        undo.pop_all()
    return made


def _bound(family: int, place: tuple[object, ...], *, shared: bool) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a closed port is free at once
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other family has a socket of its own
        made.bind(place)
    except OSError:
        made.close()
        raise
    return made
