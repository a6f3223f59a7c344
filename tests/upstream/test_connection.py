from __future__ import annotations

import asyncio
import socket

from proxy.upstream import Target
from proxy.upstream.connection import Connection
from tests.hostile import answer, peer, response


class Book:
    """An owner that keeps nothing."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def lost(self, connection: Connection) -> None:
        self.events.append("lost")

    def keep(self, connection: Connection) -> bool:
        self.events.append("keep")
        return False


async def test_small_writes_leave_at_once() -> None:
    """The socket has TCP_NODELAY, or a short request would wait for the answer to the one before."""
    async with peer(answer(response())) as worker:
        connection = Connection(Book(), Target.parse(worker.url))
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: connection, worker.host, worker.port)
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connection.abort()


async def test_a_connection_given_up_while_it_is_made_is_closed() -> None:
    """Abort before the transport exists closes the transport when it comes."""
    owner = Book()
    async with peer(answer(response())) as worker:
        connection = Connection(owner, Target.parse(worker.url))
        connection.abort()
        await asyncio.get_running_loop().create_connection(lambda: connection, worker.host, worker.port)
        await worker.until(lambda this: this.accepted == 1 and this.open == 0)
    assert owner.events == ["lost"]
    assert not connection.usable


async def test_a_connection_nobody_keeps_is_closed() -> None:
    """When the owner has no room the released connection is closed."""
    owner = Book()
    async with peer(answer(response())) as worker:
        connection = Connection(owner, Target.parse(worker.url))
        await asyncio.get_running_loop().create_connection(lambda: connection, worker.host, worker.port)
        connection.release(reusable=True)
        await worker.until(lambda this: this.accepted == 1 and this.open == 0)
    assert owner.events == ["keep", "lost"]
