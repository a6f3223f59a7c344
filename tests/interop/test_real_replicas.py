"""Two real workers with the same model: they share the load, and one of them may die at any moment."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.clusters import DIRECT, PAIR, RESUMED, Cluster
from tests.interop.fastchat_programs import WorkerPlan
from tests.interop.own import Own
from tests.interop.programs import wait_until
from tests.interop.streams import SAID, Stream, asked, metric
from tests.interop.wire import int_at, post_object, text_at

pytestmark = [
    pytest.mark.parametrize("fleet", [DIRECT], indirect=True, scope="session"),
    pytest.mark.usefixtures("whole"),
]

LONG = 800
MIDDLE = 300
SHORT = 40
SLOTS = 5


def pair(fleet: Cluster) -> list[WorkerPlan]:
    return [plan for plan in fleet.plans if PAIR in plan.names]


def test_the_load_is_shared(fleet: Cluster) -> None:
    """Of eight requests each worker gets four."""
    fleet.wait_idle()
    streams = [Stream(f"{fleet.plan.url}/generate_stream", asked(PAIR, 300)) for _ in range(8)]
    wait_until("each works on four", lambda: [fleet.busy(plan) for plan in pair(fleet)] == [4, 4], 10, interval=0.02)
    assert len({stream.text() for stream in streams}) == 1


def test_a_killed_worker_costs_only_the_streams_it_had_begun(fleet: Cluster) -> None:
    """Whoever has seen nothing yet gets the other worker's answer; the others are told that the stream is cut."""
    own = Own(fleet)
    long, short = (own.answer(PAIR, SAID, max_new_tokens=tokens).text for tokens in (MIDDLE, SHORT))
    first = pair(fleet)[0]
    with ThreadPoolExecutor(5) as pool:
        streams = [Stream(f"{fleet.plan.url}/generate_stream", asked(PAIR, MIDDLE)) for _ in range(8)]
        whole = [pool.submit(post_object, f"{fleet.plan.url}/generate", asked(PAIR, SHORT)) for _ in range(16)]
        wait_until("a few are answered", lambda: sum(each.done() for each in whole) >= 4, 30, interval=0.02)
        fleet.kill_worker(first)
        killed = time.monotonic()
        answers = [each.result() for each in whole]
    assert [(each["error_code"], each["text"]) for each in answers] == [(0, short)] * len(answers)
    ends = [stream.last() for stream in streams]
    cut = [stream for stream, end in zip(streams, ends, strict=True) if end["error_code"] != 0]
    assert 1 <= len(cut) <= SLOTS, [end["error_code"] for end in ends]
    assert all(stream.begun is not None and stream.begun < killed for stream in cut)
    named = first.url.removeprefix("http://")
    assert all(named in text_at(stream.frames[-1], "text") for stream in cut), cut[0].frames[-1]
    assert {text_at(end, "text") for end in ends if end["error_code"] == 0} == {long}
    fleet.wait_names(seconds=4)


def test_a_stream_goes_on_with_the_other_worker(fleet: Cluster) -> None:
    """Where the model may resume, the client of a worker that was killed gets the text that it would have got."""
    answer = Own(fleet).answer(RESUMED, SAID, max_new_tokens=LONG)
    before = metric(fleet.plan, "gateway_resumed_streams_total", model=RESUMED)
    stream = Stream(f"{fleet.plan.url}/generate_stream", asked(RESUMED, LONG))
    stream.wait_begun(40)
    (at_work,) = [plan for plan in pair(fleet) if fleet.busy(plan) == 1]
    fleet.kill_worker(at_work)
    assert len(stream.frames) < LONG / 4, "the stream was nearly over"
    text = stream.text()
    assert text.startswith(text_at(stream.frames[39], "text"))
    for earlier, later in itertools.pairwise(text_at(frame, "text") for frame in stream.frames):
        assert later.startswith(earlier)
    assert text == answer.text
    assert stream.last()["finish_reason"] == "length"
    prompt, completion = int_at(answer.usage, "prompt_tokens"), int_at(answer.usage, "completion_tokens")
    assert int_at(stream.last(), "usage", "prompt_tokens") == prompt
    # Each worker counts its own from nought.
    assert int_at(stream.last(), "usage", "completion_tokens") in range(completion - 1, completion + 2)
    assert metric(fleet.plan, "gateway_resumed_streams_total", model=RESUMED) == before + 1
