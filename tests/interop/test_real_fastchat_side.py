"""DB-GPT's own workers for FastChat's programs: found through DB-GPT's controller, offered to FastChat's.

DB-GPT's worker asks an OpenAI-compatible server, the API of the cluster's gateway, which asks a FastChat worker; so
every answer can be compared with that worker's own.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from proxy.types import Json, JsonObject
from tests.interop import fastchat_programs, programs
from tests.interop.clusters import CONTROLLER, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.programs import GatewayPlan, Program, answers, program_environment, wait_until
from tests.interop.streams import metric
from tests.interop.wire import at, get_json, list_at, post_events, post_json, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [CONTROLLER], indirect=True, scope="session")

TOKENS = 40
# DB-GPT's proxies drop a temperature of 0; FastChat decodes greedily below 1e-5.
GREEDY: JsonObject = {"temperature": 1e-6, "max_tokens": TOKENS}
SAID: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "user", "content": "Größe? 🙂"}]
AS_DBGPT: list[Json] = [{"role": "system", "content": "Be brief. 简短"}, {"role": "human", "content": "Größe? 🙂"}]
SETTLE_SECONDS = 30.0


class Side:
    """Another gateway, whose only worker is DB-GPT's, between the controllers of both products; all may be ended."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self.pythons, self.folder, self.stack = cluster.pythons, cluster.folder / "side", stack
        self.server = f"http://127.0.0.1:{cluster.plan.port}/api/v1"
        ports = programs.free_ports(7)
        self.worker_port, self.embedder_port = ports[0], ports[1]
        self.dbgpt, self.fastchat = (f"http://127.0.0.1:{port}" for port in ports[2:4])
        self.openai = f"http://127.0.0.1:{ports[6]}/v1"
        flags = ("--fastchat-register-with", self.fastchat, "--dbgpt-workers-from", self.dbgpt)
        self.plan = GatewayPlan(ports[4], ports[5], self.dbgpt, flags, empty=True)
        self.keep(programs.dbgpt_controller(self.pythons, self.folder, ports[2]))
        self.keep(fastchat_programs.fastchat_controller(self.pythons, self.folder, ports[3]))
        self.worker = self.start_worker()
        embedder = programs.dbgpt_embedder(
            self.pythons, self.folder, self.embedder_port, self.dbgpt, PLAIN, self.server
        )
        self.keep(embedder)
        self.keep(fastchat_programs.openai_server(self.pythons, self.folder, ports[6], self.fastchat))
        embedder.wait_ready(partial(answers, partial(get_json, f"http://127.0.0.1:{self.embedder_port}/openapi.json")))
        self.gateway = self.keep(programs.gateway(self.folder, self.plan))
        wait_until("both workers are used", lambda: metric(self.plan, "gateway_worker_up") == 2, SETTLE_SECONDS)
        self.wait_listed([PLAIN])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.plan.port}"

    def keep(self, program: Program) -> Program:
        self.stack.callback(program.kill)
        return program

    def start_worker(self) -> Program:
        worker = programs.dbgpt_worker(self.pythons, self.folder, self.worker_port, self.dbgpt, PLAIN, self.server)
        self.keep(worker)
        worker.wait_ready(partial(answers, partial(get_json, f"http://127.0.0.1:{self.worker_port}/openapi.json")))
        return worker

    def listed(self) -> list[Json]:
        return list_at(post_object(f"{self.fastchat}/list_models", {}), "models")

    def wait_listed(self, models: list[Json]) -> None:
        wait_until(f"FastChat's controller lists {models}", lambda: self.listed() == models, SETTLE_SECONDS)


@pytest.fixture(scope="module")
def side(cluster: Cluster) -> Iterator[Side]:
    """DB-GPT's workers, both controllers, FastChat's OpenAI server, and the gateway."""
    with ExitStack() as stack:
        yield Side(cluster, stack)


def joined(events: list[JsonObject]) -> str:
    """The new texts of a stream's events, put together."""
    deltas = [at(event, "choices", 0, "delta") for event in events]
    return "".join(str(delta.get("content") or "") for delta in deltas if isinstance(delta, dict))


def test_the_gateway_is_the_worker_that_fastchats_controller_hands_out(side: Side) -> None:
    """Also after its refresh, which asks every worker for its status anew."""
    for _ in range(2):
        assert post_json(f"{side.fastchat}/get_worker_address", {"model": PLAIN}) == {"address": side.url}
        post_json(f"{side.fastchat}/refresh_all_workers", {})
        assert side.listed() == [PLAIN]
    assert {text_at(each, "id") for each in list_at(get_json(f"{side.openai}/models"), "data")} == {PLAIN}


def test_fastchats_openai_server_chats_with_a_dbgpt_worker(side: Side, own: Own) -> None:
    """In one piece and streamed: the prompt that it writes is the dialogue again before DB-GPT's worker."""
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS)
    body: JsonObject = {"model": PLAIN, "messages": SAID, **GREEDY}
    whole = post_json(f"{side.openai}/chat/completions", body)
    assert text_at(whole, "choices", 0, "message", "content") == answer.text
    # DB-GPT's proxies do not pass on why an answer ended.
    assert at(whole, "choices", 0, "finish_reason") == "stop"
    events = post_events(f"{side.openai}/chat/completions", {**body, "stream": True})
    assert joined(events) == answer.text.replace("\ufffd", "")
    assert len(events) > 3


def test_fastchats_openai_server_gets_vectors_of_a_dbgpt_worker(cluster: Cluster, side: Side) -> None:
    """One that gives nothing but vectors, and tells nothing of itself."""
    texts: list[Json] = [f"{'fox ' * number}end" for number in range(5)]
    url = f"{cluster.workers[PLAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": PLAIN, "input": texts}), "embedding")
    data = list_at(post_json(f"{side.openai}/embeddings", {"model": PLAIN, "input": texts}), "data")
    for got, expected in zip(data, direct, strict=True):
        assert list_at(got, "embedding") == pytest.approx(expected, abs=1e-4)


def test_fastchats_test_message(side: Side, own: Own) -> None:
    """Its client writes the prompt in a template of its own; that is what DB-GPT's worker gets as a message."""
    prompt = own.answer(PLAIN, [{"role": "human", "content": "Hello there"}], max_new_tokens=1).prompt
    answer = own.answer(PLAIN, [{"role": "human", "content": prompt}], max_new_tokens=TOKENS)
    command = [str(side.pythons.fastchat), "-m", "fastchat.serve.test_message", "--controller-address", side.fastchat]
    command += ["--model-name", PLAIN, "--message", "Hello there", "--temperature", "0.000001"]
    command += ["--max-new-tokens", str(TOKENS)]
    done = subprocess.run(
        command, env=program_environment(side.folder), capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"worker_addr: {side.url}\n" in done.stdout
    assert done.stdout.split("\nASSISTANT: ", 1)[1] == answer.text.strip() + "\n"


def test_the_gateway_is_none_of_its_own_workers(side: Side) -> None:
    """It stands in both controllers' lists, with a model that the cluster has by itself in none of DB-GPT's."""
    rows = programs.registered(side.dbgpt)
    assert {port for name, port in rows if name == f"{PLAIN}@llm"} == {side.worker_port}
    assert ("WorkerManager@service", side.plan.port) in rows
    workers = list_at(get_json(f"{side.plan.admin}/workers"))
    urls = {f"http://127.0.0.1:{port}" for port in (side.worker_port, side.embedder_port)}
    assert {text_at(worker, "address") for worker in workers} == urls
    assert {text_at(worker, "backend") for worker in workers} == {"dbgpt-worker"}


def test_a_worker_that_goes_and_comes(side: Side) -> None:
    """FastChat's controller has what can be answered: vectors are left, and the chats are back when the worker is."""
    side.worker.kill()
    wait_until("one worker is left", lambda: metric(side.plan, "gateway_worker_up") == 1, SETTLE_SECONDS)
    assert side.listed() == [PLAIN]
    side.worker = side.start_worker()
    wait_until("both workers are used", lambda: metric(side.plan, "gateway_worker_up") == 2, SETTLE_SECONDS)
    body: JsonObject = {"model": PLAIN, "messages": SAID, **GREEDY}
    # DB-GPT's worker answers questions about its model before that is loaded.
    chats = partial(answers, partial(post_json, f"{side.openai}/chat/completions", body))
    wait_until("it chats again", chats, SETTLE_SECONDS)


def test_a_gateway_that_goes_and_comes(side: Side) -> None:
    """FastChat's controller sends nobody to it any more, and does again once it is back."""
    side.gateway.stop()
    side.wait_listed([])
    side.gateway = side.keep(programs.gateway(side.folder, side.plan))
    side.wait_listed([PLAIN])
