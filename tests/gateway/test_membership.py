"""A gateway between clusters: workers of other backends for FastChat's clients, and never itself for one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from proxy.backends.fastchat.conversation import prepare_conversation, render_prompt
from proxy.types import Json, JsonObject
from tests.backends.fakes import DbgptWorker, FakeController, FakeFinder, FakeRegistry, FakeServer, eventually
from tests.gateway.client import call, frames_of
from tests.gateway.openai_server import SECRET, FakeOpenAI, declared
from tests.gateway.rig import Rig, demo_worker, running


@contextlib.asynccontextmanager
async def serving(*servers: FakeServer) -> AsyncIterator[None]:
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.stop()


async def asked(rig: Rig, path: str, **body: Json) -> JsonObject:
    """One call as FastChat's clients make it, to its end."""
    reply = await call(rig.listen, "POST", path, body)
    assert reply.status == 200, reply
    return frames_of(reply.body)[-1] if path.endswith("stream") else reply.object


async def test_a_client_of_fastchat_talks_to_another_backend() -> None:
    """It asks for the template, writes its prompt, counts it, and gets the frames that it knows; the worker gets
    messages.
    """
    server = FakeOpenAI("qwen")
    async with serving(server), running(given={"backends": [declared(server)]}) as rig:
        raw = (await asked(rig, "/worker_get_conv_template", model="qwen"))["conv"]
        assert isinstance(raw, dict)
        messages: list[Json] = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "And?\n"},
        ]
        prompt = render_prompt(prepare_conversation(raw), messages)
        assert await asked(rig, "/model_details", model="qwen") == {"context_length": 4096}
        counted = await asked(rig, "/count_token", model="qwen", prompt=prompt)
        assert counted == {"count": -(-len(prompt) // 3), "error_code": 0}
        wanted: JsonObject = {
            "model": "qwen",
            "prompt": prompt,
            "stop": raw["stop_str"],
            "echo": False,
            "temperature": 0.5,
        }
        said = "You said: Be brief.<Hi<Hello.<And?\n"
        whole: JsonObject = {
            "text": said,
            "error_code": 0,
            "usage": server.usage,
            "finish_reason": "stop",
            "logprobs": None,
        }
        assert await asked(rig, "/worker_generate_stream", **wanted) == whole
        assert await asked(rig, "/worker_generate", **wanted) == whole
        assert server.asked[0]["messages"] == messages
        assert server.asked[0]["temperature"] == 0.5
        assert "stop" not in server.asked[0]
        raw_text = await asked(rig, "/worker_generate_stream", model="qwen", prompt="Once upon", echo=False)
        assert raw_text["text"] == "You said: Once upon"


async def test_vectors_of_another_backend() -> None:
    """As FastChat's own worker gives them."""
    server = FakeOpenAI("bge-embedding")
    async with serving(server), running(given={"backends": [declared(server)]}) as rig:
        found = await asked(rig, "/worker_get_embeddings", model="bge-embedding", input=["a", "b"])
        assert found == {"embedding": [[0.0, 0.5], [1.0, 0.5]], "token_num": 3}


async def test_one_model_of_two_backends() -> None:
    """A FastChat worker gets what its client wrote, the other one a dialogue; either answers."""
    server = FakeOpenAI("m")
    async with (
        serving(server),
        demo_worker("m") as worker,
        running(worker.address, given={"backends": [declared(server)]}) as rig,
    ):
        texts = set()
        for _ in range(24):
            frame = await asked(rig, "/worker_generate_stream", model="m", prompt="USER: Hi ASSISTANT:", echo=False)
            texts.add(str(frame["text"]).startswith("You said: USER: Hi ASSISTANT:"))
        assert texts == {True, False}


async def test_no_page_shows_a_key() -> None:
    """Neither the state, nor the workers and models, nor the metrics; which backend a worker is of is shown."""
    server = FakeOpenAI("qwen")
    async with serving(server), running(given={"backends": [declared(server)]}) as rig:
        pages = [await call(rig.gateway.admin, "GET", f"/{page}", connection="close") for page in PAGES]
        assert SECRET not in "".join(page.body.decode() for page in pages)
        (worker,) = pages[1].json if isinstance(pages[1].json, list) else []
        assert isinstance(worker, dict)
        assert (worker["backend"], worker["up"], worker["sources"]) == ("openai", True, ["settings"])


PAGES = ("status", "workers", "models", "rules", "metrics")


@pytest.mark.parametrize(("offer", "models"), [("others", ["chat", "qwen"]), ("all", ["chat", "m", "qwen"])])
async def test_what_fastchats_controllers_are_told(offer: str, models: list[str]) -> None:
    """The models of other backends, or all, with their aliases; after the end there are none."""
    server, controller = FakeOpenAI("qwen"), FakeController()
    async with serving(server, controller), demo_worker("m") as worker:
        fastchat = {
            "workers": [worker.address],
            "register_with": [controller.url],
            "offer": offer,
            "probe_seconds": 600.0,
        }
        settings = {"backends": [declared(server)], "models": {"qwen": {"aliases": ["chat"]}}}
        async with running(given={**settings, "fastchat": fastchat}) as rig:
            here = f"http://{rig.listen}"
            await eventually(lambda: controller.models == {here: models})
            status = (await call(rig.listen, "POST", "/worker_get_status")).object  # a controller sends no body
            assert status == {"model_names": models, "speed": 1, "queue_length": 0}
            page = (await call(rig.gateway.admin, "GET", "/status", connection="close")).object
            (row,) = page["registrations"] if isinstance(page["registrations"], list) else []
            assert isinstance(row, dict)
            assert (row["controller"], row["reachable"], row["registered"]) == (controller.url, True, models)
        assert controller.models == {here: []}


async def test_without_a_controller_all_models_are_served() -> None:
    """Whoever names this gateway as a FastChat worker finds everything."""
    async with demo_worker("m") as worker, running(worker.address) as rig:
        assert (await asked(rig, "/worker_get_status"))["model_names"] == ["m"]


async def test_a_controller_that_names_the_gateway_itself() -> None:
    """What it registered there is found by its own search, and left alone."""
    finder = FakeFinder()
    async with serving(finder), demo_worker("m") as worker:
        finder.known["m"] = [worker.address]
        fastchat = {"controllers": [finder.url], "probe_seconds": 600.0, "list_seconds": 0.05}
        async with running(given={"fastchat": fastchat}) as rig:
            for host in ("127.0.0.1", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]"):
                finder.known[f"of {host}"] = [f"http://{host}:{rig.listen.port}"]
            lists = finder.count("/list_models")
            await eventually(lambda: finder.count("/list_models") >= lists + 3)
            await eventually(lambda: finder.count("/get_worker_address") >= 5)
            assert [view.address for view in rig.gateway.fleet.workers()] == [worker.address]


async def test_the_workers_of_a_cluster_that_it_has_joined() -> None:
    """Its own rows are not its workers, and what the cluster has by itself is not registered with it again."""
    registry, worker, server = FakeRegistry(), DbgptWorker(vicuna=2048), FakeOpenAI("qwen")
    async with serving(registry, worker, server):
        row = worker.row("vicuna@llm")
        registry.rows["vicuna@llm", "127.0.0.1", worker.port] = row
        dbgpt = {"controllers": [registry.url], "workers_from": [registry.url]}
        given = {"dbgpt": dbgpt, "backends": [declared(server)], "fastchat": {"list_seconds": 0.05}}
        async with running(given=given) as rig:
            await eventually(lambda: ("qwen@llm", "127.0.0.1", rig.listen.port) in registry.rows)
            await eventually(lambda: ("vicuna", "llm") in rig.gateway.fleet.answerable())
            lists = registry.count("/api/controller/models")
            await eventually(lambda: registry.count("/api/controller/models") >= lists + 3)
            own = {key for key, _, port in registry.rows if port == rig.listen.port}
            assert own == {"qwen@llm", "WorkerManager@service"}
            assert {view.address for view in rig.gateway.fleet.workers()} == {worker.url, server.url}
        assert [*registry.rows] == [("vicuna@llm", "127.0.0.1", worker.port)]


async def test_a_gateway_is_a_fastchat_worker_for_another_one() -> None:
    """With models of other backends too: the next one writes prompts in the template that it is given."""
    server = FakeOpenAI("qwen")
    async with serving(server), running(given={"backends": [declared(server)]}) as near:
        watches = {f"watch {server.url}"}
        await eventually(lambda: watches <= {task.get_name() for task in asyncio.all_tasks()})
        async with running(f"http://{near.listen}", others_serve=True) as far:
            body: JsonObject = {"model": "qwen", "messages": [{"role": "human", "content": "Hello"}]}
            frames = await far.stream(body)
            assert (frames[-1]["text"], frames[-1]["finish_reason"]) == ("You said: Hello", "stop")
            assert server.asked[-1]["messages"] == [{"role": "user", "content": "Hello"}]
            assert {row.kind for row in far.gateway.fleet.models()} == {"llm"}
