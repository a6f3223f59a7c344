"""Models under ports and names of their own."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.demo.worker import DemoWorker
from proxy.fleet.facts import ModelFacts, WorkerReport
from proxy.settings import Address
from proxy.types import JsonObject
from tests.gateway.client import call
from tests.gateway.remote_worker import RemoteWorker
from tests.gateway.rig import HELLO, Rig, asked, demo_worker, running, until, with_demo
from tests.ports import bound, free_row, listens


@pytest.fixture
def first() -> int:
    """The first of five ports in a row that nobody uses."""
    return free_row(5, 20_000, 30_000)


def ports(first: int, count: int) -> dict[str, int]:
    return {"first": first, "last": first + count - 1}


async def counted_as(port: int, worker: DemoWorker) -> str:
    """The model whose tokenizer counts for a caller at this port."""
    assert await RemoteWorker(Address("127.0.0.1", port), "").count_token("hello world") == 2
    *_, model = [body["model"] for _, body in worker.requests if body.get("prompt") == "hello world"]
    return str(model)


async def till_listens(port: int) -> None:
    await until(lambda: listens(port), lambda: f"nobody listens on port {port}", 2.5)


async def test_a_port_tells_the_model(first: int) -> None:
    """The ports are open when the gateway is; what comes in on one of them needs no model."""
    async with demo_worker("a", "b") as worker, running(worker.address, model_ports=ports(first, 2)) as rig:
        assert [await counted_as(port, worker) for port in (first, first + 1)] == ["a", "b"]
        for port, model in ((first, "a"), (first + 1, "b")):
            own = Address("127.0.0.1", port)
            metadata = await call(own, "POST", "/api/worker/model_metadata", {"span_id": "x"})
            assert metadata.object["model"] == model
            answer = await call(own, "POST", "/api/worker/generate", {"messages": HELLO["messages"]})
            assert f"I am {model}, " in str(answer.object["text"])
            vectors = await call(own, "POST", "/api/worker/embeddings", {"input": ["a"]})
            assert len(list(vectors.body)) > 100
        # What names a model gets that one, whatever the port.
        answer = await call(Address("127.0.0.1", first), "POST", "/api/worker/generate", {**HELLO, "model": "b"})
        assert "I am b, " in str(answer.object["text"])
        assert await counted_as(rig.listen.port, worker) == "a"


async def test_the_default_model_counts_at_the_common_port(first: int) -> None:
    """`default_model` says whose tokenizer answers where nothing else does."""
    async with (
        demo_worker("a", "b") as worker,
        running(worker.address, model_ports=ports(first, 2), default_model="b") as rig,
    ):
        assert await counted_as(rig.listen.port, worker) == "b"
        assert await counted_as(first, worker) == "a"


async def test_a_port_in_use_is_skipped(first: int) -> None:
    """Another program's port is left to it; the model takes the next one."""
    with bound(first) as other:
        other.listen()
        async with demo_worker("a", "b") as worker, running(worker.address, model_ports=ports(first, 3)):
            assert [await counted_as(port, worker) for port in (first + 1, first + 2)] == ["a", "b"]


async def test_a_model_without_a_port_shares_the_common_address(first: int) -> None:
    """With more models than ports everything is served all the same."""
    async with demo_worker("a", "b") as worker, running(worker.address, model_ports=ports(first, 1)) as rig:
        assert await counted_as(first, worker) == "a"
        assert (await rig.stream({**HELLO, "model": "b"}))[-1]["error_code"] == 0


async def test_a_model_that_appears_later_gets_a_port_too(first: int) -> None:
    """A port opens when its model does, and ports given before stay with their models."""
    watched: JsonObject = {"probe_seconds": 0.02}
    async with (
        demo_worker("b") as worker,
        running(worker.address, model_ports=ports(first, 3), fastchat={"workers": [worker.address], **watched}),
    ):
        worker.models.insert(0, "a")
        await till_listens(first + 1)
        assert [await counted_as(port, worker) for port in (first, first + 1)] == ["b", "a"]


async def test_models_that_appear_while_ports_are_being_opened(first: int) -> None:
    """None is forgotten when several workers report in the same moment."""
    async with demo_worker("a") as worker, running(worker.address, model_ports=ports(first, 5)) as rig:
        fleet = rig.gateway.fleet
        facts = fleet.known("a")
        assert facts is not None
        for name in ("b", "c", "d", "e"):
            other = ModelFacts(
                name, facts.kinds, facts.context_length, facts.conversation, {**facts.document, "model": name}
            )
            fleet.report(WorkerReport(f"http://127.0.0.1:1/{name}", (other,)), time.monotonic())
            await asyncio.sleep(0)
        for port in range(first, first + 5):
            await till_listens(port)


async def test_the_ports_are_given_back(first: int) -> None:
    """A gateway that has ended holds no port."""
    async with demo_worker("a") as worker:
        for _ in range(2):
            async with running(worker.address, model_ports=ports(first, 1)):
                assert await counted_as(first, worker) == "a"


# Names that a cluster cannot carry


async def test_a_model_is_served_under_its_registered_name(first: int) -> None:
    """A name with `@` is `-` to clients in every call, and itself to the worker."""
    async with demo_worker("a@b") as worker, running(worker.address, model_ports=ports(first, 1)) as rig:
        client = RemoteWorker(rig.listen, "a-b")
        assert (await client.model_metadata())["model"] == "a-b"
        assert (await client.generate({"messages": HELLO["messages"]}))["error_code"] == 0
        assert asked(worker)[-1][1]["model"] == "a@b"
        assert len(await client.embeddings(["x"])) == 1
        assert asked(worker)[-1][1]["model"] == "a@b"
        listed = (await call(rig.listen, "GET", "/api/worker/models/supports")).body.decode()
        assert '"model":"a-b"' in listed
        assert "a@b" not in listed
        own = await call(Address("127.0.0.1", first), "POST", "/api/worker/model_metadata", {"span_id": "x"})
        assert own.object["model"] == "a-b"
        assert await counted_as(first, worker) == "a@b"
        nobody = await rig.post("model_metadata", {"model": "x"})
        assert nobody.object["detail"] == "model: no worker serves 'x'; known models: a-b"


async def test_two_models_never_share_a_name() -> None:
    """The model that is really called so keeps its name; the other one is not taken for it."""
    async with with_demo("a@b", "a-b") as (rig, worker):
        await rig.stream({**HELLO, "model": "a-b"})
        assert asked(worker)[-1][1]["model"] == "a-b"


@pytest.mark.parametrize("model", ["vicuna/7b", "通义", "my model", "x" * 200])
async def test_other_odd_names_stay_as_they_are(model: str) -> None:
    """Slashes, spaces and other scripts are no trouble to anybody."""
    async with demo_worker(model) as worker, running(worker.address) as rig:
        client = RemoteWorker(rig.listen, model)
        assert (await client.model_metadata())["model"] == model
        assert (await client.generate_stream({"messages": HELLO["messages"]}))[-1]["error_code"] == 0


async def test_an_answer_for_a_rig_without_ports(rig: Rig, worker: DemoWorker) -> None:
    """Without `model_ports` the first model that chats counts."""
    assert await counted_as(rig.listen.port, worker) == "m"
