"""Work in threads that nothing waits for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from proxy.threads import in_thread
from tests.cli.process import environment

HANGS = """
import asyncio, threading
from proxy.threads import in_thread
async def main():
    in_thread(threading.Event().wait, "hangs")
    await asyncio.sleep(0)
asyncio.run(main())
"""


async def test_results_and_failures_come_back() -> None:
    """What the work returns or raises is what is awaited; it runs in another thread."""
    assert await in_thread(threading.get_ident, "work") != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0, "work")


async def test_what_nobody_awaits_any_more() -> None:
    """Work whose waiter left goes on to its end without a word."""
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(5)
        ended.set()

    waiting = in_thread(work, "work")
    waiting.cancel()
    go.set()
    assert await asyncio.to_thread(ended.wait, 5)
    await asyncio.sleep(0)
    assert waiting.cancelled()


def test_work_that_never_ends_does_not_keep_the_program() -> None:
    """The event loop is closed and the process ends while the thread hangs."""
    done = subprocess.run([sys.executable, "-c", HANGS], env=environment(), timeout=9, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
