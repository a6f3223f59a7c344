"""DB-GPT's own workers behind the gateway: their models for every client, alone or under one name with FastChat's.

Each asks an OpenAI-compatible server, as DB-GPT's proxies do: the API of the cluster's gateway, which asks a FastChat
worker. So every answer can be compared with that worker's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import pytest

from proxy.types import Json, JsonObject
from tests.interop import programs
from tests.interop.clients import PipedClients
from tests.interop.clusters import CERTAIN, CONTROLLER, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.programs import GatewayPlan, Program, answers, wait_until
from tests.interop.streams import metric
from tests.interop.wire import at, get_json, list_at, post_events, post_frames, post_json, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [CONTROLLER], indirect=True, scope="session")

TOKENS = 40
# DB-GPT's proxies drop a temperature of 0; FastChat decodes greedily below 1e-5.
GREEDY: JsonObject = {"temperature": 1e-6, "max_tokens": TOKENS}
SAID: list[Json] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is a gateway?"},
    {"role": "assistant", "content": "It stands between two networks 🚪"},
    {"role": "user", "content": "它说哪些语言？ Größe: 🙂"},
]
ROLES = {"system": "system", "user": "human", "assistant": "ai"}
AS_DBGPT: list[Json] = [{"role": ROLES[text_at(each, "role")], "content": at(each, "content")} for each in SAID]
AS_WORKER: JsonObject = {"temperature": 1e-6, "max_new_tokens": TOKENS}
TEXTS: list[Json] = [f"text number {number}: {'数据库 ' * number}" for number in range(11)]


class Relay:
    """Another gateway. PLAIN is a model of DB-GPT's workers alone; CERTAIN is FastChat's too."""

    def __init__(self, plan: GatewayPlan, controller: str) -> None:
        self.plan, self.controller = plan, controller

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.plan.port}/api/v1"


@pytest.fixture(scope="module")
def relay(cluster: Cluster) -> Iterator[Relay]:
    """DB-GPT's workers, of which two are found through DB-GPT's controller and one is named in the settings."""
    pythons, folder = cluster.pythons, cluster.folder / "relay"
    ports = programs.free_ports(6)
    server = f"http://127.0.0.1:{cluster.plan.port}/api/v1"
    controller = f"http://127.0.0.1:{ports[0]}"
    urls = [f"http://127.0.0.1:{port}" for port in ports[1:4]]
    settings = (
        "balance: {policy: random}\n"
        f"dbgpt: {{workers_from: ['{controller}']}}\n"
        f"backends: [{{kind: dbgpt-worker, url: '{urls[2]}', models: {{{PLAIN}: {{kinds: [text2vec]}}}}}}]\n"
    )
    flags = ("--fastchat-worker", cluster.workers[CERTAIN].url)
    plan = GatewayPlan(ports[4], ports[5], controller, flags, settings)
    with ExitStack() as stack:

        def keep(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        keep(programs.dbgpt_controller(pythons, folder, ports[0]))
        workers = [
            keep(programs.dbgpt_worker(pythons, folder, ports[1], controller, PLAIN, server)),
            keep(programs.dbgpt_worker(pythons, folder, ports[2], controller, CERTAIN, server)),
            keep(programs.dbgpt_embedder(pythons, folder, ports[3], controller, PLAIN, server)),
        ]
        for url, worker in zip(urls, workers, strict=True):
            worker.wait_ready(partial(answers, partial(get_json, f"{url}/openapi.json")))
        keep(programs.gateway(folder, plan))
        found = Relay(plan, controller)
        wait_until("all workers are used", lambda: metric(plan, "gateway_worker_up") == 4, 30)
        yield found


def joined(events: Iterable[Json]) -> str:
    """The new texts of a stream's events, put together."""
    deltas = [at(event, "choices", 0, "delta") for event in events]
    return "".join(str(delta.get("content") or "") for delta in deltas if isinstance(delta, dict))


def test_an_openai_client_gets_the_model_of_a_dbgpt_worker(relay: Relay, own: Own) -> None:
    """Streamed and in one piece, through DB-GPT's worker and back."""
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS)
    body: JsonObject = {"model": PLAIN, "messages": SAID, **GREEDY}
    whole = post_json(f"{relay.api}/chat/completions", body)
    assert text_at(whole, "choices", 0, "message", "content") == answer.text
    events = post_events(f"{relay.api}/chat/completions", {**body, "stream": True})
    assert joined(events) == answer.text
    assert len(events) > 3
    # DB-GPT's proxies do not pass on why an answer ended.
    assert at(events[-1], "choices", 0, "finish_reason") == "stop"


def test_a_dbgpt_client_gets_it_too(cluster: Cluster, relay: Relay, own: Own) -> None:
    """DB-GPT's own Python client, by way of the gateway's worker API, and the application's."""
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS)
    frames = post_frames(f"{relay.plan.url}/generate_stream", {"model": PLAIN, "messages": AS_DBGPT, **AS_WORKER})
    assert (frames[-1]["text"], frames[-1]["finish_reason"]) == (answer.text, "stop")
    clients = PipedClients(cluster.pythons.dbgpt, "dbgpt_clients.py", cluster.folder, relay.controller)
    try:
        app = f"http://127.0.0.1:{relay.plan.port}/api/v2"
        chunks = list_at(clients.call("app_chat_stream", base=app, model=PLAIN, messages=SAID, **AS_WORKER))
    finally:
        clients.close()
    assert joined(chunks) == answer.text


def test_a_fastchat_client_gets_it_too(relay: Relay, own: Own) -> None:
    """What it writes in the template that it is given is a dialogue again before DB-GPT's worker."""
    gateway = f"http://127.0.0.1:{relay.plan.port}"
    conversation = at(post_json(f"{gateway}/worker_get_conv_template", {"model": PLAIN}), "conv")
    system, (user, assistant) = text_at(conversation, "system_template"), list_at(conversation, "roles")
    sep = text_at(conversation, "sep")
    prompt = sep.join([system.format(system_message="Be brief."), f"{user}\nHello", f"{assistant}\n"])
    body: JsonObject = {"model": PLAIN, "prompt": prompt, "echo": False, "temperature": 1e-6, "max_new_tokens": TOKENS}
    frames = post_frames(f"{gateway}/worker_generate_stream", body)
    said: list[Json] = [{"role": "system", "content": "Be brief."}, {"role": "human", "content": "Hello"}]
    answer = own.answer(PLAIN, said, max_new_tokens=TOKENS)
    assert (frames[-1]["text"], frames[-1]["finish_reason"]) == (answer.text, "stop")


def test_a_prompt_reaches_a_proxy_as_a_message(relay: Relay, own: Own) -> None:
    """A proxy of DB-GPT looks at nothing else."""
    answer = own.answer(PLAIN, [{"role": "human", "content": "SELECT name"}], max_new_tokens=TOKENS)
    whole = post_json(f"{relay.api}/completions", {"model": PLAIN, "prompt": "SELECT name", **GREEDY})
    assert text_at(whole, "choices", 0, "text") == answer.text


def test_what_its_own_server_refuses_is_told(relay: Relay) -> None:
    """The words of the server behind DB-GPT's worker, under DB-GPT's banner, which is left out."""
    body: JsonObject = {"model": PLAIN, "messages": [{"role": "human", "content": "数 " * 2000}], **AS_WORKER}
    frames = post_frames(f"{relay.plan.url}/generate_stream", body)
    assert frames[-1]["error_code"] == 1
    assert "does not fit into the 2048 tokens" in text_at(frames[-1], "text")
    assert "CheckErrorInfo" not in text_at(frames[-1], "text")


def test_vectors_of_a_dbgpt_worker(cluster: Cluster, relay: Relay) -> None:
    """Named in the settings alone, for both dialects."""
    url = f"{cluster.workers[PLAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": PLAIN, "input": TEXTS}), "embedding")
    data = list_at(post_json(f"{relay.api}/embeddings", {"model": PLAIN, "input": TEXTS}), "data")
    vectors = list_at(post_json(f"{relay.plan.url}/embeddings", {"model": PLAIN, "input": TEXTS}))
    for each, vector, expected in zip(data, vectors, direct, strict=True):
        assert list_at(each, "embedding") == pytest.approx(expected, abs=1e-4)
        assert vector == pytest.approx(expected, abs=1e-4)


def test_one_name_for_workers_of_two_products(cluster: Cluster, relay: Relay, own: Own) -> None:
    """Both get requests, and the answers are the same, because the same worker is behind both."""
    answer = own.answer(CERTAIN, AS_DBGPT, max_new_tokens=TOKENS)
    body: JsonObject = {"model": CERTAIN, "messages": SAID, **GREEDY}
    before = asked_by_dbgpt(cluster)
    with ThreadPoolExecutor(4) as pool:
        wholes = list(pool.map(lambda _: post_json(f"{relay.api}/chat/completions", body), range(24)))
    assert {text_at(whole, "choices", 0, "message", "content") for whole in wholes} == {answer.text}
    assert 0 < asked_by_dbgpt(cluster) - before < 24


def asked_by_dbgpt(cluster: Cluster) -> float:
    """How many chats DB-GPT's workers have asked of the cluster's gateway."""
    return metric(cluster.plan, "gateway_requests_total", route="api_chat_stream", model=CERTAIN)
