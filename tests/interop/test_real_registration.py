"""Workers that register with the gateway itself: its restarts, theirs, and those it does not take."""

from __future__ import annotations

import json
import socket
import time

import pytest

from proxy.types import Json
from tests.interop.clusters import CERTAIN, DIRECT, PAIR, PLAIN, SECOND, STRAY_ADDRESS, TOKEN, Cluster
from tests.interop.own import Own
from tests.interop.programs import registered, wait_until
from tests.interop.streams import SAID, Stream, asked, metric, most
from tests.interop.wire import Reply, decoded, list_at, post_frames, post_object, text_at

LONG = 600
SLOTS = 5
BEAT_RETRY_SECONDS = 5.0
"""A worker whose heartbeat met nobody waits this long before the next one."""

direct = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")
mortal = pytest.mark.parametrize("fleet", [DIRECT], indirect=True, scope="session")


def listed_models(cluster: Cluster) -> set[str]:
    return {str(name) for name in list_at(post_object(f"{cluster.fastchat_controller}/list_models", {}), "models")}


@direct
def test_models_behind_one_address_share_its_slots(cluster: Cluster) -> None:
    """Requests for both models of one worker use all the slots it has, and never wait within the worker."""
    plan = cluster.workers[CERTAIN]
    cluster.wait_idle()
    models = (CERTAIN, SECOND)
    bodies = [asked(models[number % 2], 200) for number in range(SLOTS + 3)]
    streams = [Stream(f"{cluster.plan.url}/generate_stream", body) for body in bodies]
    seen = []
    while any(stream.is_alive() for stream in streams):
        seen.append(cluster.busy(plan))
    assert [stream.last()["finish_reason"] for stream in streams] == ["length"] * len(streams)
    assert most(seen) == SLOTS


@direct
def test_a_stopping_gateway_leaves_first_and_finishes_its_streams(cluster: Cluster, own: Own) -> None:
    """On SIGTERM DB-GPT forgets the gateway while a stream still runs; the stream ends whole, then the program."""
    answer = own.answer(CERTAIN, SAID, max_new_tokens=LONG)
    stream = Stream(f"{cluster.plan.url}/generate_stream", asked(CERTAIN, LONG))
    stream.wait_begun()
    cluster.gateway.ask_to_stop()
    wait_until(
        "DB-GPT has nothing of the gateway",
        lambda: not registered(cluster.dbgpt_controller, healthy_only=False),
        5,
        interval=0.02,
    )
    assert stream.is_alive(), "the stream was over before the registrations were gone"
    assert stream.text() == answer.text
    assert stream.last()["finish_reason"] == "length"
    assert cluster.gateway.wait_end() == 0, cluster.gateway.tail()


@direct
def test_the_workers_come_back_to_a_restarted_gateway(cluster: Cluster, own: Own) -> None:
    """All models are there again with the next heartbeats, and stay: also both of the worker that has two."""
    if cluster.gateway.running:
        cluster.gateway.stop()
    cluster.start_gateway()
    cluster.wait_names(seconds=BEAT_RETRY_SECONDS + 2 + 10)
    log = cluster.running[cluster.workers[CERTAIN].port]
    beats = log.logged().count("Send heart beat")
    wait_until(
        "each of the two models has sent two more heartbeats",
        lambda: log.logged().count("Send heart beat") >= beats + 4,
        20,
    )
    assert listed_models(cluster) == set(cluster.workers)
    cluster.wait_names(seconds=2)
    for model in (PLAIN, CERTAIN, SECOND):
        frames = post_frames(f"{cluster.plan.url}/generate_stream", asked(model, 8))
        assert text_at(frames[-1], "text") == own.answer(model, SAID, max_new_tokens=8).text


@direct
def test_a_worker_with_an_address_that_is_not_allowed_is_refused(cluster: Cluster) -> None:
    """The registration gets an error, the log says which address and why, and nobody is offered its model."""
    stray = cluster.start_stray()
    wait_until("the refused worker has ended", lambda: not stray.running, 60)
    assert "AssertionError" in stray.logged(), stray.tail()
    lines = [line for line in cluster.gateway.logged().splitlines() if "203.0.113.9" in line]
    assert lines, cluster.gateway.tail()
    assert "allow" in lines[0]
    assert "tiny-stray" not in listed_models(cluster)
    assert not metric(cluster.plan, "gateway_worker_up", worker=STRAY_ADDRESS)
    assert metric(cluster.plan, "gateway_rejected_registrations_total", reason="not_allowed") == 1
    with Reply("GET", f"{cluster.plan.admin}/workers") as reply:
        assert "203.0.113.9" not in reply.text()


@direct
def test_nothing_is_called_at_an_address_that_is_refused(cluster: Cluster) -> None:
    """A refused registration is answered with one sentence, and there is no connection to where it points."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        port = listener.getsockname()[1]
        body: Json = {"worker_name": f"http://user:word@127.0.0.1:{port}", "check_heart_beat": True}
        with Reply("POST", f"{cluster.fastchat_controller}/register_worker", body) as reply:
            assert 400 <= reply.status < 500
            said = json.dumps(decoded(reply.text()))
        assert "credentials" in said
        time.sleep(2.5)  # the time within which a worker that was taken is probed
        with pytest.raises(BlockingIOError):
            listener.accept()


@mortal
@pytest.mark.usefixtures("whole")
def test_a_worker_that_says_localhost_is_used(fleet: Cluster) -> None:
    """A worker started with ``--worker-address http://localhost:PORT`` takes its share of the requests."""
    local = fleet.plans[-1]
    assert local.registered_as.startswith("http://localhost:")
    streams = [Stream(f"{fleet.plan.url}/generate_stream", asked(PAIR, LONG)) for _ in range(2)]
    wait_until("the worker works", lambda: fleet.busy(local) == 1, 10)
    assert len({stream.text() for stream in streams}) == 1


@mortal
@pytest.mark.usefixtures("whole")
def test_without_the_token_nobody_registers(fleet: Cluster) -> None:
    """The workers of this cluster have the token in their controller's address; an address without it is refused."""
    assert fleet.fastchat_controller.endswith(f"/{TOKEN}")
    body: Json = {"worker_name": fleet.plans[0].url, "check_heart_beat": True}
    for address in (fleet.fastchat_controller.removesuffix(f"/{TOKEN}"), f"{fleet.fastchat_controller}x"):
        with Reply("POST", f"{address}/register_worker", body) as reply:
            assert reply.status == 401
            assert "token" in reply.text()


@mortal
@pytest.mark.usefixtures("whole")
def test_a_gateway_that_was_killed_remembers_its_workers(fleet: Cluster) -> None:
    """With a state file the workers are used at once after a restart, long before their next heartbeat."""
    fleet.gateway.kill()
    fleet.start_gateway()
    # DB-GPT cannot tell: it still has what the one that was killed had registered.
    wait_until("all models are listed", lambda: listed_models(fleet) == set(fleet.workers), 5)
    for model in fleet.workers:
        assert post_frames(f"{fleet.plan.url}/generate_stream", asked(model, 4))[-1]["error_code"] == 0
    fleet.wait_names()
    logs = (fleet.running[plan.port].logged() for plan in fleet.plans)
    assert not any("heart beat error" in log for log in logs), "a worker has noticed that the gateway was away"
