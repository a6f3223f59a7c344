"""One model name, two frameworks: a FastChat worker, and FastChat's OpenAI server in front of the same worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from proxy.types import JsonObject
from tests.interop import programs
from tests.interop.clusters import DIRECT, PLAIN, Cluster
from tests.interop.fastchat_programs import openai_server
from tests.interop.own import Own
from tests.interop.programs import GatewayPlan, wait_until
from tests.interop.streams import SAID, asked, metric
from tests.interop.wire import post_frames, post_object, text_at

pytestmark = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")

TOKENS = 12
HALVES = "split: [{weight: 1, backend: fastchat}, {weight: 1, backend: openai}]"
MIRRORED = "split: [{weight: 1, backend: fastchat}, {weight: 0, backend: openai}], mirror: {backend: openai}"
CALLS = "gateway_backend_requests_total"

Settle = Callable[[str], GatewayPlan]


@pytest.fixture(scope="module")
def front(cluster: Cluster) -> Iterator[Settle]:
    """Puts settings for the model in force, on one gateway whose two workers end at one FastChat worker."""
    server, port, admin, nobody = programs.free_ports(4)
    api = openai_server(cluster.pythons, cluster.folder, server, cluster.fastchat_controller)
    worker = cluster.workers[PLAIN].url
    models = f"{{{PLAIN}: {{context_length: 2048}}}}"
    fleet = (
        f"fastchat: {{workers: ['{worker}']}}\n"
        f"backends: [{{kind: openai, url: 'http://127.0.0.1:{server}', models: {models}}}]\n"
        "watch_files: false\n"
    )
    plan = GatewayPlan(port, admin, f"http://127.0.0.1:{nobody}", (), f"{fleet}models: {{{PLAIN}: {{{HALVES}}}}}\n")
    program = programs.gateway(cluster.folder, plan)

    def settle(model: str) -> GatewayPlan:
        now = replace(plan, settings=f"{fleet}models: {{{PLAIN}: {{{model}}}}}\n")
        programs.write_settings(cluster.folder, now)
        assert post_object(f"{plan.admin}/reload", {})["result"] == "ok"
        return now

    try:
        wait_until("both workers are up", lambda: metric(plan, "gateway_worker_up") == 2, 30)
        yield settle
        wait_until("nothing is under way", lambda: metric(plan, "gateway_backend_in_flight") == 0, 10)
        cluster.wait_idle()
    finally:
        program.kill()
        api.kill()


def calls(plan: GatewayPlan, backend: str, role: str = "main") -> float:
    """How many calls of the workers of a backend went well."""
    return metric(plan, CALLS, backend=backend, model=PLAIN, role=role, outcome="ok")


def whole(plan: GatewayPlan) -> str:
    """The text of one answer, which is the model's own whoever is asked for it."""
    body: JsonObject = {**asked(PLAIN, TOKENS), "temperature": 1e-6}
    return text_at(post_object(f"{plan.url}/generate", body), "text")


def test_one_name_is_split_between_two_frameworks(front: Settle, own: Own) -> None:
    """Both answer their share with the model's own words, and the metrics tell them apart."""
    plan = front(HALVES)
    answer = own.answer(PLAIN, SAID, max_new_tokens=TOKENS).text.replace("\ufffd", "")
    before = calls(plan, "fastchat"), calls(plan, "openai")
    for _ in range(24):
        assert whole(plan).replace("\ufffd", "") == answer
    there = calls(plan, "fastchat") - before[0], calls(plan, "openai") - before[1]
    assert sum(there) == 24
    assert min(there) >= 4
    for backend in ("fastchat", "openai"):
        assert metric(plan, "gateway_backend_first_frame_seconds_count", backend=backend, role="main") > 0


def test_one_framework_is_measured_while_the_other_answers(front: Settle, cluster: Cluster, own: Own) -> None:
    """The mirror's calls are counted beside those for clients, with times of their own; clients see one worker."""
    plan = front(MIRRORED)
    answer = own.answer(PLAIN, SAID, max_new_tokens=TOKENS).text
    main, mirror = calls(plan, "fastchat"), calls(plan, "openai", "mirror")
    others = calls(plan, "openai")
    for _ in range(6):
        frames = post_frames(f"{plan.url}/generate_stream", {**asked(PLAIN, TOKENS), "temperature": 1e-6})
        assert text_at(frames[-1], "text") == answer
    assert calls(plan, "fastchat") == main + 6
    wait_until("the copies are answered", lambda: calls(plan, "openai", "mirror") == mirror + 6, 30)
    assert calls(plan, "openai") == others
    assert metric(plan, "gateway_backend_first_frame_seconds_count", backend="openai", role="mirror") == 6
    assert metric(plan, "gateway_backend_in_flight") == 0
    cluster.wait_idle()


def test_a_framework_that_dies_is_answered_for_by_the_other(front: Settle) -> None:
    """The whole weight on a side without a worker loses nothing, and is counted."""
    plan = front("split: [{weight: 1, backend: tgi}, {weight: 0, backend: fastchat}]")
    before = calls(plan, "fastchat")
    assert whole(plan)
    assert calls(plan, "fastchat") == before + 1
    assert metric(plan, "gateway_split_fallbacks_total", model=PLAIN) == 1
