"""Two gateways one behind the other: what one speaks to its clients is how the other asks its workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import Connection, call
from tests.gateway.dialects import DIALECTS, SYSTEM, USER, Ask, any_text
from tests.gateway.rig import Rig, demo_worker, running, until
from tests.gateway.scripted import STREAM, chunk, scripted
from tests.gateway.storyteller import Storyteller

# What the settings have to say of the model m, because the list of models that OpenAI's API has does not.
KINDS: dict[str, Json] = {
    "ollama": None,
    "openai": {"m": {"kinds": ["llm", "text2vec"], "context_length": 1234}},
}


@contextlib.asynccontextmanager
async def in_a_row(kind: str, *workers: str) -> AsyncIterator[tuple[Rig, Rig]]:
    """A gateway in front of FastChat workers, and one that takes it for a server of that kind."""
    async with running(*workers) as near:
        # What the second one leaves behind is told by what was there before it.
        watches = {f"watch {address}" for address in workers}
        await until(lambda: watches <= {task.get_name() for task in asyncio.all_tasks()}, lambda: "not watched")
        url = f"http://{near.listen.host}:{near.listen.port}"
        backends = [{"kind": kind, "url": url, "models": KINDS[kind], "probe_seconds": 600.0}]
        async with running(given={"backends": backends}, others_serve=True) as far:
            yield near, far


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS.keys())
async def test_the_text_is_the_workers_own(kind: str, ask: Ask) -> None:
    """To the letter, though the worker shows each character first in halves: through both, in every dialect."""
    teller = Storyteller()
    async with scripted({STREAM: teller}) as worker, in_a_row(kind, worker.address) as (_, far):
        worker.arm()
        for seed in range(10):
            teller.story = "".join(any_text(seed))
            said = await ask(far.listen, "m")
            assert (said.text, said.finish, said.error) == (teller.story, "stop", None), f"seed {seed}"
            assert said.usage is not None
            assert said.usage[1] == len(teller.story.encode())
    assert f"{SYSTEM} USER: {USER} ASSISTANT:" in str(teller.bodies[0]["prompt"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS.keys())
async def test_an_error_comes_through_both(kind: str, ask: Ask) -> None:
    """With the worker's own words, behind what came before."""
    lost = chunk(b'{"text": "out of memory (4711)", "error_code": 50002}\0')
    teller = Storyteller(losing=lost, story="Hello 🙂")
    teller.lose_at = 5
    async with scripted({STREAM: teller}) as worker, in_a_row(kind, worker.address) as (_, far):
        worker.arm()
        said = await ask(far.listen, "m")
    assert said.finish is None
    assert said.error is not None
    assert "Hello".startswith(said.text)
    assert len(said.text) >= 4
    assert "out of memory (4711)" in said.error


@pytest.mark.parametrize("kind", KINDS)
async def test_vectors_and_models_come_through_both(kind: str) -> None:
    """A model is known behind the second gateway as the first one has it."""
    async with demo_worker("m", context_length=1234) as worker, in_a_row(kind, worker.address) as (near, far):
        near.client.model = far.client.model = "m"
        texts = ["a", "你好", "c" * 100]
        assert await far.client.embeddings(texts) == await near.client.embeddings(texts)
        assert (await far.client.model_metadata())["context_length"] == 1234
        listed = (await call(far.listen, "GET", "/api/tags")).object["models"]
        assert isinstance(listed, list)
        assert [model["name"] for model in listed if isinstance(model, dict)] == ["m:latest"]


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_that_a_server_says_is_lost_without_a_reason(kind: str) -> None:
    """Else an operator would be told of losses by each request, and could do nothing about them."""
    async with demo_worker("m", words=5) as worker, in_a_row(kind, worker.address) as (_, far):
        far.client.model = "m"
        for ask in DIALECTS.values():
            assert (await ask(far.listen, "m")).finish == "stop"
        await far.client.embeddings(["a"])
        lost = [dict(labels) for name, labels in await far.scrape() if name == "gateway_dropped_fields_total"]
        assert not [labels for labels in lost if (labels["side"], labels["accepted"]) == ("answer", "false")]
        assert len(lost) > 3


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_the_second_leaves_the_worker(kind: str) -> None:
    """The worker's slot is free at once."""
    async with (
        demo_worker("m", chunks_per_second=50, words=500) as worker,
        in_a_row(kind, worker.address) as (_, far),
    ):
        connection = await Connection.open(far.listen)
        body: JsonObject = {"model": "m", "messages": [{"role": "user", "content": USER}]}
        await connection.request("POST", "/api/chat", body)
        await connection.reader.readuntil(b"content")
        assert worker.queue_length == 1
        await connection.leave()
        await until(lambda: worker.queue_length == 0, lambda: "the worker still writes")
