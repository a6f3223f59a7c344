"""How `serve` stops: out of the clusters first, then no new work, and nobody's stream breaks off without a word."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import termios
import time
from pathlib import Path

from proxy.address import Address
from proxy.demo.faults import Fault
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeRegistry, eventually
from tests.cli.process import ANY_PORTS, GATEWAY, ROOT, environment
from tests.cli.serving import HELLO, STREAM, Stream, serving, worker, written
from tests.gateway.client import call, frames_of
from tests.ports import listens


class WatchfulRegistry(FakeRegistry):
    """A controller that tries the gateway in the moment in which a row is withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway: Address | None = None
        self.accepted: list[bool] = []

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if method == "DELETE" and self.gateway is not None:
            self.accepted.append(listens(self.gateway.port))
        return super().answer(method, path, body)


async def test_the_order_of_a_stop(tmp_path: Path) -> None:
    """Not ready at once; every row withdrawn while clients can still connect; new work refused in the client's own
    words; the running stream complete; then the end, with exit code 0."""
    registry = WatchfulRegistry()
    await registry.start()
    async with worker(chunks_per_second=25) as fleet:
        file = written(tmp_path / "s.yaml", {"fastchat": {"workers": [fleet.address]}, "shutdown_seconds": 20.0})
        async with serving(file, "--dbgpt-controller", registry.url) as gateway:
            registry.gateway = gateway.clients
            await eventually(lambda: {"m@llm", "WorkerManager@service"} <= registry.keys)
            stream = await Stream.begin(gateway.clients)
            gateway.process.send(signal.SIGTERM)
            await eventually(lambda: registry.rows == {})
            assert registry.accepted
            assert all(registry.accepted)
            ready = await gateway.get("/readyz")
            assert (ready.status, ready.body) == (503, b"stopping\n")
            await _refused(gateway.clients)
            frames = await stream.rest()
            assert frames[-1]["finish_reason"] == "stop"
            assert await gateway.ended() == 0
            assert not listens(gateway.clients.port)
    await registry.stop()


async def _refused(clients: Address) -> None:
    """New work is refused once the clusters are left, in a frame, on a connection that is closed afterwards."""
    deadline = time.monotonic() + 3
    while True:
        reply = await call(clients, "POST", STREAM, HELLO, connection="close")
        (frame, *more) = frames_of(reply.body)
        if not more and frame["error_code"]:
            break
        assert time.monotonic() < deadline
    assert reply.status == 200
    assert "stopping" in str(frame["text"])


async def test_a_stalled_stream_is_told(tmp_path: Path) -> None:
    """What is not over in time ends with a frame that says why, and the program ends soon after."""
    async with worker() as fleet:
        fleet.fault = lambda path, body: Fault("stall", after=2, seconds=60) if "stream" in path else None
        file = written(tmp_path / "s.yaml", {"fastchat": {"workers": [fleet.address]}, "shutdown_seconds": 0.5})
        async with serving(file) as gateway:
            streams = [await Stream.begin(gateway.clients) for _ in range(5)]
            began = time.monotonic()
            gateway.process.send(signal.SIGTERM)
            for frames in await asyncio.gather(*(stream.rest() for stream in streams)):
                assert frames[-1]["error_code"]
                assert "stopping" in str(frames[-1]["text"])
            assert await gateway.ended() == 0
            assert 0.5 <= time.monotonic() - began < 4
            assert "5 requests are still running" in "\n".join(gateway.process.err)


def test_a_closed_terminal_stops_it() -> None:
    """Whoever closes the terminal in which it runs does not leave it behind, holding its ports."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*GATEWAY, "serve", "--demo", *ANY_PORTS],
        env=environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    try:
        os.close(theirs)
        said = b""
        while b"_total'" not in said or select.select([ours], [], [], 0.5)[0]:  # all lines of the start
            said += os.read(ours, 65_536)
        os.close(ours)
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def test_a_reload_at_the_stop(tmp_path: Path) -> None:
    """A SIGHUP just before the end neither delays the withdrawal nor looks like a mistake."""
    registry = FakeRegistry()
    await registry.start()
    async with worker() as fleet:
        file = written(tmp_path / "s.yaml", {"fastchat": {"workers": [fleet.address]}})
        async with serving(file, "--dbgpt-controller", registry.url) as gateway:
            await eventually(lambda: {"m@llm", "WorkerManager@service"} <= registry.keys)
            gateway.process.send(signal.SIGHUP)
            gateway.process.send(signal.SIGTERM)
            await eventually(lambda: registry.rows == {}, seconds=1)
            assert await gateway.ended() == 0
            said = "\n".join(gateway.process.err)
            assert "ERROR" not in said
            assert "refused" not in said
    await registry.stop()


async def test_a_pipe_among_the_rules(tmp_path: Path) -> None:
    """What can never be read to its end is refused by name; the gateway serves on and can be stopped."""
    pack = Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))
    async with worker() as fleet:
        settings: JsonObject = {"fastchat": {"workers": [fleet.address]}, "rules": [str(pack)]}
        async with serving(written(tmp_path / "s.yaml", settings)) as gateway:
            os.mkfifo(pack / "zz.yaml")
            await gateway.line(r"reload refused: .*zz.yaml:1:1: cannot be read: not a regular file")
            assert (await gateway.ask("/api/worker/generate", HELLO)).status == 200
            began = time.monotonic()
            gateway.process.send(signal.SIGTERM)
            assert await gateway.ended() == 0
            assert time.monotonic() - began < 3


async def test_reloads_asked_for_until_the_last_moment(tmp_path: Path) -> None:
    """Whoever goes on asking for reloads while it ends does not spoil its exit code."""
    file = written(tmp_path / "s.yaml", {"demo": {}})
    async with serving(file) as gateway:
        gateway.process.send(signal.SIGTERM)
        while gateway.process.running:
            gateway.process.send(signal.SIGHUP)
            await asyncio.sleep(0.0005)
        assert await gateway.ended() == 0
