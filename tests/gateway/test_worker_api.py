"""Every call of the worker API, as the client of a DB-GPT cluster makes and reads it."""

from __future__ import annotations

import itertools

import pytest

from proxy.demo.language import embedding, tokens
from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject
from tests.gateway.remote_worker import FailedError, RemoteWorker
from tests.gateway.rig import HELLO, MODEL, Rig, asked

# The body that DB-GPT 0.8.2's API server sends for a chat, and the one for a completion.
CHAT: JsonObject = {
    "messages": [{"role": "human", "content": "Hello", "round_index": 0}],
    "temperature": 0.7, "top_p": 1.0, "echo": False, "span_id": "empty_span",
    "context": {"user_name": None, "sys_code": None, "stream": True, "extra": {}},
}  # fmt: skip
COMPLETION: JsonObject = {
    "prompt": "Once upon", "chat_model": False, "temperature": 0.8, "max_new_tokens": 16, "stop": None, "top_p": 1.0,
    "top_k": -1, "echo": False, "presence_penalty": 0.0, "frequency_penalty": 0.0, "user": None, "span_id": "a:b",
}  # fmt: skip


async def test_a_chat_streams_as_growing_text_that_ends_with_all_of_it(rig: Rig, worker: DemoWorker) -> None:
    """Each frame has the text so far; only the last says why it ended, with new text, usage and nothing missing."""
    frames = await rig.client.generate_stream(CHAT)
    texts = [str(frame["text"]) for frame in frames]
    assert len(texts) > 5
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert [frame["finish_reason"] for frame in frames if frame.get("finish_reason")] == ["stop"]
    assert frames[-1]["finish_reason"] == "stop"
    assert len(texts[-1]) > len(texts[-2])
    assert texts[-1].endswith("Now I count: 1 2 3 4 5 6 7 8 9 10")
    usage = frames[-1]["usage"]
    assert isinstance(usage, dict)
    assert usage["completion_tokens"] == len(tokens(texts[-1]))
    path, sent = asked(worker)[-1]
    assert path == "/worker_generate_stream"
    assert "context" not in sent
    assert None not in sent.values()


async def test_an_answer_in_one_piece_is_the_stream_s_last_frame(rig: Rig) -> None:
    """`generate` gives the same text, finish and usage as the stream of the same request."""
    whole, frames = await rig.client.generate(CHAT), await rig.client.generate_stream(CHAT)
    assert {name: whole[name] for name in ("text", "finish_reason", "usage")} == {
        name: frames[-1][name] for name in ("text", "finish_reason", "usage")
    }


async def test_a_completion_gets_its_prompt_through_as_it_is(rig: Rig, worker: DemoWorker) -> None:
    """The API server's completion body, nulls included: no template, its token limit, nothing null for the worker."""
    frames = await rig.client.generate_stream(COMPLETION)
    sent = asked(worker)[-1][1]
    assert (sent["prompt"], sent["max_new_tokens"]) == ("Once upon", 16)
    assert frames[-1]["finish_reason"] == "length"
    assert {"user", "stop", "chat_model"}.isdisjoint(sent)


async def test_vectors_come_in_the_order_of_the_texts(rig: Rig) -> None:
    """A bare list with one vector for each text."""
    texts = [f"text {number}" for number in range(19)]
    assert await rig.client.embeddings(texts) == [pytest.approx(embedding(text)) for text in texts]


async def test_a_count_needs_no_model(rig: Rig) -> None:
    """The client names no model; the answer is a bare integer from the worker's own tokenizer."""
    assert await rig.client.count_token("hello world 你好") == len(tokens("hello world 你好"))


async def test_metadata_has_what_every_version_takes(rig: Rig) -> None:
    """The registered name, the context length, and roles with `system` among them."""
    assert await rig.client.model_metadata() == {
        "model": MODEL,
        "context_length": 4096,
        "chat_model": True,
        "metadata": {},
        "ext_metadata": {"prompt_roles": ["system", "human", "ai"], "prompt_sep": "\n"},
    }


async def test_supports_lists_each_model_under_the_registered_address(rig: Rig) -> None:
    """One manager with all keys that the oldest client wants, each model in each of its kinds."""
    reply = await rig.client.call("GET", "/models/supports")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert isinstance(reply.json, list)
    manager = reply.json[0]
    assert isinstance(manager, dict)
    assert (manager["host"], manager["port"]) == rig.gateway.advertised
    models = manager["models"]
    assert isinstance(models, list)
    kinds = [(model["model"], model["worker_type"], model["enabled"]) for model in models if isinstance(model, dict)]
    assert kinds == [(MODEL, "llm", True), (MODEL, "text2vec", True)]
    wanted = {"model", "path", "worker_type", "path_exist", "proxy", "enabled", "params"}
    assert all(isinstance(model, dict) and wanted <= model.keys() for model in models)


async def test_there_are_no_parameters_to_describe(rig: Rig) -> None:
    """A list, empty, for any model."""
    reply = await rig.client.call("GET", f"/parameter/descriptions?model={MODEL}&worker_type=llm")
    assert (reply.status, reply.json) == (200, [])


async def test_an_apply_says_that_it_did_nothing(rig: Rig, worker: DemoWorker) -> None:
    """HTTP 200 with exactly the three keys of the client's own type, not a success."""
    before = asked(worker)
    body: JsonObject = {"model": MODEL, "apply_type": "stop", "worker_type": "llm", "params": {}, "apply_user": None}
    reply = await rig.client.call("POST", "/apply", body)
    assert reply.status == 200
    assert reply.object.keys() == {"message", "success", "timecost"}
    assert (reply.object["success"], reply.object["timecost"]) == (False, 0.0)
    assert asked(worker) == before


@pytest.mark.parametrize("name", ["startup", "shutdown"])
async def test_starting_and_stopping_models_is_refused(rig: Rig, worker: DemoWorker, name: str) -> None:
    """Not a 200, which the client would take for a success; the body it quotes says who is to be asked."""
    before = asked(worker)
    body: JsonObject = {"model": MODEL, "worker_type": "llm", "host": "127.0.0.1", "port": 1, "params": {}}
    reply = await rig.client.call("POST", f"/models/{name}", body)
    assert reply.status == 501
    assert "Not done" in str(reply.object["detail"])
    assert asked(worker) == before


async def test_an_error_reaches_each_call_s_reader(rig: Rig) -> None:
    """A frame in a stream, an output for one answer, a body to quote elsewhere: each with the cause."""
    stranger = RemoteWorker(rig.listen, "nobody")
    cause = "model: no worker serves 'nobody'; known models: m"
    assert [(frame["error_code"], frame["text"]) for frame in await stranger.generate_stream(CHAT)] == [(40301, cause)]
    whole = await stranger.generate(CHAT)
    assert (whole["error_code"], whole["text"]) == (40301, cause)
    with pytest.raises(FailedError, match=cause):
        await stranger.embeddings(["a"])
    with pytest.raises(FailedError, match="no worker serves 'nobody'"):
        await stranger.model_metadata()


@pytest.mark.parametrize("role", ["human", "user"])
async def test_a_stream_s_parts_of_text_are_one_message(rig: Rig, worker: DemoWorker, role: str) -> None:
    """Content given in text parts reaches the prompt like a plain string."""
    part: Json = [
        {"type": "text", "object": {"data": "Hel", "format": "text"}},
        {"type": "text", "object": {"data": "lo"}},
    ]
    await rig.client.generate({"messages": [{"role": role, "content": part}]})
    by_parts = asked(worker)[-1][1]["prompt"]
    await rig.client.generate({"messages": HELLO["messages"]})
    assert asked(worker)[-1][1]["prompt"] == by_parts
