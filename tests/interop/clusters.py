"""Clusters of the real programs in two forms: with FastChat's own controller, and with the gateway in its place."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.interop import fastchat_programs, programs
from tests.interop.fastchat_programs import ModelPlan, WorkerPlan
from tests.interop.programs import (
    REPOSITORY,
    GatewayPlan,
    Program,
    ProgramError,
    Pythons,
    answers,
    wait_registered,
    wait_until,
)
from tests.interop.streams import metric
from tests.interop.wire import get_json, int_at, post_object

CONTROLLER, DIRECT = FORMS = ("controller", "direct")
"""The workers register with FastChat's controller, which the gateway asks; or with the gateway itself."""

PLAIN = "tiny-vicuna"
CERTAIN = "tiny-certain"
SECOND = "tiny-second"
"""In the direct form a ``multi_model_worker`` has this model and the certain one behind one address."""
MORTAL = "tiny-mortal"
PAIR = "tiny-pair"
RESUMED = "tiny-pair-resumed"
"""A second name of the model of two workers; a stream of this one goes on when its worker is lost."""

KINDS = ("llm", "text2vec")
MANAGER = {"WorkerManager@service"}
REGISTERED_SECONDS = 30.0
FREE_SECONDS = 30.0
TOKEN = "a-word-among-friends"
"""The workers of one cluster have this in their controller's address, or else they are not taken."""
STRAY_ADDRESS = "http://203.0.113.9:21002"
"""Of a network for documentation (RFC 5737), so nobody is there."""


@dataclass
class Cluster:
    """A FastChat fleet, a DB-GPT controller and the gateway between them, all running; URLs without a final slash.

    The tests end programs and start them again; ``restore`` makes it whole.
    """

    form: str
    folder: Path
    pythons: Pythons
    stack: ExitStack
    plans: list[WorkerPlan]
    fastchat_controller: str
    """Where workers register and FastChat's clients ask: FastChat's controller, or the gateway."""
    dbgpt_controller: str
    plan: GatewayPlan
    gateway: Program = field(init=False)
    controller: Program = field(init=False)
    registrar: Program | None = None
    """FastChat's controller, where there is one."""
    api: str = ""
    running: dict[int, Program] = field(default_factory=dict)
    """The workers' programs by port."""

    @property
    def workers(self) -> dict[str, WorkerPlan]:
        """A worker of each model, and of each of its names."""
        return {name: plan for plan in self.plans for name in plan.names}

    def names(self, *without: str) -> set[str]:
        """What the gateway registers: each model (but these) as both kinds, and the manager."""
        return {f"{model}@{kind}" for model in self.workers if model not in without for kind in KINDS} | MANAGER

    def queue_length(self, model: str) -> int:
        """How many requests the workers of a model work on, by their own count."""
        return sum(self.busy(plan) for plan in self.plans if model in plan.names)

    def busy(self, plan: WorkerPlan) -> int:
        """The worker's own count; ``multi_model_worker`` says it once for each model it has."""
        return int_at(post_object(f"{plan.url}/worker_get_status", {}), "queue_length") // len(plan.models)

    def workers_up(self) -> float:
        """How many workers the gateway uses."""
        return metric(self.plan, "gateway_worker_up")

    def workers_degraded(self) -> float:
        """Of how many workers the gateway thinks that they have lost slots."""
        return metric(self.plan, "gateway_worker_degraded")

    def wait_idle(self) -> None:
        """Wait until every worker that runs has all its slots free, so that none was lost."""

        def idle() -> bool:
            return all(self.busy(plan) == 0 for plan in self.plans if self.running[plan.port].running)

        wait_until(f"the workers of {self.folder.name} have all their slots free", idle, FREE_SECONDS)

    def wait_names(self, names: set[str] | None = None, seconds: float = REGISTERED_SECONDS) -> float:
        """Wait until DB-GPT has exactly these of the gateway, healthy (default: everything); returns the seconds."""
        wanted = self.names() if names is None else names
        return wait_registered(self.dbgpt_controller, wanted, self.plan.port, seconds, self.gateway)

    def keep(self, program: Program) -> Program:
        """The program, which now ends with the cluster."""
        self.stack.callback(program.kill)
        return program

    def begin_worker(self, plan: WorkerPlan) -> None:
        """A new worker of this plan, still loading."""
        self.running[plan.port] = self.keep(
            fastchat_programs.fastchat_worker(self.pythons, self.folder, plan, self.fastchat_controller)
        )

    def start_stray(self) -> Program:
        """A worker that says it is where nobody is."""
        model = ModelPlan(("tiny-stray",), "vicuna_v1.1")
        plan = WorkerPlan(self.plans[0].port, (model,), registered_as=STRAY_ADDRESS)
        return self.keep(fastchat_programs.fastchat_worker(self.pythons, self.folder, plan, self.fastchat_controller))

    def wait_workers(self) -> None:
        """Wait until all workers answer and are listed. A failure also shows whom they register with."""
        try:
            for plan in self.plans:
                fastchat_programs.wait_worker(self.running[plan.port], plan, self.fastchat_controller)
        except ProgramError as error:
            raise ProgramError(f"{error}{(self.registrar or self.gateway).tail()}") from None

    def kill_worker(self, plan: WorkerPlan) -> None:
        self.running[plan.port].kill()

    def start_gateway(self) -> None:
        """A gateway, in the place of the old one if there was one."""
        self.gateway = self.keep(programs.gateway(self.folder, self.plan))

    def start_dbgpt_controller(self) -> None:
        """A DB-GPT controller that knows nobody, in the place of the old one if there was one."""
        port = int(self.dbgpt_controller.rsplit(":", 1)[1])
        self.controller = self.keep(programs.dbgpt_controller(self.pythons, self.folder, port))

    def use_settings(self, settings: str) -> None:
        """Other lines for the settings file, which the gateway has to read by itself or when told to."""
        self.plan = replace(self.plan, settings=settings)
        programs.write_settings(self.folder, self.plan)

    def restore(self) -> None:
        """Start what has ended and wait until everything is registered."""
        if not self.controller.running:
            self.start_dbgpt_controller()
        if not self.gateway.running:
            self.start_gateway()
        missing = [plan for plan in self.plans if not self.running[plan.port].running]
        for plan in missing:
            self.begin_worker(plan)
        if missing:
            self.wait_workers()
        # A model is also listed when only one of its two workers is back.
        wait_until("all workers are used", lambda: self.workers_up() == len(self.plans), REGISTERED_SECONDS)
        self.wait_names()


def main_cluster(form: str, pythons: Pythons, folder: Path) -> Cluster:
    """Models with different templates, and DB-GPT's API server. In the direct form two models have one address."""
    ports = programs.free_ports(7)
    plain = ModelPlan((PLAIN,), "vicuna_v1.1")
    certain = ModelPlan((CERTAIN,), "qwen-7b-chat", "certain")
    if form == CONTROLLER:
        plans = [WorkerPlan(ports[0], (plain,)), WorkerPlan(ports[1], (certain,))]
    else:
        # Beats are frequent here, so that what they overwrite is overwritten while the tests look.
        models = (certain, ModelPlan((SECOND,), "alpaca", "spelled"))
        plans = [WorkerPlan(ports[0], (plain,), heartbeat_seconds=2), WorkerPlan(ports[1], models, heartbeat_seconds=2)]
    return start(form, pythons, folder, plans, ports[2:6], "", ports[6])


def mortal_cluster(form: str, pythons: Pythons, folder: Path) -> Cluster:
    """A cluster whose programs are ended by tests; in the direct form also with two workers of one model."""
    ports = programs.free_ports(7)
    plans = [WorkerPlan(ports[0], (ModelPlan((MORTAL,), "vicuna_v1.1", "certain"),))]
    settings = token = ""
    if form == DIRECT:
        pair = (ModelPlan((PAIR, RESUMED), "vicuna_v1.1", "spelled"),)
        plans.append(WorkerPlan(ports[1], pair))
        plans.append(WorkerPlan(ports[2], pair, registered_as=f"http://localhost:{ports[2]}"))
        settings, token = mortal_settings(folder), f"/{TOKEN}"
    return start(form, pythons, folder, plans, ports[3:], settings, token=token)


def mortal_settings(folder: Path) -> str:
    """Rules of its own that a test may change, and what only the gateway as a controller can do."""
    rules = folder / "rules"
    shutil.copytree(REPOSITORY / "rules", rules)
    return (
        f"rules: [{rules}]\n"
        f"fastchat: {{accept: {{state_file: {folder / 'workers.json'}, token: {TOKEN}}}}}\n"
        "dbgpt: {management: true, heartbeat_seconds: 3.0}\n"
        f"models: {{{RESUMED}: {{resume: true}}}}\n"
    )


def start(
    form: str,
    pythons: Pythons,
    folder: Path,
    plans: list[WorkerPlan],
    ports: list[int],
    settings: str,
    api_port: int | None = None,
    token: str = "",
) -> Cluster:
    """The programs, as many at a time as can be, until everything is registered.

    ``ports``: of the FastChat side's address, DB-GPT's controller, the gateway, and its admin page. ``token``: what is
    behind the FastChat side's address for those who may register.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fastchat, dbgpt = (f"http://127.0.0.1:{port}" for port in ports[:2])
    flags = ("--fastchat-controller", fastchat) if form == CONTROLLER else ("--accept-workers", f"127.0.0.1:{ports[0]}")
    plan = GatewayPlan(ports[2], ports[3], dbgpt, flags, settings, empty=form == DIRECT)
    cluster = Cluster(form, folder, pythons, ExitStack(), plans, f"{fastchat}{token}", dbgpt, plan)
    try:
        if form == CONTROLLER:
            begin_with_fastchat(cluster, ports[0])
        else:
            begin_with_the_gateway(cluster)
        if api_port is not None:
            cluster.keep(programs.dbgpt_api_server(pythons, folder, api_port, dbgpt))
            cluster.api = f"http://127.0.0.1:{api_port}/api/v1"
        cluster.wait_workers()
        if form == CONTROLLER:
            cluster.start_gateway()
        cluster.wait_names()
    except BaseException:
        cluster.stack.close()
        raise
    return cluster


def begin_with_fastchat(cluster: Cluster, port: int) -> None:
    """Both controllers, and workers that are still loading."""
    cluster.registrar = cluster.keep(fastchat_programs.fastchat_controller(cluster.pythons, cluster.folder, port))
    for plan in cluster.plans:
        cluster.begin_worker(plan)
    cluster.start_dbgpt_controller()


def begin_with_the_gateway(cluster: Cluster) -> None:
    """DB-GPT's controller and the gateway, and workers that are still loading."""
    cluster.start_dbgpt_controller()
    cluster.start_gateway()
    # A worker that meets no controller when it has loaded its model ends.
    test = f"{cluster.fastchat_controller}/test_connection"
    cluster.gateway.wait_ready(lambda: answers(lambda: get_json(test)))
    for plan in cluster.plans:
        cluster.begin_worker(plan)
