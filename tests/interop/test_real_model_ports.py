"""A port for each model: how DB-GPT's remote client, which names no model, has its tokens counted by the right one."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from tests.interop import programs
from tests.interop.clients import DbgptClients
from tests.interop.clusters import CERTAIN, KINDS, PLAIN, Cluster
from tests.interop.programs import GatewayPlan
from tests.interop.streams import metrics_page, samples
from tests.interop.wire import int_at, post_object
from tests.ports import free_row

TEXT = "Quick? 快吗？"
SECONDS = 20.0
PORTS = 20


def counted(plan: GatewayPlan) -> dict[str, float]:
    """Answered counts of tokens by model, as the gateway's metrics have them."""
    found = samples(metrics_page(plan), "gateway_requests_total", route="count_token", outcome="ok")
    return {each.labels["model"]: each.value for each in found if each.value}


def test_the_port_tells_whose_tokens_are_counted(cluster: Cluster, tmp_path: Path) -> None:
    """The models are registered with ports of their own, and each count of the real client reaches its own model.

    In the direct form this second gateway takes the first one for a FastChat controller.
    """
    controller_port, port, admin_port = programs.free_ports(3)
    # Below those that a system gives away: a worker at one of the gateway's own ports is no worker.
    first = free_row(PORTS, 20_000, 32_000)
    controller = f"http://127.0.0.1:{controller_port}"
    ports = f"model_ports: {{first: {first}, last: {first + PORTS - 1}}}\n"
    plan = GatewayPlan(port, admin_port, controller, ("--fastchat-controller", cluster.fastchat_controller), ports)
    with ExitStack() as stack:
        stack.callback(programs.dbgpt_controller(cluster.pythons, tmp_path, controller_port).kill)
        gateway = programs.gateway(tmp_path, plan)
        stack.callback(gateway.kill)
        names = {f"{model}@{kind}" for model in cluster.workers for kind in KINDS}
        programs.wait_until(
            "the models are registered", lambda: names <= {name for name, _ in programs.registered(controller)}, SECONDS
        )
        own = {name: at for name, at in programs.registered(controller) if name.endswith("@llm")}
        assert len({*own.values(), port}) == len(cluster.workers) + 1, own
        clients = DbgptClients(cluster.pythons, tmp_path, controller)
        stack.callback(clients.close)
        for model in (PLAIN, CERTAIN):
            direct = post_object(f"{cluster.workers[model].url}/count_token", {"model": model, "prompt": TEXT})
            assert clients.call("count_token", model=model, prompt=TEXT) == int_at(direct, "count")
        assert counted(plan) == {PLAIN: 1, CERTAIN: 1}
