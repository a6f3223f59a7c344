"""A model server that the program has never heard of: a folder of rules and two lines of settings, and it is one of
the fleet, for the clients of every dialect.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.types import JsonObject
from tests.gateway.client import Connection, call
from tests.gateway.dialects import DIALECTS, SYSTEM, USER, Ask, any_text
from tests.gateway.quill_server import CARD, VOLUME, Quill, quill
from tests.gateway.rig import Rig, running, until
from tests.structure.sources import ROOT

RULES = Path(__file__).with_name("quill")


@contextlib.asynccontextmanager
async def with_quill(**settings: object) -> AsyncIterator[tuple[Rig, Quill]]:
    """A gateway in front of one such server, and nothing of FastChat."""
    async with quill() as server:
        backends = [{"kind": "quill", "url": server.url, "key": CARD, "probe_seconds": 600.0}]
        async with running(rules=RULES, given={"backends": backends, **settings}) as rig:
            yield rig, server


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Rig, Quill]]:
    async with with_quill() as found:
        yield found


def before(ask: Ask) -> str:
    """What a client has of the server's text before an error; DB-GPT's is without the last character, held back."""
    return "An owl" if ask is DIALECTS["dbgpt"] else "An owl."


each_dialect = pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS.keys())


@each_dialect
async def test_the_text_is_what_the_server_wrote(pair: tuple[Rig, Quill], ask: Ask) -> None:
    """To the letter, whatever it is made of and wherever its bytes are cut, with the reason and the tokens."""
    rig, server = pair
    for seed in range(25):
        server.script = any_text(seed)
        said = await ask(rig.listen, VOLUME)
        assert (said.text, said.finish, said.error) == ("".join(server.script), "stop", None), f"seed {seed}"
        assert said.usage == (4, len(server.script))
    assert server.scenes[0]["scene"] == [["narrator", SYSTEM], ["reader", USER]]
    assert server.scenes[0]["volume"] == VOLUME


@each_dialect
async def test_its_errors_are_the_clients_own(pair: tuple[Rig, Quill], ask: Ask) -> None:
    """What it says in the midst of an answer comes after what it wrote; what it says instead of one, at once."""
    rig, server = pair
    server.blot = {"no": 17, "why": "the ink ran out"}
    said = await ask(rig.listen, VOLUME)
    assert (said.text, said.finish, said.status) == (before(ask), None, 200)
    assert said.error is not None
    assert "the ink ran out" in said.error
    server.refusing = (418, "nothing is written before noon")
    said = await ask(rig.listen, VOLUME)
    assert (said.text, said.status) == ("", 200 if ask is DIALECTS["dbgpt"] else 400)
    assert said.error is not None
    assert "nothing is written before noon" in said.error


@each_dialect
async def test_a_line_that_breaks_off_is_no_end(pair: tuple[Rig, Quill], ask: Ask) -> None:
    """The client is told, and has what was complete."""
    rig, server = pair
    server.tears = True
    said = await ask(rig.listen, VOLUME)
    assert (said.text, said.finish) == (before(ask), None)
    assert said.error is not None


async def test_a_client_that_leaves_is_left_alone(pair: tuple[Rig, Quill]) -> None:
    """The server hears of it at once, and writes no more."""
    rig, server = pair
    server.rests = True
    connection = await Connection.open(rig.listen)
    body: JsonObject = {"model": VOLUME, "messages": [{"role": "human", "content": USER}]}
    await connection.request("POST", "/api/worker/generate_stream", body)
    await connection.reader.readuntil(b"An")
    await connection.leave()
    await until(lambda: server.left == 1, lambda: "the server was not told")


async def test_a_prompt_goes_to_its_other_path(pair: tuple[Rig, Quill]) -> None:
    """A completion is asked for where the server has completions, and may begin with its prompt."""
    rig, server = pair
    frames = await rig.stream({"model": VOLUME, "prompt": "Once ", "chat_model": False, "echo": True})
    assert frames[-1]["text"] == "Once An owl."
    assert server.scenes[-1]["begun"] == "Once "


async def test_vectors_and_counts_are_its_own(pair: tuple[Rig, Quill]) -> None:
    """In the order of the texts, though it sends them in another; and tokens as it counts them."""
    rig, _ = pair
    rig.client.model = VOLUME
    assert await rig.client.embeddings(["a", "bbb", "cc"]) == [[1.0, 0.5], [3.0, 0.5], [2.0, 0.5]]
    reply = await call(rig.listen, "POST", "/api/worker/count_token", {"model": VOLUME, "prompt": "a b c"})
    assert reply.json == 3


async def test_its_models_are_in_every_list(pair: tuple[Rig, Quill]) -> None:
    """With the context that it tells."""
    rig, _ = pair
    rig.client.model = VOLUME
    assert (await rig.client.model_metadata())["context_length"] == 4096
    tags = (await call(rig.listen, "GET", "/api/tags")).object["models"]
    assert isinstance(tags, list)
    assert [model["name"] for model in tags if isinstance(model, dict)] == [f"{VOLUME}:latest"]


async def test_no_more_come_at_once_than_its_rules_say(pair: tuple[Rig, Quill]) -> None:
    """Its limit is three; the fourth waits until one of them has gone."""
    rig, server = pair
    server.rests = True
    connections = [await Connection.open(rig.listen) for _ in range(4)]
    body: JsonObject = {"model": VOLUME, "messages": [{"role": "human", "content": USER}]}
    for connection in connections:
        await connection.request("POST", "/api/worker/generate_stream", body)
    await until(lambda: server.writing == 3, lambda: f"{server.writing} at once")
    await connections[0].reader.readuntil(b"An")
    assert len(server.scenes) == 3
    await connections[0].leave()
    await until(lambda: len(server.scenes) == 4, lambda: "the fourth still waits")
    assert server.writing <= 3
    for connection in connections[1:]:
        await connection.leave()


async def test_a_wrong_key_is_told_to_whoever_runs_the_gateway() -> None:
    """The worker is not used, and its own words say why."""
    async with quill() as server:
        backends = [{"kind": "quill", "url": server.url, "key": "another-card"}]
        async with running(rules=RULES, given={"backends": backends}) as rig:
            status = (await call(rig.gateway.admin, "GET", "/status", connection="close")).body.decode()
    assert "another-card" not in status
    assert "403" in status


def test_the_program_knows_nothing_of_it() -> None:
    """All that it takes is in the folder of rules and in the settings."""
    words = ("quill", "x-library-card", "/shelf", "stroke")
    files = [*(ROOT / "proxy").rglob("*.py"), *(ROOT / "rules").rglob("*.yaml")]
    assert files
    assert [str(file) for file in files if any(word in file.read_text(encoding="utf-8") for word in words)] == []
