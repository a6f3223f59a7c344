"""The gateway's membership in a DB-GPT cluster while programs die and return, on a cluster of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.types import Json
from tests.interop import programs
from tests.interop.clients import run_dbgpt
from tests.interop.programs import GatewayPlan, Program, Pythons, WorkerPlan, registered, wait_registered
from tests.interop.wire import post_json, post_object, text_at

MODEL = "tiny-mortal"
MANAGER = {"WorkerManager@service"}
NAMES = {f"{MODEL}@llm", f"{MODEL}@text2vec"} | MANAGER
GONE_SECONDS = 6.0
"""FastChat's controller lists a dead worker for 90 to 180 s; whoever asks DB-GPT meanwhile must not get it."""
BACK_SECONDS = 30.0
BODY: Json = {"model": MODEL, "messages": [{"role": "human", "content": "Hi"}], "max_new_tokens": 3}


@dataclass
class Fleet:
    """The programs of these tests; the tests replace what they end."""

    pythons: Pythons
    folder: Path
    stack: ExitStack
    plan: WorkerPlan
    fastchat_controller: str
    dbgpt_controller: str
    controller: Program
    worker: Program
    gateway_plan: GatewayPlan
    gateway: Program

    def restart_worker(self) -> None:
        """A new worker at the old address, registered with FastChat's controller."""
        self.worker = programs.fastchat_worker(self.pythons, self.folder, self.plan, self.fastchat_controller)
        self.stack.callback(self.worker.kill)
        programs.wait_worker(self.worker, self.plan, self.fastchat_controller)

    def restart_controller(self) -> None:
        """A new DB-GPT controller at the old address; it knows nobody."""
        port = int(self.dbgpt_controller.rsplit(":", 1)[1])
        self.controller = programs.dbgpt_controller(self.pythons, self.folder, port)
        self.stack.callback(self.controller.kill)


@pytest.fixture(scope="module")
def fleet(pythons: Pythons, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One worker, both controllers and a gateway, registered."""
    folder = tmp_path_factory.mktemp("fleet")
    ports = programs.free_ports(5)
    fastchat, dbgpt = f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"
    worker_plan = WorkerPlan(MODEL, ports[2], "vicuna_v1.1")
    gateway_plan = GatewayPlan(ports[3], ports[4], dbgpt, ("--fastchat-controller", fastchat))
    with ExitStack() as stack:
        stack.callback(programs.fastchat_controller(pythons, folder, ports[0]).kill)
        worker = programs.fastchat_worker(pythons, folder, worker_plan, fastchat)
        stack.callback(worker.kill)
        controller = programs.dbgpt_controller(pythons, folder, ports[1])
        stack.callback(controller.kill)
        programs.wait_worker(worker, worker_plan, fastchat)
        gateway = programs.gateway(folder, gateway_plan)
        stack.callback(gateway.kill)
        yield Fleet(
            pythons=pythons,
            folder=folder,
            stack=stack,
            plan=worker_plan,
            fastchat_controller=fastchat,
            dbgpt_controller=dbgpt,
            controller=controller,
            worker=worker,
            gateway_plan=gateway_plan,
            gateway=gateway,
        )


@pytest.fixture(autouse=True)
def whole(fleet: Fleet) -> None:
    """Each test begins with everything running and registered, whatever became of the one before."""
    if fleet.controller.process.poll() is not None:
        fleet.restart_controller()
    if fleet.worker.process.poll() is not None:
        fleet.restart_worker()
    wait_registered(fleet.dbgpt_controller, NAMES, fleet.gateway_plan.port, BACK_SECONDS, fleet.gateway)


def test_a_killed_worker_disappears_and_a_restarted_one_returns(fleet: Fleet) -> None:
    """Within seconds of a worker's death DB-GPT has none of its models, and has them again once it is back."""
    port, controller = fleet.gateway_plan.port, fleet.dbgpt_controller
    fleet.worker.kill()
    wait_registered(controller, MANAGER, port, GONE_SECONDS, fleet.gateway)
    assert registered(controller, healthy_only=False) == {(name, port) for name in MANAGER}, "a ghost stays behind"
    refused = post_object(f"{fleet.gateway_plan.url}/generate", BODY)
    assert refused["error_code"] != 0
    assert MODEL in text_at(refused, "text")
    fleet.restart_worker()
    wait_registered(controller, NAMES, port, BACK_SECONDS, fleet.gateway)
    assert post_object(f"{fleet.gateway_plan.url}/generate", BODY)["error_code"] == 0


def test_metadata_is_answered_while_the_worker_is_down(fleet: Fleet) -> None:
    """One failing metadata answer would break every request of the cluster, so it comes also without a worker."""
    fleet.worker.kill()
    url = f"{fleet.gateway_plan.url}/model_metadata"
    at_once = post_object(url, {"model": MODEL})
    wait_registered(fleet.dbgpt_controller, MANAGER, fleet.gateway_plan.port, GONE_SECONDS, fleet.gateway)
    later = post_object(url, {"model": MODEL})
    assert at_once == later
    assert (later["model"], later["context_length"]) == (MODEL, 2048)


def test_a_restarted_controller_gets_its_registrations_back(fleet: Fleet) -> None:
    """A DB-GPT controller that comes back with an empty table has all of them within a heartbeat, and they work."""
    fleet.controller.stop()
    assert post_object(f"{fleet.gateway_plan.url}/generate", BODY)["error_code"] == 0, "serving needs no controller"
    fleet.restart_controller()
    wait_registered(fleet.dbgpt_controller, NAMES, fleet.gateway_plan.port, BACK_SECONDS, fleet.gateway)
    output = run_dbgpt(fleet.pythons, fleet.folder, fleet.dbgpt_controller, ["model", "list", "--model_name", MODEL])
    assert f"{fleet.gateway_plan.port} |   True" in output


def test_stopping_leaves_nothing_registered(fleet: Fleet) -> None:
    """A second gateway, given its worker by address, is there beside the first, and leaves no trace when stopped."""
    ports = programs.free_ports(2)
    plan = GatewayPlan(ports[0], ports[1], fleet.dbgpt_controller, ("--fastchat-worker", fleet.plan.url))
    second = programs.gateway(fleet.folder, plan)
    fleet.stack.callback(second.kill)
    wait_registered(fleet.dbgpt_controller, NAMES, plan.port, 20, second)
    assert second.stop() == 0, second.tail()
    everything = registered(fleet.dbgpt_controller, healthy_only=False)
    assert {port for _, port in everything} == {fleet.gateway_plan.port}
    with pytest.raises(OSError, match="refused"):
        post_json(f"{plan.url}/generate", BODY)
