"""Work that may never end, such as reading from a network drive that is gone, without holding up the program's exit."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """What `work` returns or raises, called in a thread of its own that ends with the program.

    The threads of `asyncio.to_thread` are waited for when the event loop is closed, however long that takes. Whoever
    cancels the future leaves the thread to itself.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        try:
            done.set_result(work())
        except BaseException as error:  # whatever it is, it belongs to whoever waits
            done.set_exception(error)
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(hand_over, done)

    def hand_over(done: concurrent.futures.Future[T]) -> None:
        if future.done():
            return
        error = done.exception()
        if error is None:
            future.set_result(done.result())
        else:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future
