"""The gateway's membership in a DB-GPT cluster while programs die and return."""

from __future__ import annotations

import pytest

from proxy.types import Json
from tests.interop import programs
from tests.interop.clients import run_dbgpt
from tests.interop.clusters import KINDS, MANAGER, MORTAL, Cluster
from tests.interop.programs import GatewayPlan, registered, wait_registered
from tests.interop.wire import post_json, post_object, text_at

pytestmark = pytest.mark.usefixtures("whole")

GONE_SECONDS = 4.0
"""Two seconds for the next look at the worker and two for DB-GPT. FastChat's controller lists a dead one for 90 s."""
BODY: Json = {"model": MORTAL, "messages": [{"role": "human", "content": "Hi"}], "max_new_tokens": 3}


def test_a_killed_worker_disappears_and_a_restarted_one_returns(fleet: Cluster) -> None:
    """Within seconds of a worker's death DB-GPT has none of its models, and has them again once it is back.

    Metadata are answered all the while: one failing answer would break every request of the cluster.
    """
    left = fleet.names(MORTAL)
    fleet.kill_worker(fleet.workers[MORTAL])
    metadata = post_object(f"{fleet.plan.url}/model_metadata", {"model": MORTAL})
    assert (metadata["model"], metadata["context_length"]) == (MORTAL, 2048)
    fleet.wait_names(left, GONE_SECONDS)
    assert post_object(f"{fleet.plan.url}/model_metadata", {"model": MORTAL}) == metadata
    everything = registered(fleet.dbgpt_controller, healthy_only=False)
    assert everything == {(name, fleet.plan.port) for name in left}, "a ghost stays behind"
    refused = post_object(f"{fleet.plan.url}/generate", BODY)
    assert refused["error_code"] != 0
    assert MORTAL in text_at(refused, "text")
    fleet.begin_worker(fleet.workers[MORTAL])
    fleet.wait_names()
    assert post_object(f"{fleet.plan.url}/generate", BODY)["error_code"] == 0


def test_a_restarted_controller_gets_its_registrations_back(fleet: Cluster) -> None:
    """A DB-GPT controller that comes back with an empty table has all of them within a heartbeat, and they work."""
    fleet.controller.stop()
    assert post_object(f"{fleet.plan.url}/generate", BODY)["error_code"] == 0, "serving needs no controller"
    fleet.start_dbgpt_controller()
    fleet.wait_names()
    output = run_dbgpt(fleet.pythons, fleet.folder, fleet.dbgpt_controller, ["model", "list", "--model_name", MORTAL])
    assert f"{fleet.plan.port} |   True" in output


def test_stopping_leaves_nothing_registered(fleet: Cluster) -> None:
    """A second gateway, given its worker by address, is there beside the first, and leaves no trace when stopped."""
    ports = programs.free_ports(2)
    worker = ("--fastchat-worker", fleet.workers[MORTAL].url)
    plan = GatewayPlan(ports[0], ports[1], fleet.dbgpt_controller, worker)
    second = fleet.keep(programs.gateway(fleet.folder, plan))
    names = {f"{MORTAL}@{kind}" for kind in KINDS} | MANAGER
    wait_registered(fleet.dbgpt_controller, names, plan.port, 20, second)
    assert second.stop() == 0, second.tail()
    everything = registered(fleet.dbgpt_controller, healthy_only=False)
    assert {port for _, port in everything} == {fleet.plan.port}
    with pytest.raises(OSError, match="refused"):
        post_json(f"{plan.url}/generate", BODY)
