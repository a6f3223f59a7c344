"""FastChat's own OpenAI server with the gateway as its controller, beside DB-GPT's clients on the same fleet."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.types import Json, JsonObject
from tests.interop import programs
from tests.interop.clusters import CERTAIN, DIRECT, KINDS, PLAIN, Cluster
from tests.interop.fastchat_programs import openai_server
from tests.interop.own import Own
from tests.interop.programs import registered, wait_until
from tests.interop.streams import Stream, metric, most
from tests.interop.wire import HttpError, at, get_json, list_at, post_events, post_json, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")

TOKENS = 40
LONG = 600
SLOTS = 5
SETTLE_SECONDS = 20.0
SAID: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "user", "content": "Größe? 🙂"}]
AS_DBGPT: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "human", "content": "Größe? 🙂"}]
GREEDY: JsonObject = {"temperature": 0.0, "max_tokens": TOKENS}


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> Iterator[str]:
    """The address of FastChat's OpenAI server."""
    (port,) = programs.free_ports(1)
    program = openai_server(cluster.pythons, cluster.folder, port, cluster.fastchat_controller)
    yield f"http://127.0.0.1:{port}/v1"
    program.kill()


@pytest.fixture(scope="module", params=["worker", "gateway"])
def handed(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """Which address FastChat's clients get for a model. The running gateway takes the setting up."""
    hand_out(cluster, request.param)
    yield request.param
    hand_out(cluster, "worker")


def hand_out(cluster: Cluster, what: str) -> None:
    cluster.use_settings(f"fastchat: {{accept: {{hand_out: {what}}}}}\n")
    cluster.gateway.reload()
    wanted = cluster.workers[PLAIN].url if what == "worker" else cluster.fastchat_controller
    ask = f"{cluster.fastchat_controller}/get_worker_address"
    wait_until(f"{ask} gives {wanted}", lambda: post_json(ask, {"model": PLAIN}) == {"address": wanted}, SETTLE_SECONDS)


def visible(text: str) -> str:
    """The text as FastChat's server streams it: it drops replacement characters."""
    return text.replace("\ufffd", "")


def deltas(events: list[JsonObject], *path: str) -> str:
    """The text of a stream's events, put together."""
    found = [at(event, "choices", 0) for event in events]
    for step in path:
        found = [each.get(step) if isinstance(each, dict) else None for each in found]
    return "".join(str(each) for each in found if each)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_chat_is_the_workers_own(server: str, handed: str, own: Own, model: str) -> None:
    """FastChat's server chats as with its own controller, in one piece and streamed."""
    answer = own.answer(model, AS_DBGPT, max_new_tokens=TOKENS)
    body: JsonObject = {"model": model, "messages": SAID, **GREEDY}
    whole = post_json(f"{server}/chat/completions", body)
    assert text_at(whole, "choices", 0, "message", "content") == answer.text
    assert at(whole, "choices", 0, "finish_reason") == answer.finish_reason
    assert at(whole, "usage") == answer.usage
    events = post_events(f"{server}/chat/completions", {**body, "stream": True})
    assert deltas(events, "delta", "content") == visible(answer.text)
    assert len(events) > TOKENS / 4, "the text came in a few large pieces"
    assert at(events[-1], "choices", 0, "finish_reason") == answer.finish_reason


def test_completion_is_the_workers_own(server: str, handed: str, own: Own) -> None:
    """A completion's prompt is taken as it is, in one piece and streamed."""
    answer = own.answer(PLAIN, "SELECT name, 数据 FROM", max_new_tokens=TOKENS)
    body: JsonObject = {"model": PLAIN, "prompt": "SELECT name, 数据 FROM", **GREEDY}
    whole = post_json(f"{server}/completions", body)
    assert text_at(whole, "choices", 0, "text") == answer.text
    events = post_events(f"{server}/completions", {**body, "stream": True})
    assert deltas(events, "text") == visible(answer.text)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_embeddings_are_the_workers_own(cluster: Cluster, server: str, handed: str, model: str) -> None:
    """Eleven texts come back as the vectors the worker gives, in their order."""
    texts: list[Json] = [f"{'fox ' * number}end" for number in range(11)]
    url = f"{cluster.workers[model].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": model, "input": texts}), "embedding")
    data = list_at(post_json(f"{server}/embeddings", {"model": model, "input": texts}), "data")
    assert len(data) == len(direct)
    for got, expected in zip(data, direct, strict=True):
        assert list_at(got, "embedding") == pytest.approx(expected, abs=1e-4)


def test_an_unknown_model_is_refused(cluster: Cluster, server: str, handed: str) -> None:
    """FastChat's server names the models there are."""
    with pytest.raises(HttpError) as caught:
        post_json(f"{server}/chat/completions", {"model": "absent", "messages": SAID})
    assert caught.value.status == 400
    assert all(model in text_at(caught.value.body, "message") for model in cluster.workers)


def test_listing_the_models_empties_nothing(cluster: Cluster, server: str, handed: str, own: Own) -> None:
    """Each ``/v1/models`` has all of them, whoever else asks, and a stream of DB-GPT's goes on undisturbed."""
    answer = own.answer(CERTAIN, AS_DBGPT, max_new_tokens=LONG)
    body: JsonObject = {"model": CERTAIN, "messages": AS_DBGPT, "temperature": 0.0, "max_new_tokens": LONG}
    stream = Stream(f"{cluster.plan.url}/generate_stream", body)
    stream.wait_begun()

    def ask(_: int) -> None:
        listed = {text_at(each, "id") for each in list_at(get_json(f"{server}/models"), "data")}
        assert listed == set(cluster.workers)
        assert {name for name, _ in registered(cluster.dbgpt_controller)} == cluster.names()

    for number in range(10):
        ask(number)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(12)))
    assert stream.is_alive(), "the stream was over before the lists were asked for"
    assert stream.text() == answer.text


def test_both_kinds_of_clients_at_once(cluster: Cluster, server: str, handed: str, own: Own) -> None:
    """Users of FastChat's server and of DB-GPT's get the workers' own answers at the same time."""
    own_texts = {model: own.answer(model, AS_DBGPT, max_new_tokens=TOKENS).text for model in (PLAIN, CERTAIN)}
    before = metric(cluster.plan, "gateway_requests_total", outcome="ok")

    def ask(number: int) -> tuple[str, str]:
        model = (PLAIN, CERTAIN)[number // 2 % 2]
        body: JsonObject = {"model": model, "messages": SAID, "max_tokens": TOKENS, "temperature": 1e-6}
        got = post_json(f"{(server, cluster.api)[number % 2]}/chat/completions", body)
        return model, text_at(got, "choices", 0, "message", "content")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    assert answers == [(model, own_texts[model]) for model, _ in answers]
    counted = metric(cluster.plan, "gateway_requests_total", outcome="ok") - before
    # With the workers' addresses FastChat's server takes its answers from them; with the gateway's, from it.
    assert counted >= (8 if handed == "worker" else 16)


@pytest.mark.parametrize("handed", ["gateway"], indirect=True, scope="module")
def test_the_limit_holds_for_fastchats_clients_too(cluster: Cluster, server: str, handed: str, own: Own) -> None:
    """With the gateway's own address handed out, the worker never gets more requests at once than it has slots."""
    answer = own.answer(CERTAIN, AS_DBGPT, max_new_tokens=120)
    body: JsonObject = {"model": CERTAIN, "messages": SAID, "temperature": 0.0, "max_tokens": 120, "stream": True}
    plan = cluster.workers[CERTAIN]
    with ThreadPoolExecutor(SLOTS + 4) as pool:
        asked = [pool.submit(post_events, f"{server}/chat/completions", body) for _ in range(SLOTS + 4)]
        seen = []
        while not all(each.done() for each in asked):
            seen.append(cluster.busy(plan))
        assert all(deltas(each.result(), "delta", "content") == visible(answer.text) for each in asked)
    assert most(seen) == SLOTS


def test_the_same_models_are_offered_to_dbgpt(cluster: Cluster, handed: str) -> None:
    """What FastChat's clients see is what DB-GPT has."""
    listed = list_at(post_object(f"{cluster.fastchat_controller}/list_models", {}), "models")
    assert {f"{model}@{kind}" for model in listed for kind in KINDS} < cluster.names()
    assert set(map(str, listed)) == set(cluster.workers)
