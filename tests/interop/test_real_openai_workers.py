"""Servers of OpenAI's API as workers: FastChat's own one and DB-GPT's, behind a gateway that knows nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.types import Json, JsonObject
from tests.interop import programs
from tests.interop.clusters import CERTAIN, DIRECT, PLAIN, Cluster
from tests.interop.fastchat_programs import openai_server
from tests.interop.own import Own
from tests.interop.programs import GatewayPlan, wait_until
from tests.interop.streams import metric
from tests.interop.wire import HttpError, Reply, int_at, list_at, post_frames, post_json, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")

TOKENS = 40
GREEDY = 1e-6
"""DB-GPT's API server drops a temperature of 0."""
SAID: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "human", "content": "Größe? 🙂"}]


@pytest.fixture(scope="module", params=["fastchat", "dbgpt"])
def server(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[str]:
    """The base address of a server of OpenAI's API in front of the cluster's workers."""
    if request.param == "dbgpt":
        yield cluster.api.removesuffix("/v1")
        return
    (port,) = programs.free_ports(1)
    program = openai_server(cluster.pythons, cluster.folder, port, cluster.fastchat_controller)
    yield f"http://127.0.0.1:{port}"
    program.kill()


@pytest.fixture(scope="module")
def front(cluster: Cluster, server: str) -> Iterator[GatewayPlan]:
    """A gateway whose one worker is that server. Nobody is at the controller that it is told of."""
    port, admin, nobody = programs.free_ports(3)
    models = ", ".join(f"{model}: {{context_length: 2048, kinds: [llm, text2vec]}}" for model in (PLAIN, CERTAIN))
    settings = f"backends: [{{kind: openai, url: '{server}', models: {{{models}}}}}]\n"
    plan = GatewayPlan(port, admin, f"http://127.0.0.1:{nobody}", (), settings)
    program = programs.gateway(cluster.folder, plan)
    try:
        yield plan
        wait_until("nothing is under way", lambda: metric(plan, "gateway_in_flight") == 0, 10)
    finally:
        program.kill()


def visible(text: str) -> str:
    """The text as FastChat's server streams it: it drops replacement characters."""
    return text.replace("\ufffd", "")


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_a_chat_is_the_model_s_own(front: GatewayPlan, own: Own, model: str) -> None:
    """The server renders the prompt; text and finish come back, in one piece and streamed."""
    answer = own.answer(model, SAID, max_new_tokens=TOKENS)
    body: JsonObject = {"model": model, "messages": SAID, "temperature": GREEDY, "max_new_tokens": TOKENS}
    whole = post_object(f"{front.url}/generate", body)
    assert (visible(text_at(whole, "text")), whole["finish_reason"]) == (visible(answer.text), answer.finish_reason)
    frames = post_frames(f"{front.url}/generate_stream", body)
    assert visible(text_at(frames[-1], "text")) == visible(answer.text)
    assert len(frames) > TOKENS / 4, "the text came in a few large pieces"


def test_a_prompt_is_gone_on_from_as_it_is(front: GatewayPlan, own: Own) -> None:
    answer = own.answer(PLAIN, "SELECT name, 数据 FROM", max_new_tokens=TOKENS)
    body: JsonObject = {"model": PLAIN, "prompt": "SELECT name, 数据 FROM", "temperature": GREEDY}
    whole = post_object(f"{front.url}/generate", {**body, "max_new_tokens": TOKENS})
    assert visible(text_at(whole, "text")) == visible(answer.text)


def test_vectors_are_the_model_s_own(cluster: Cluster, front: GatewayPlan) -> None:
    texts: list[Json] = [f"{'fox ' * number}end" for number in range(5)]
    url = f"{cluster.workers[PLAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": PLAIN, "input": texts}), "embedding")
    found = post_json(f"{front.url}/embeddings", {"model": PLAIN, "input": texts})
    assert isinstance(found, list)
    for got, expected in zip(found, direct, strict=True):
        assert got == pytest.approx(expected, abs=1e-4)


def test_what_does_not_fit_is_told_as_that(front: GatewayPlan) -> None:
    """The server's own words, with the code of a full context, whichever code the server has for it."""
    body: JsonObject = {"model": PLAIN, "messages": [{"role": "human", "content": "数据库" * 2000}]}
    (frame,) = post_frames(f"{front.url}/generate_stream", {**body, "max_new_tokens": 16})
    assert int_at(frame, "error_code") == 40303
    assert "context" in text_at(frame, "text")


def test_an_unknown_model_is_the_gateway_s_own_matter(front: GatewayPlan) -> None:
    with pytest.raises(HttpError) as caught:
        post_json(f"{front.url}/count_token", {"model": "nobody", "prompt": "x"})
    assert caught.value.status == 404


def test_a_client_that_leaves_frees_the_worker_behind_the_server(cluster: Cluster, front: GatewayPlan) -> None:
    body: JsonObject = {"model": CERTAIN, "messages": SAID, "temperature": GREEDY, "max_new_tokens": 1500}
    reply = Reply("POST", f"{front.url}/generate_stream", body)
    assert next(reply.pieces(b"\0"))
    assert cluster.queue_length(CERTAIN) == 1
    reply.close()
    cluster.wait_idle()
