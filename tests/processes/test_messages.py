"""What goes between processes: frames cut anywhere, and turns that pass from one process to the next."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import pytest

from proxy.address import Address
from proxy.fleet.facts import AtLimit, ModelFacts, QueueFull
from proxy.limits import CHANNEL_FRAME_MAX_BYTES
from proxy.processes.channel import Channel, Message, frame, frames, needed
from proxy.processes.child import open_line
from proxy.processes.line import Line
from proxy.processes.sockets import check_free, reserve, shared
from proxy.processes.turns import TurnTable
from proxy.processes.wire import error_of, error_to_json, facts_of, facts_to_json

MESSAGES: list[Message] = [["lease", 1, "http://a", "m", False], ["gone", "http://b"]]


def test_frames_cut_at_every_byte() -> None:
    """Whatever a read brings, the messages are the same, and it is known how much is missing."""
    whole = frame(MESSAGES) + frame([["x"]])
    for cut in range(len(whole) + 1):
        first, rest = frames(whole[:cut])
        assert len(rest) < needed(rest)
        second, left = frames(rest + whole[cut:])
        assert [*first, *second] == [*MESSAGES, ["x"]]
        assert left == b""


def test_what_json_cannot_say() -> None:
    """Bytes that a caller sent for text, and numbers beyond all bounds, spoil no message."""
    (found,), rest = frames(frame([["acquire", 1, "m\udcff", {"\ud800": [2**70, -(2**63)]}, None, True]]))
    assert (found, rest) == (["acquire", 1, "m?", {"?": [float(2**70), -(2**63)]}, None, True], b"")


def test_a_frame_that_is_too_large() -> None:
    """It is refused by its head."""
    with pytest.raises(ValueError, match=r"a frame of \d+ bytes between processes"):
        frames((CHANNEL_FRAME_MAX_BYTES + 1).to_bytes(4, "big"))


def test_a_line_waits_for_nobody() -> None:
    """What the other side has not room for is written later; its end is noticed."""
    ours, theirs = socket.socketpair()
    line, other = Line(ours), Line(theirs)
    text = "x" * 3_000_000
    line.send("text", text)
    assert line.has_more
    found: list[Message] = []
    while not found:
        found = other.read()
        line.write()
    assert found == [["text", text]]
    other.close()
    assert line.read() == []
    assert not line.is_open
    line.close()


async def test_the_last_words_are_heard() -> None:
    """Whoever ends waits until they are written."""
    ours, theirs = socket.socketpair()
    channel = Channel(lambda _: None, lambda: None)
    await open_line(channel, ours)
    channel.send("text", "x" * 3_000_000)
    other, found = Line(theirs), list[Message]()
    ending = asyncio.create_task(channel.finish())
    while not found:
        found = other.read()
        await asyncio.sleep(0)
    await ending
    assert [len(str(message[1])) for message in found] == [3_000_000]
    other.close()


def test_facts_and_errors_come_as_they_went() -> None:
    """Nothing of a model is lost, and an error is of its class."""
    facts = ModelFacts("m", frozenset({"llm", "text2vec"}), 4096, {"stop_str": None}, {"model": "m", "x": [1, 2.5]})
    assert facts_of(facts_to_json(facts)) == facts
    for error in (AtLimit("all busy", "m", "llm"), QueueFull("full", "n", "text2vec")):
        again = error_of(error_to_json(error))
        assert (type(again), str(again), again.model, again.kind) == (type(error), str(error), error.model, error.kind)


def test_turns_pass_from_process_to_process() -> None:
    """First come, first served; a process that is gone has no turn and waits for none."""
    table, had = TurnTable(), list[str]()
    name = ("http://a", "embed")
    for process, number in (("p", 1), ("q", 1), ("q", 2), ("r", 1)):
        table.ask(process, number, name, partial(had.append, f"{process}{number}"))
    assert had == ["p1"]
    table.give_back("q", 1)  # it does not wait any more
    assert had == ["p1"]
    table.give_back("p", 1)
    assert had == ["p1", "q2"]
    table.give_back("q")
    assert had == ["p1", "q2", "r1"]
    table.give_back("r", 1)
    table.ask("p", 2, name, lambda: had.append("p2"))
    assert had[-1] == "p2"


def test_a_turn_of_an_earlier_table() -> None:
    """Who has it goes on having it; the next one waits for it."""
    table, had = TurnTable(), list[str]()
    table.adopt("p", 7, ("http://a", "embed"))
    table.ask("q", 1, ("http://a", "embed"), lambda: had.append("q"))
    assert had == []
    table.give_back("p", 7)
    assert had == ["q"]


def test_an_address_for_all_and_for_nobody_else() -> None:
    """One port, chosen once, with a listener for each process; who else wants it is told that it is in use."""
    address, each = reserve(Address("127.0.0.1", 0), 3)
    ports = {listener.getsockname()[1] for listeners in each for listener in listeners}
    assert ports == {address.port} != {0}
    (further,) = shared("127.0.0.1", address.port)
    for attempt in (lambda: reserve(address, 2), lambda: check_free("127.0.0.1", address.port)):
        with pytest.raises(OSError, match="in use"):
            attempt()
    for listener in (further, *(listener for listeners in each for listener in listeners)):
        listener.close()
    check_free("127.0.0.1", address.port)
