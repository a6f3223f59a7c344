"""A gateway between clusters: workers of other backends for FastChat's clients, and never itself for one of them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import ClassVar

import orjson
import pytest
from aiohttp import web

from proxy.backends.fastchat.conversation import prepare_conversation, render_prompt
from proxy.types import Json, JsonObject
from tests.backends.fakes import DbgptWorker, FakeController, FakeFinder, FakeRegistry, FakeServer, eventually
from tests.gateway.client import call, frames_of
from tests.gateway.rig import Rig, demo_worker, running

SECRET = "sk-of-nobody"


class FakeOpenAI(FakeServer):
    """A server of OpenAI's API that says what it was told; `asked` has the bodies of its calls."""

    usage: ClassVar[JsonObject] = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}

    def __init__(self, *models: str) -> None:
        super().__init__()
        self.models = models
        self.asked: list[JsonObject] = []

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        assert request.headers.get("Authorization") == f"Bearer {SECRET}"
        if not request.path.endswith("/completions"):
            return await super()._handle(request)
        body = await request.json()
        self.asked.append(body)
        said = "<".join(message["content"] for message in body["messages"]) if "messages" in body else body["prompt"]
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece, finish in (("You said: ", None), (said, None), ("", "stop")):
            part = {"delta": {"content": piece}} if "messages" in body else {"text": piece}
            event: Json = {"choices": [{"index": 0, **part, "finish_reason": finish}]}
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
        await response.write(b"data: " + orjson.dumps({"choices": [], "usage": self.usage}) + b"\n\ndata: [DONE]\n\n")
        return response

    def answer(self, method: str, path: str, body: JsonObject) -> Json:
        if path == "/v1/models":
            return {"object": "list", "data": [{"id": model, "max_model_len": 4096} for model in self.models]}
        if path == "/v1/embeddings":
            texts = body["input"]
            assert isinstance(texts, list)
            data: Json = [{"index": index, "embedding": [float(index), 0.5]} for index in range(len(texts))]
            return {"data": data, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
        raise web.HTTPNotFound


@contextlib.asynccontextmanager
async def serving(*servers: FakeServer) -> AsyncIterator[None]:
    for server in servers:
        await server.start()
    try:
        yield
    finally:
        for server in servers:
            await server.stop()


def declared(server: FakeOpenAI, **more: Json) -> JsonObject:
    return {"kind": "openai", "url": server.url, "key": SECRET, "probe_seconds": 600.0, **more}


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
