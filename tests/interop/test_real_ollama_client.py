"""Ollama's own Python client, with the gateway as its server in front of FastChat's workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.types import Json, JsonObject
from tests.interop.clients import ClientError, PipedClients
from tests.interop.clusters import CERTAIN, DIRECT, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.wire import at, int_at, list_at, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")

TOKENS = 40
SAID: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "user", "content": "Größe? 🙂"}]
AS_DBGPT: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "human", "content": "Größe? 🙂"}]
GREEDY: JsonObject = {"temperature": 0.0, "num_predict": TOKENS}


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[PipedClients]:
    """The client, with the gateway's address as its host."""
    address = f"http://127.0.0.1:{cluster.plan.port}"
    running = PipedClients(cluster.pythons.clients, "ollama_clients.py", cluster.folder, address)
    yield running
    running.close()


def texts(parts: list[Json], *path: str) -> str:
    return "".join(text_at(part, *path) for part in parts)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_a_chat_is_the_workers_own_answer(client: PipedClients, own: Own, model: str) -> None:
    """As one answer, with the reason of its end and the tokens of both sides; the model's tag may be there or not."""
    answer = own.answer(model, AS_DBGPT, max_new_tokens=TOKENS)
    for name in (model, f"{model}:latest"):
        got = client.call("chat", model=name, messages=SAID, options=GREEDY)
        assert text_at(got, "message", "content") == answer.text
        assert (at(got, "model"), at(got, "done"), at(got, "done_reason")) == (name, True, answer.finish_reason)
        assert int_at(got, "prompt_eval_count") > 0
        assert int_at(got, "eval_count") >= TOKENS - 1
        assert text_at(got, "created_at").startswith("20")


def test_a_streamed_chat_makes_the_same_text(client: PipedClients, own: Own) -> None:
    """Parts with what is new, of which only the last one is the end."""
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS)
    parts = list_at(client.call("chat", model=PLAIN, messages=SAID, options=GREEDY, stream=True))
    assert len(parts) > TOKENS / 4
    assert texts(parts, "message", "content") == answer.text
    assert [at(part, "done") for part in parts] == [False] * (len(parts) - 1) + [True]
    assert at(parts[-1], "done_reason") == answer.finish_reason
    assert int_at(parts[-1], "eval_count") >= TOKENS - 1
    assert int_at(parts[-1], "total_duration") > int_at(parts[-1], "eval_duration") > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_raw_prompt_is_answered_as_it_is(client: PipedClients, own: Own, stream: bool) -> None:
    """Without the model's template."""
    answer = own.answer(PLAIN, "The quick brown 狐", max_new_tokens=TOKENS)
    got = client.call("generate", model=PLAIN, prompt="The quick brown 狐", raw=True, options=GREEDY, stream=stream)
    parts = list_at(got) if stream else [got]
    assert texts(parts, "response") == answer.text
    assert at(parts[-1], "done_reason") == answer.finish_reason


def test_a_prompt_goes_into_the_template(client: PipedClients, own: Own) -> None:
    """A prompt and a system message are a dialogue of two."""
    answer = own.answer(CERTAIN, AS_DBGPT, max_new_tokens=TOKENS)
    got = client.call("generate", model=CERTAIN, prompt="Größe? 🙂", system="Be brief. 简短", options=GREEDY)
    assert text_at(got, "response") == answer.text


def test_a_stop_string_ends_the_answer(client: PipedClients, own: Own) -> None:
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS, stop=["e"])
    got = client.call("chat", model=PLAIN, messages=SAID, options={**GREEDY, "stop": ["e"]})
    assert (text_at(got, "message", "content"), at(got, "done_reason")) == (answer.text, answer.finish_reason)


def test_vectors_are_the_workers_own(cluster: Cluster, client: PipedClients) -> None:
    """In the order of the texts, for both of the client's calls."""
    said: list[Json] = [f"{'fox ' * number}end" for number in range(11)]
    url = f"{cluster.workers[CERTAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": CERTAIN, "input": said}), "embedding")
    got = list_at(client.call("embed", model=CERTAIN, input=said), "embeddings")
    assert len(got) == len(direct)
    for mine, expected in zip(got, direct, strict=True):
        assert mine == pytest.approx(expected, abs=1e-4)
    single = client.call("embeddings", model=CERTAIN, prompt=said[3])
    assert at(single, "embedding") == pytest.approx(direct[3], abs=1e-4)


def test_the_models_are_listed_and_shown(cluster: Cluster, client: PipedClients) -> None:
    """With the tag that Ollama gives a name without one, what they can do, and their context."""
    names = {f"{name}:latest" for name in cluster.workers}
    assert {text_at(model, "model") for model in list_at(client.call("list"), "models")} == names
    running = list_at(client.call("ps"), "models")
    assert {text_at(model, "model"): at(model, "context_length") for model in running} == dict.fromkeys(names, 2048)
    shown = client.call("show", model=f"{PLAIN}:latest")
    assert at(shown, "capabilities") == ["completion", "embedding"]
    architecture = text_at(shown, "model_info", "general.architecture")
    assert int_at(shown, "model_info", f"{architecture}.context_length") == 2048


@pytest.mark.parametrize(
    ("call", "arguments", "status", "says"),
    [
        ("chat", {"model": "nobody", "messages": SAID}, 404, "nobody"),
        ("chat", {"model": "nobody", "messages": SAID, "stream": True}, 404, "nobody"),
        ("show", {"model": "nobody"}, 404, "nobody"),
        ("chat", {"model": PLAIN, "messages": SAID, "format": "json"}, 400, "format"),
        ("chat", {"model": PLAIN, "messages": SAID, "options": {"temperature": "hot"}}, 400, "options.temperature"),
        ("generate", {"model": PLAIN, "prompt": "fox " * 3000, "raw": True}, 400, "2048"),
        ("embed", {"model": PLAIN, "input": "a", "dimensions": 2}, 400, "dimensions"),
    ],
)
def test_errors_are_the_clients_own(
    client: PipedClients, call: str, arguments: JsonObject, status: int, says: str
) -> None:
    """The client raises its error with the status and a sentence."""
    with pytest.raises(ClientError, match=r"^ResponseError: ") as caught:
        client.call(call, **arguments)
    assert says in str(caught.value)
    assert f"status code: {status}" in str(caught.value)


def test_loading_a_model_costs_nothing(client: PipedClients) -> None:
    """`ollama run` begins with a request without a prompt."""
    assert at(client.call("generate", model=PLAIN), "done_reason") == "load"
    assert at(client.call("chat", model=PLAIN, keep_alive=0), "done_reason") == "unload"
