"""The shipped backends on the wire: what an Ollama server and Text Generation Inference send, byte for byte as their
interfaces describe it, through the gateway to the clients of every dialect.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from proxy.types import Json, JsonObject
from tests.gateway.client import call
from tests.gateway.dialects import DIALECTS, Ask
from tests.gateway.rig import Rig, running
from tests.gateway.scripted import json_response
from tests.hostile import Peer, Visit, chunked, peer, response

TGI_MODEL = "mistralai/Mistral-7B-Instruct-v0.3"
# Of two workers with nothing to do either may be asked first.
TRIES = 24
TGI_INFO: Json = {
    "model_id": TGI_MODEL, "model_pipeline_tag": "text-generation", "max_concurrent_requests": 128, "max_best_of": 2,
    "max_stop_sequences": 4, "max_input_tokens": 4095, "max_total_tokens": 4096, "validation_workers": 2,
    "max_client_batch_size": 4, "router": "text-generation-router", "version": "3.3.5",
}  # fmt: skip
OLLAMA_TAGS: Json = {"models": [{"name": "llama3.2:latest", "model": "llama3.2:latest", "size": 2019393189}]}
OLLAMA_SHOW: Json = {
    "modelfile": "FROM llama3.2", "parameters": 'stop                           "<|eot_id|>"',
    "details": {"family": "llama"}, "capabilities": ["completion", "tools"],
    "model_info": {"general.architecture": "llama", "llama.context_length": 8192},
}  # fmt: skip


class Server:
    """Answers by path; `told` has the last body that came to each."""

    def __init__(self, answers: dict[str, bytes]) -> None:
        self.answers = answers
        self.told: dict[str, JsonObject] = {}
        self.keys: list[str | None] = []

    async def __call__(self, visit: Visit) -> None:
        while True:
            request = await visit.request()
            self.keys.append(request.headers.get("authorization"))
            if request.body:
                self.told[request.path] = json.loads(request.body)
            await visit.send(self.answers.get(request.path, response(b"404 page not found", "404 Not Found")))


@contextlib.asynccontextmanager
async def serving(kind: str, answers: dict[str, bytes], **more: Json) -> AsyncIterator[tuple[Rig, Server]]:
    """A gateway in front of a server of that kind."""
    server = Server(answers)
    there: Peer
    async with peer(server) as there:
        backends = [{"kind": kind, "url": there.url, "probe_seconds": 600.0, **more}]
        async with running(given={"backends": backends}) as rig:
            yield rig, server


def lines(*objects: Json) -> bytes:
    return chunked([json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in objects])


def events(*objects: Json, done: bool = False) -> bytes:
    """As TGI writes them: no space after the colon, and a comment to keep the connection."""
    pieces = [b"data:" + json.dumps(each, ensure_ascii=False).encode() + b"\n\n" for each in objects]
    return chunked([*pieces[:1], b":\n\n", *pieces[1:], *([b"data:[DONE]\n\n"] if done else [])])


def token(text: str, **more: Json) -> JsonObject:
    return {
        "index": 1,
        "token": {"id": 7, "text": text, "logprob": -0.5, "special": False},
        "generated_text": None,
        "details": None,
        **more,
    }


def tgi(**paths: bytes) -> dict[str, bytes]:
    return {"/info": json_response(TGI_INFO), **{path.replace("__", "/"): answer for path, answer in paths.items()}}


def line(content: str, *, done: bool = False, **more: Json) -> JsonObject:
    message: Json = {"role": "assistant", "content": content}
    return {"model": "llama3.2", "created_at": "2025-10-26T17:15:24.097767Z", "message": message, "done": done, **more}


def chat(content: str, finish: str | None = None) -> JsonObject:
    delta: Json = {"role": "assistant", "content": content}
    choice: Json = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "id": "", "created": 1, "model": TGI_MODEL, "choices": [choice]}


@pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS.keys())
async def test_a_dialogue_of_tgi(ask: Ask) -> None:
    """Its usage comes after its finish, and both are told; the key of the settings goes along."""
    usage: JsonObject = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}}
    stream = events(chat("Hi "), chat("🙂"), chat("", "stop"), usage, done=True)
    async with serving("tgi", tgi(__v1__chat__completions=stream), key="secret-key") as (rig, server):
        said = await ask(rig.listen, TGI_MODEL)
    assert (said.text, said.finish, said.usage, said.error) == ("Hi 🙂", "stop", (9, 3), None)
    assert server.told["/v1/chat/completions"]["stream"] is True
    assert set(server.keys) == {"Bearer secret-key"}


async def test_a_prompt_of_tgi() -> None:
    """Tokens make the text without the special ones; what ended it is cut off again, as no other server shows it."""
    end = token(" END", generated_text="Hi 🙂 END", details={
        "finish_reason": "stop_sequence", "generated_tokens": 4, "input_length": 2, "seed": None,
    })  # fmt: skip
    async with serving("tgi", tgi(__generate_stream=events(token("Hi "), token("🙂"), token(" E"), end))) as (
        rig,
        server,
    ):
        server.answers["/generate_stream"] = events(token("Hi "), token("🙂"), token(" E"), {**end, "token": {
            "id": 8, "text": "ND", "logprob": -1.0, "special": False,
        }})  # fmt: skip
        body: JsonObject = {
            "model": TGI_MODEL,
            "prompt": "Say",
            "chat_model": False,
            "stop": [" END"],
            "temperature": 0,
        }
        frames = await rig.stream(body)
    assert [frame["text"] for frame in frames][-1] == "Hi 🙂"
    assert frames[-1]["finish_reason"] == "stop"
    assert all(" E" not in str(frame["text"]) for frame in frames)
    parameters = server.told["/generate_stream"]["parameters"]
    assert isinstance(parameters, dict)
    assert (parameters["do_sample"], parameters["stop"]) == (False, [" END"])
    assert "temperature" not in parameters


async def test_what_tgi_refuses() -> None:
    """An error as an event with HTTP 200, and one as a status: both with TGI's words, and each once."""
    refused: JsonObject = {
        "error": "Input validation error: `stop` supports up to 4 stop sequences. Given: 5",
        "error_type": "validation",
    }
    full = json_response({"error": "Model is overloaded", "error_type": "overloaded"}, "429 Too Many Requests")
    body: JsonObject = {"model": TGI_MODEL, "prompt": "Say", "chat_model": False}
    async with serving("tgi", tgi(__generate_stream=events(refused))) as (rig, server):
        (frame,) = await rig.stream(body)
        assert "supports up to 4 stop sequences" in str(frame["text"])
        server.answers["/generate_stream"] = full
        (frame,) = await rig.stream(body)
        assert "Model is overloaded" in str(frame["text"])
        assert frame["error_code"] == 42903


async def test_tgi_counts_tokens() -> None:
    """As its tokenizer makes them."""
    tokens: Json = [{"id": number, "text": "a", "start": number, "stop": number + 1} for number in range(3)]
    async with serving("tgi", tgi(__tokenize=json_response(tokens))) as (rig, server):
        reply = await call(rig.listen, "POST", "/api/worker/count_token", {"model": TGI_MODEL, "prompt": "a a a"})
    assert reply.json == 3
    assert server.told["/tokenize"] == {"inputs": "a a a"}


@pytest.mark.parametrize("ask", DIALECTS.values(), ids=DIALECTS.keys())
async def test_a_dialogue_of_an_ollama_server(ask: Ask) -> None:
    """Its model is known without the tag, and with the context that it tells."""
    answers = {
        "/api/tags": json_response(OLLAMA_TAGS),
        "/api/show": json_response(OLLAMA_SHOW),
        "/api/chat": lines(
            line("Hi "),
            line("🙂"),
            line("", done=True, done_reason="length", total_duration=174560334, prompt_eval_count=11, eval_count=18),
        ),
    }
    async with serving("ollama", answers) as (rig, server):
        said = await ask(rig.listen, "llama3.2")
        assert (said.text, said.finish, said.usage, said.error) == ("Hi 🙂", "length", (11, 18), None)
        rig.client.model = "llama3.2"
        assert (await rig.client.model_metadata())["context_length"] == 8192
    assert server.told["/api/show"] == {"model": "llama3.2"}
    options = server.told["/api/chat"]["options"]
    assert isinstance(options, dict)
    assert options["num_predict"] == 500


async def test_what_an_ollama_server_refuses() -> None:
    """A model that it has not any more, and a full queue, in its own words."""
    gone = json_response({"error": "model 'llama3.2' not found"}, "404 Not Found")
    full = json_response(
        {"error": "server busy, please try again. maximum pending requests exceeded"}, "503 Service Unavailable"
    )
    answers = {"/api/tags": json_response(OLLAMA_TAGS), "/api/show": json_response(OLLAMA_SHOW), "/api/chat": gone}
    async with serving("ollama", answers) as (rig, server):
        said = await DIALECTS["ollama"](rig.listen, "llama3.2")
        assert said.status == 503
        assert said.error is not None
        assert "not found" in said.error
        server.answers["/api/chat"] = full
        said = await DIALECTS["ollama"](rig.listen, "llama3.2")
        assert said.status == 503
        assert said.error is not None
        assert "maximum pending requests" in said.error


@pytest.mark.parametrize(
    "refusal",
    [
        json_response({"error": "server busy, please try again"}, "503 Service Unavailable"),
        json_response({"error": "model 'llama3.2' not found"}, "404 Not Found"),
    ],
    ids=["busy", "gone"],
)
async def test_another_server_answers_for_one_that_cannot(refusal: bytes) -> None:
    """Whatever a refusal is called in the rules: while the client has seen nothing, the next server is asked."""
    known = {"/api/tags": json_response(OLLAMA_TAGS), "/api/show": json_response(OLLAMA_SHOW)}
    full = Server({**known, "/api/chat": refusal})
    free = Server({**known, "/api/chat": lines(line("Hi"), line("", done=True, done_reason="stop"))})
    async with peer(full) as one, peer(free) as other:
        backends = [{"kind": "ollama", "url": there.url, "probe_seconds": 600.0} for there in (one, other)]
        async with running(given={"backends": backends}) as rig:
            answers = [await DIALECTS["ollama"](rig.listen, "llama3.2") for _ in range(TRIES)]
    assert [(said.text, said.error) for said in answers] == [("Hi", None)] * TRIES
    assert "/api/chat" in full.told, "it was never asked"


async def test_another_tgi_answers_for_one_that_is_full() -> None:
    """It says so in an event of a stream with HTTP 200; what it says of the request itself is told at once."""
    body: JsonObject = {"model": TGI_MODEL, "prompt": "Say", "raw": True, "stream": False}
    full = Server(tgi(__generate_stream=events({"error": "Model is overloaded", "error_type": "overloaded"})))
    end = token("Hi", details={"finish_reason": "eos_token", "generated_tokens": 1, "input_length": 2})
    free = Server(tgi(__generate_stream=events(end)))
    async with peer(full) as one, peer(free) as other:
        backends = [{"kind": "tgi", "url": there.url, "probe_seconds": 600.0} for there in (one, other)]
        async with running(given={"backends": backends}) as rig:
            answers = [(await call(rig.listen, "POST", "/api/generate", body)).object for _ in range(TRIES)]
            full.answers["/generate_stream"] = free.answers["/generate_stream"] = events(
                {"error": "Input validation error: `inputs` cannot be empty", "error_type": "validation"}
            )
            refused = await call(rig.listen, "POST", "/api/generate", body)
    assert [answer["response"] for answer in answers] == ["Hi"] * TRIES
    assert "/generate_stream" in full.told, "it was never asked"
    assert (refused.status, "cannot be empty" in str(refused.object["error"])) == (400, True)
