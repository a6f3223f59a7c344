"""DB-GPT's command line and its Python clients, against the gateway as a worker."""

from __future__ import annotations

import itertools
import re

import pytest

from proxy.types import Json
from tests.interop.clients import ClientError, DbgptClients, run_dbgpt
from tests.interop.clusters import CERTAIN, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.wire import at, int_at, list_at, post_frames, post_object, text_at

TOKENS = 40
LONG = 600
HELLO: list[Json] = [{"role": "human", "content": "Hello, gateway"}]
DIALOGUE: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "human", "content": "What is a fox?"},
    {"role": "ai", "content": "An animal."},
    {"role": "human", "content": "Quick? 快吗？"},
]


def test_model_list_shows_healthy_models(cluster: Cluster) -> None:
    """``dbgpt model list`` shows each model as both kinds, and the manager, at the gateway's address and healthy."""
    output = run_dbgpt(cluster.pythons, cluster.folder, cluster.dbgpt_controller, ["model", "list"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in output.splitlines() if line.startswith("|")]
    found = {f"{row[0]}@{row[1]}": row[2:5] for row in rows[1:]}
    assert found == {name: ["127.0.0.1", str(cluster.plan.port), "True"] for name in cluster.names()}


def test_model_chat_answers(cluster: Cluster, own: Own) -> None:
    """``dbgpt model chat`` prints the model's answers, the second one with the first in its history."""
    command = ["model", "chat", "--model_name", CERTAIN]
    typed = "Hello\nAnd now?\n/exit\n"
    output = run_dbgpt(cluster.pythons, cluster.folder, cluster.dbgpt_controller, command, typed)
    first, second = re.findall(r"Bot: (.*?)\n\nYou: ", output, re.DOTALL)
    history: list[Json] = [{"role": "human", "content": "Hello"}]
    whole = own.answer(CERTAIN, history, max_new_tokens=LONG).text
    assert len(first) > TOKENS
    assert printed_as(whole, first)
    # What the command keeps as its history is the text it got, not what it printed of it.
    complete = len(first.rstrip("\ufffd"))
    history.append({"role": "ai", "content": whole[:complete] + first[complete:]})
    history.append({"role": "human", "content": "And now?"})
    assert len(second) > TOKENS
    assert printed_as(own.answer(CERTAIN, history, max_new_tokens=LONG).text, second)


def printed_as(text: str, printed: str) -> bool:
    """Whether ``printed`` begins ``text``; the command never goes back to a character it printed half-finished."""
    return all("\ufffd" in pair or pair[0] == pair[1] for pair in zip(printed, text, strict=False))


def test_models_with_their_metadata(cluster: Cluster, clients: DbgptClients) -> None:
    """The Python client sees each model with their context length and the roles it may use."""
    models = clients.call("models")
    assert [at(model, "model") for model in list_at(models)] == sorted(cluster.workers)
    for model in list_at(models):
        assert at(model, "context_length") == 2048
        assert "system" in list_at(model, "ext_metadata", "prompt_roles")


@pytest.mark.parametrize("text", ["The quick brown fox", "数据库 🙂", ""])
def test_count_token_equals_the_workers_count(cluster: Cluster, clients: DbgptClients, text: str) -> None:
    """Tokens are counted by the model's own tokenizer."""
    direct = post_object(f"{cluster.workers[PLAIN].url}/count_token", {"model": PLAIN, "prompt": text})
    assert clients.call("count_token", model=PLAIN, prompt=text) == int_at(direct, "count")


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_generate_equals_the_workers_own_answer(clients: DbgptClients, own: Own, model: str) -> None:
    """The client's answer to a dialogue is the worker's own, at a temperature of nought."""
    answer = own.answer(model, DIALOGUE, max_new_tokens=TOKENS)
    got = clients.call("generate", model=model, messages=DIALOGUE, temperature=0.0, max_new_tokens=TOKENS)
    assert at(got, "error_code") == 0
    assert text_at(got, "text") == answer.text
    assert at(got, "finish_reason") == answer.finish_reason
    assert int_at(got, "usage", "total_tokens") >= TOKENS


def test_generate_stream_grows_to_the_workers_own_answer(clients: DbgptClients, own: Own) -> None:
    """Each output holds the text so far, the last one all of it, and only that one a finish reason."""
    answer = own.answer(PLAIN, DIALOGUE, max_new_tokens=TOKENS)
    arguments: dict[str, Json] = {"messages": DIALOGUE, "temperature": 0.0, "max_new_tokens": TOKENS}
    outputs = list_at(clients.call("generate_stream", model=PLAIN, **arguments))
    texts = [text_at(output, "text") for output in outputs]
    assert len(texts) > TOKENS / 4
    assert texts[-1] == answer.text
    for before, after in itertools.pairwise(texts):
        assert after.startswith(before.rstrip("\ufffd"))
    assert [at(output, "finish_reason") for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert at(outputs[-1], "finish_reason") == answer.finish_reason


def test_the_template_of_each_worker_is_its_own(own: Own) -> None:
    """The two workers of this run truly ask for different prompts, so equal answers above mean the right template."""
    assert own.answer(PLAIN, HELLO, max_new_tokens=1).prompt.endswith("USER: Hello, gateway ASSISTANT:")
    assert "<|im_start|>user\nHello, gateway" in own.answer(CERTAIN, HELLO, max_new_tokens=1).prompt


@pytest.mark.parametrize("call", ["embed", "embed_blocking"])
def test_remote_embeddings_equal_the_workers_own(cluster: Cluster, clients: DbgptClients, call: str) -> None:
    """Both flavours of DB-GPT's remote embeddings give the worker's vectors, in order, for a list of eleven."""
    texts: list[Json] = [f"{'fox ' * number}end" for number in range(11)]
    url = f"{cluster.workers[CERTAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": CERTAIN, "input": texts}), "embedding")
    got = list_at(clients.call(call, model=CERTAIN, texts=texts))
    assert len(got) == len(direct)
    for mine, expected in zip(got, direct, strict=True):
        assert mine == pytest.approx(expected, abs=1e-4)


def test_a_prompt_too_long_is_an_error_of_the_client(clients: DbgptClients) -> None:
    """The client gets the code and the numbers, not an exception and not an empty answer."""
    messages: list[Json] = [{"role": "human", "content": "fox " * 3000}]
    whole = clients.call("generate", model=PLAIN, messages=messages)
    assert at(whole, "error_code") == 40303
    assert "2048" in text_at(whole, "text")
    assert at(list_at(clients.call("generate_stream", model=PLAIN, messages=messages))[-1], "error_code") == 40303


def test_supported_models(cluster: Cluster, clients: DbgptClients) -> None:
    """The cluster's list of deployable models parses in the client and names the gateway's address."""
    listed = list_at(clients.call("supported_models"))
    assert [(at(each, "host"), at(each, "port")) for each in listed] == [("127.0.0.1", cluster.plan.port)]
    assert isinstance(at(listed[0], "models"), list)


def test_starting_and_stopping_models_is_refused(cluster: Cluster, clients: DbgptClients) -> None:
    """Apply, startup and shutdown change nothing and say so to DB-GPT's user; the model answers afterwards."""
    applied = clients.call("apply", model=PLAIN, kind="stop")
    assert at(applied, "success") is False
    assert text_at(applied, "message")
    for call in ("startup", "shutdown"):
        with pytest.raises(ClientError, match="Not done: the models of this address"):
            clients.call(call, model=PLAIN, host="127.0.0.1", port=cluster.plan.port)
    got = clients.call("generate", model=PLAIN, messages=HELLO, max_new_tokens=4)
    assert at(got, "error_code") == 0


def test_frames_are_what_every_version_accepts(cluster: Cluster) -> None:
    """A frame has ``text`` and never ``content``, and no key that DB-GPT 0.5.10 would stumble over."""
    body: Json = {"model": PLAIN, "messages": HELLO, "max_new_tokens": 4}
    allowed = {"text", "error_code", "incremental", "model_context", "finish_reason", "usage", "metrics"}
    for frame in post_frames(f"{cluster.plan.url}/generate_stream", body):
        assert {"text", "error_code"} <= frame.keys() <= allowed
