"""Ports of this machine: taken ones, free ones in a row, and those at which somebody listens."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def bound(port: int) -> Iterator[socket.socket]:
    """The port is taken while this lasts; nobody listens at it unless the caller does."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        yield taken


def free_row(count: int, lowest: int, highest: int) -> int:
    """The first of so many ports in a row that nobody uses, itself at least `lowest` and below `highest`.

    Tests that may run side by side draw from ranges of their own: what was free is not held.
    """
    for _ in range(200):
        port = random.randrange(lowest, highest)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in range(port, port + count):
                stack.enter_context(bound(number))
            return port
    raise AssertionError(f"no {count} free ports in a row")


def listens(port: int) -> bool:
    """Whether somebody listens at the port now."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
