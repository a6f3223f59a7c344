"""Two real workers whose tokenizer is as Llama's: it takes the space before the first word that it decodes away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.types import Json, JsonObject
from tests.interop import clusters, programs
from tests.interop.clusters import DIRECT, Cluster
from tests.interop.fastchat_programs import ModelPlan, WorkerPlan
from tests.interop.own import Own
from tests.interop.programs import Pythons
from tests.interop.streams import Stream, metric
from tests.interop.wire import at, int_at, post_frames, text_at

MODEL = "tiny-pieced"
LONG = 600
AT_A_TIME = 4
SAID: list[Json] = [
    {"role": "human", "content": "Hello"},
    {"role": "ai", "content": "Hello to you."},
    {"role": "human", "content": "Tell me everything"},
]


@pytest.fixture(scope="module")
def pair(pythons: Pythons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers that are registered with the gateway, which may resume their streams."""
    ports = programs.free_ports(6)
    plans = [WorkerPlan(port, (ModelPlan((MODEL,), "vicuna_v1.1", "pieced"),)) for port in ports[:2]]
    settings = f"models: {{{MODEL}: {{resume: true}}}}\n"
    cluster = clusters.start(DIRECT, pythons, tmp_path_factory.mktemp("pair"), plans, ports[2:], settings)
    yield cluster
    cluster.stack.close()


def killed(cluster: Cluster, streams: list[Stream]) -> None:
    """End the worker on which the most of them are, once each of them is well under way."""
    for number, stream in enumerate(streams):
        stream.wait_begun(20 + number)
    cluster.kill_worker(max(cluster.plans, key=cluster.busy))
    assert all(len(stream.frames) < LONG / 4 for stream in streams), "the streams were nearly over"


def test_the_space_is_lost_where_it_is_not_asked_for(pair: Cluster) -> None:
    """What the gateway has to make up for: a worker's text has no space before its first word, but one with echo."""
    url = f"{pair.plans[0].url}/worker_generate_stream"
    body: JsonObject = {"model": MODEL, "prompt": "Say: The gateway", "temperature": 0.0, "max_new_tokens": 1}
    assert text_at(post_frames(url, {**body, "echo": False})[-1], "text") == "stands"
    assert text_at(post_frames(url, {**body, "echo": True})[-1], "text") == "Say: The gateway stands"


def test_a_resumed_stream_has_the_text_of_an_unbroken_one(pair: Cluster) -> None:
    """To the letter, for streams that were lost at different places, with the tokens of all parts."""
    pair.restore()
    answer = Own(pair).answer(MODEL, SAID, max_new_tokens=LONG)
    assert answer.text.count("The gateway stands") > 5
    assert "🙂 don't" in answer.text
    before = metric(pair.plan, "gateway_resumed_streams_total", model=MODEL, result="ok")
    body: JsonObject = {"model": MODEL, "messages": SAID, "temperature": 0.0, "max_new_tokens": LONG}
    streams = [Stream(f"{pair.plan.url}/generate_stream", body) for _ in range(AT_A_TIME)]
    killed(pair, streams)
    assert {stream.text() for stream in streams} == {answer.text}
    resumed = metric(pair.plan, "gateway_resumed_streams_total", model=MODEL, result="ok") - before
    assert 1 <= resumed < AT_A_TIME
    for stream in streams:
        last = stream.last()
        assert last["finish_reason"] == "length"
        assert at(last, "usage", "prompt_tokens") == at(answer.usage, "prompt_tokens")
        # A character of several tokens at the seam is made anew, which may have been one more or less.
        completion = int_at(answer.usage, "completion_tokens")
        assert int_at(last, "usage", "completion_tokens") in range(completion - 1, completion + 2)


@pytest.mark.parametrize("echo", [False, True])
def test_the_workers_own_clients_get_it_too(pair: Cluster, echo: bool) -> None:
    """In the workers' dialect each frame has all of the text, and the prompt where it was asked for."""
    pair.restore()
    body: JsonObject = {
        "model": MODEL, "prompt": "Tell me:", "temperature": 0.0, "max_new_tokens": LONG, "echo": echo,
    }  # fmt: skip
    whole = post_frames(f"{pair.plans[0].url}/worker_generate_stream", body)[-1]
    stream = Stream(f"http://127.0.0.1:{pair.plan.port}/worker_generate_stream", body)
    killed(pair, [stream])
    assert stream.text() == text_at(whole, "text")
    assert stream.last().keys() == whole.keys()
    assert stream.last()["finish_reason"] == whole["finish_reason"]
