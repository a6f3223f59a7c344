"""Any process may be killed at any time: the streams of others go on, nothing is leaked, nobody is withdrawn."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.settings import parse_address
from proxy.types import Json, JsonObject
from tests.backends.fakes import FakeRegistry, eventually
from tests.cli.serving import HELLO, Stream, worker
from tests.gateway.client import call
from tests.ports import listens
from tests.processes.rig import ends, several


class Registry(FakeRegistry):
    """A controller that notes what is withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.withdrawn: list[str] = []

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if method == "DELETE":
            self.withdrawn.append(path)
        return super().answer(method, path, body)


@contextlib.asynccontextmanager
async def registry() -> AsyncIterator[Registry]:
    made = Registry()
    await made.start()
    yield made
    await made.stop()


async def test_a_killed_serving_process(tmp_path: Path) -> None:
    """Its own streams break off and their places are free at once; the others' end well; it is replaced in time."""
    async with several(tmp_path) as gateway:
        streams = await gateway.streams(24)
        await gateway.counts(24)
        before = await gateway.metric("gateway_requests_total", outcome="ok")
        await gateway.replaced("serving-1", await gateway.kill("serving-1"))
        found = await ends(streams)
        assert set(found) == {"stop", "cut"}, found
        await gateway.counts(0)
        assert {frames[-1]["finish_reason"] for frames in await gateway.asked(6)} == {"stop"}
        ok = await gateway.metric("gateway_requests_total", outcome="ok")
        assert ok == before + found.count("stop") + 6
        assert await gateway.metric("gateway_process_replacements_total", role="serving") == 1
        assert await gateway.metric("gateway_in_flight") == 0
        await gateway.stop()


async def test_a_killed_control(tmp_path: Path) -> None:
    """Every stream goes on and is counted by the next one, which registers nothing anew and withdraws nothing; who asks
    meanwhile waits.
    """
    async with registry() as cluster, several(tmp_path, "--dbgpt-controller", cluster.url) as gateway:
        await eventually(lambda: "m@llm" in cluster.keys)
        streams = await gateway.streams(8)
        await gateway.counts(8)
        pid = await gateway.kill("control")
        late = asyncio.create_task(Stream.begin(gateway.gateway.clients))
        await gateway.replaced("control", pid)
        await asyncio.wait_for(late, 2.0)
        await gateway.counts(9)
        assert set(await ends([*streams, late.result()])) == {"stop"}
        await gateway.counts(0)
        assert cluster.withdrawn == []
        assert "m@llm" in cluster.keys
        await gateway.stop()
        assert cluster.rows == {}


async def test_a_killed_supervisor(tmp_path: Path) -> None:
    """Streams end well, the gateway leaves its clusters, and its address is free for another one."""
    async with registry() as cluster, several(tmp_path, "--dbgpt-controller", cluster.url) as gateway:
        await eventually(lambda: "m@llm" in cluster.keys)
        streams = await gateway.streams(4)
        pids = await gateway.pids()
        await gateway.kill("supervisor")
        await eventually(lambda: not listens(gateway.gateway.clients.port))
        await eventually(lambda: not listens(gateway.gateway.admin.port))
        assert set(await ends(streams)) == {"stop"}
        await eventually(lambda: cluster.rows == {})
        await eventually(lambda: not any(_lives(pid) for pid in pids.values()))


def _lives(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


async def test_what_ends_again_and_again_is_not_replaced_for_ever(tmp_path: Path) -> None:
    """After three replacements in a row the gateway stops with a sentence and exit code 1."""
    async with several(tmp_path) as gateway:
        for _ in range(3):
            await gateway.replaced("serving-2", await gateway.kill("serving-2"))
        os.kill((await gateway.pids())["serving-2"], signal.SIGKILL)
        assert await gateway.gateway.ended() == 1
        assert "after 3 replacements in a row: the gateway stops" in "\n".join(gateway.gateway.process.err)


async def test_a_serving_process_that_is_asked_to_end(tmp_path: Path) -> None:
    """It finishes its streams, while another one takes its place, however long that takes."""
    async with several(tmp_path, shutdown_seconds=0.1) as gateway:
        streams = await gateway.streams(12)
        pid = await gateway.kill("serving-1", signal.SIGTERM)
        await gateway.replaced("serving-1", pid)
        assert set(await ends(streams)) == {"stop"}
        await eventually(lambda: not _lives(pid))
        assert {frames[-1]["finish_reason"] for frames in await gateway.asked(4)} == {"stop"}
        assert await gateway.metric("gateway_process_replacements_total", role="serving") == 0


async def test_a_control_that_is_killed_while_the_gateway_stops(tmp_path: Path) -> None:
    """Streams end well all the same, and the exit code is that of a stop."""
    async with several(tmp_path) as gateway:
        streams = await gateway.streams(6)
        pids = await gateway.pids()
        gateway.gateway.process.send(signal.SIGTERM)
        os.kill(pids["control"], signal.SIGKILL)
        assert set(await ends(streams)) == {"stop"}
        assert await gateway.gateway.ended() == 0
        await eventually(lambda: not any(_lives(pid) for pid in pids.values()))


async def test_who_tells_all_processes_to_end_stops_the_gateway(tmp_path: Path) -> None:
    """As a service manager may; none of them is replaced first."""
    async with several(tmp_path) as gateway:
        streams = await gateway.streams(4)
        pids = await gateway.pids()
        for name in ("supervisor", "serving-1", "serving-2", "control"):
            os.kill(pids[name], signal.SIGTERM)
        assert set(await ends(streams)) == {"stop"}
        assert await gateway.gateway.ended() == 0
        assert "takes its place" not in "\n".join(gateway.gateway.process.err)


async def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    """Nobody is left, and no stream is waited for."""
    async with several(tmp_path, chunks=2) as gateway:
        streams = await gateway.streams(2)
        pids = await gateway.pids()
        gateway.gateway.process.send(signal.SIGTERM)
        await asyncio.to_thread(gateway.gateway.process.until, "^stopping: ")
        gateway.gateway.process.send(signal.SIGTERM)
        assert await gateway.gateway.ended() == -signal.SIGTERM
        assert set(await ends(streams)) == {"cut"}
        await eventually(lambda: not any(_lives(pid) for pid in pids.values()))


def _is_kept(address: str) -> bool:
    """Whether a gateway of several processes has written down that this worker registered."""
    sockets = Path("/proc/net/unix").read_text(encoding="utf-8").split()
    files = {Path(path).with_name("workers.json") for path in sockets if path.endswith("/control")}
    return any(file.is_file() and address in file.read_text(encoding="utf-8") for file in files)


async def test_who_registered_is_known_to_the_next_control(tmp_path: Path) -> None:
    """Without a word of the workers, which speak up every 45 seconds, and without a file in the settings."""
    accept: JsonObject = {"listen": "127.0.0.1:0"}
    async with worker("n") as newcomer, several(tmp_path, accept=accept) as gateway:
        said = await asyncio.to_thread(gateway.gateway.process.until, r"^accepts +workers at http://([^;]+)")
        controller = parse_address(said[1])
        status: JsonObject = {"model_names": ["n"], "speed": 1, "queue_length": 0}
        told: JsonObject = {"worker_name": newcomer.address, "check_heart_beat": True, "worker_status": status}
        assert (await call(controller, "POST", "/register_worker", told)).status == 200
        await eventually(lambda: _is_kept(newcomer.address))
        await gateway.replaced("control", await gateway.kill("control"))
        listed = await call(controller, "POST", "/list_models", {})
        assert "n" in str(listed.object["models"])
        reply = await gateway.gateway.ask("/api/worker/generate", {**HELLO, "model": "n"})
        assert reply.status == 200, reply
        await gateway.stop()
