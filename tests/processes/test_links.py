"""The channels between control and the serving processes, as real sockets, with either side played by the test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.errors import GatewayError
from proxy.fleet.facts import NoWorker
from proxy.fleet.shared import SharedFleet
from proxy.processes.channel import Channel, Message
from proxy.processes.hub import Doing, Hub
from proxy.processes.link import Link
from proxy.processes.remote import RemoteLeases
from proxy.processes.view import Shown, View
from tests.backends.fakes import eventually


def _link(path: Path) -> Link:
    fleet = SharedFleet(max_workers=4, max_models_per_worker=4)
    return Link(str(path), RemoteLeases(fleet), hello=lambda: ["hello"], received=lambda _: None, lost=lambda: None)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.processes.link._RETRY_SECONDS", 0.001)
    monkeypatch.setattr("proxy.processes.link.CONTROL_AWAY_SECONDS", 0.03)
    monkeypatch.setattr("proxy.processes.link.CONTROL_LOOK_SECONDS", 0.01)


async def _had_turn(link: Link) -> None:
    async with link.turns.turn(("http://a", "embed")):
        pass


@pytest.mark.usefixtures("quick")
async def test_nobody_waits_for_ever_for_a_control_that_does_not_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is waited for; that it cannot be reached is told once."""
    link = _link(tmp_path / "control")
    parts = [asyncio.create_task(link.keep()), asyncio.create_task(link.watch())]
    with pytest.raises(NoWorker, match="about to recover"):
        await asyncio.wait_for(link.leases.acquire("m", "llm", 0.0), 2.0)
    with pytest.raises(GatewayError, match="about to recover"):
        await asyncio.wait_for(_had_turn(link), 2.0)
    assert link.turns.held == []
    assert await link.operations.operate("stop", "m", None) == (
        False,
        "Not done: the gateway is about to recover; ask again in a moment.",
    )
    assert caplog.text.count("cannot be reached") == 1
    for part in parts:
        part.cancel()
    await asyncio.wait(parts)


@pytest.mark.usefixtures("quick")
async def test_a_connection_that_is_lost_again_and_again(tmp_path: Path) -> None:
    """The process is of no use; it does not try for ever."""
    met: list[Message] = []

    def meet() -> Channel:
        def received(message: Message) -> None:
            met.append(message)
            channel.close()

        channel = Channel(received, lambda: None)
        return channel

    path = tmp_path / "control"
    server = await asyncio.get_running_loop().create_unix_server(meet, str(path))
    with pytest.raises(ConnectionError, match="6 times in a row"):
        await asyncio.wait_for(_link(path).keep(), 5.0)
    assert met == [["hello"]] * 6
    server.close()


@pytest.mark.usefixtures("quick")
async def test_an_operation_that_control_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether it was done."""
    monkeypatch.setattr("proxy.processes.operations.CONTROL_AWAY_SECONDS", 0.01)
    path = tmp_path / "control"
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Channel(lambda _: None, lambda: None), str(path)
    )
    link = _link(path)
    keeping = asyncio.create_task(link.keep())
    await eventually(lambda: link.channel is not None)
    done, sentence = await link.operations.operate("stop", "m", None)
    assert (done, sentence[:9]) == (False, "Not known")
    keeping.cancel()
    await asyncio.wait([keeping])
    server.close()


class Process:
    """A serving process that answers what it is asked with `answer`, unless that is None."""

    def __init__(self, answer: str | None = "") -> None:
        self.heard: list[Message] = []
        self.answer = answer
        self.channel = Channel(self._received, lambda: None)

    def _received(self, message: Message) -> None:
        self.heard.append(message)
        if message[0] in ("open", "close") and self.answer is not None:
            self.channel.send("answer", message[1], self.answer)

    def names(self) -> list[str]:
        return [str(message[0]) for message in self.heard]


@contextlib.asynccontextmanager
async def hub(path: Path, *processes: Process) -> AsyncIterator[Hub]:
    """One that is open, with these processes, which are welcome."""
    fleet = SharedFleet(max_workers=4, max_models_per_worker=4)
    shown = Shown(dict, list, lambda *_: True, dict)
    made = Hub(fleet, View(fleet, shown), Doing(lambda _: None, lambda *_: (True, "")), lambda: 1)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    await made.listen(listener)
    made.open()
    for slot, process in enumerate(processes):
        await join(path, process, slot)
    yield made
    for process in processes:
        process.channel.close()
    await made.close()


async def join(path: Path, process: Process, slot: int = 0) -> None:
    await asyncio.get_running_loop().create_unix_connection(lambda: process.channel, str(path))
    process.channel.send("hello", slot, os.getpid(), [], [], 1, None)
    await eventually(lambda: "welcome" in process.names())


async def test_who_joins_while_the_gateway_stops_is_told(tmp_path: Path) -> None:
    """As those that were there."""
    first, second = Process(), Process()
    async with hub(tmp_path / "control", first) as there:
        there.announce("stopping")
        there.announce("refuse")
        await join(tmp_path / "control", second, 1)
        for process in (first, second):
            assert process.names().count("stopping") == process.names().count("refuse") == 1
        second.channel.close()


async def test_a_port_that_a_process_does_not_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that gives no answer has not opened it; all the others close it, and are waited for."""
    monkeypatch.setattr("proxy.processes.hub._ANSWER_SECONDS", 0.05)
    monkeypatch.setattr("proxy.processes.hub.check_free", lambda *_: None)
    good, silent = Process(), Process(None)
    async with hub(tmp_path / "control", good, silent) as there:
        with pytest.raises(OSError, match=r"process serving-2 \(\d+\) has not answered"):
            await there.open_port("127.0.0.1", 1)
        assert good.names()[-2:] == ["open", "close"]
        assert there.open_ports == set()
        silent.answer = ""
        close = await there.open_port("127.0.0.1", 1)
        await close()
        assert [process.names()[-2:] for process in (good, silent)] == [["open", "close"]] * 2
