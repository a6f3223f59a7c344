"""One cluster of the real programs for the whole run, and a second one for the tests that end programs.

``make interop`` builds the environments first; see ``environments.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.types import Json, JsonObject
from tests.interop import environments, programs
from tests.interop.clients import DbgptClients, rendered
from tests.interop.programs import GatewayPlan, Program, Pythons, WorkerPlan
from tests.interop.wire import int_at, post_frames, post_object

TEST_SECONDS = 180
PLAIN = "tiny-vicuna"
CERTAIN = "tiny-certain"
KINDS = ("llm", "text2vec")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a module also waits for programs that import PyTorch: give all of them more time."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@dataclass(frozen=True)
class Cluster:
    """A FastChat fleet, a DB-GPT cluster and the gateway between them, all running; URLs without a final slash."""

    folder: Path
    pythons: Pythons
    workers: dict[str, WorkerPlan]
    fastchat_controller: str
    dbgpt_controller: str
    api: str
    plan: GatewayPlan
    gateway: Program

    def names(self) -> set[str]:
        """What the gateway registers: each model as both kinds, and the manager."""
        return {f"{model}@{kind}" for model in self.workers for kind in KINDS} | {"WorkerManager@service"}

    def queue_length(self, model: str) -> int:
        """The worker's own count of requests it works on."""
        return int_at(post_object(f"{self.workers[model].url}/worker_get_status", {}), "queue_length")


@dataclass(frozen=True)
class Answer:
    """What a worker itself says to a prompt."""

    prompt: str
    text: str
    finish_reason: Json
    usage: Json


class Own:
    """Asks the workers directly, greedily, with the prompts that FastChat itself renders."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.prompts: dict[str, JsonObject] = {}

    def prepare(self, model: str, dialogues: list[Json]) -> None:
        """Render several dialogues in one go; each run of FastChat's environment takes most of a second."""
        template = self.cluster.workers[model].template
        missing = [each for each in dialogues if repr((template, each)) not in self.prompts]
        if missing:
            found = rendered(self.cluster.pythons, template, missing)
            self.prompts.update({repr((template, each)): body for each, body in zip(missing, found, strict=True)})

    def answer(self, model: str, said: Json, **parameters: Json) -> Answer:
        """The worker's answer to a dialogue (DB-GPT's messages), or to a string as it is."""
        plan = self.cluster.workers[model]
        body: JsonObject = {"prompt": said}
        if not isinstance(said, str):
            self.prepare(model, [said])
            prompt = self.prompts[repr((plan.template, said))]
            body = {key: value for key, value in prompt.items() if value is not None}
        body |= {"model": model, "temperature": 0.0, "echo": False, **parameters}
        frames = post_frames(f"{plan.url}/worker_generate_stream", body)
        assert all(frame["error_code"] == 0 for frame in frames), frames
        last = frames[-1]
        return Answer(str(body["prompt"]), str(last["text"]), last.get("finish_reason"), last.get("usage"))


@pytest.fixture(scope="session")
def pythons() -> Pythons:
    """The environments of the real programs; none for this Python is a skip, one not built yet is a failure."""
    try:
        fastchat = environments.python_of(environments.FASTCHAT)
        dbgpt = environments.python_of(environments.DBGPT)
    except environments.NoPythonError as error:
        pytest.skip(str(error))
    if fastchat is not None and dbgpt is not None:
        models = {kind: environments.model_folder(fastchat.parents[1], kind) for kind in environments.MODEL_KINDS}
        if all(model.exists() for model in models.values()):
            return Pythons(fastchat=fastchat, dbgpt=dbgpt, models=models)
    pytest.fail("the real programs are not all installed: run `make interop`", pytrace=False)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs keep their files and logs."""
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def cluster(pythons: Pythons, folder: Path) -> Iterator[Cluster]:
    """Two workers with different templates, both controllers, DB-GPT's API server, and the gateway, registered."""
    ports = programs.free_ports(7)
    workers = {
        PLAIN: WorkerPlan(PLAIN, ports[0], "vicuna_v1.1"),
        CERTAIN: WorkerPlan(CERTAIN, ports[1], "qwen-7b-chat", kind="certain"),
    }
    fastchat, dbgpt = f"http://127.0.0.1:{ports[2]}", f"http://127.0.0.1:{ports[3]}"
    plan = GatewayPlan(ports[5], ports[6], dbgpt, ("--fastchat-controller", fastchat))
    with ExitStack() as stack:
        stack.callback(programs.fastchat_controller(pythons, folder, ports[2]).kill)
        loading = {}
        for model, worker in workers.items():
            loading[model] = programs.fastchat_worker(pythons, folder, worker, fastchat)
            stack.callback(loading[model].kill)
        stack.callback(programs.dbgpt_controller(pythons, folder, ports[3]).kill)
        stack.callback(programs.dbgpt_api_server(pythons, folder, ports[4], dbgpt).kill)
        for model, worker in workers.items():
            programs.wait_worker(loading[model], worker, fastchat)
        gateway = programs.gateway(folder, plan)
        stack.callback(gateway.kill)
        api = f"http://127.0.0.1:{ports[4]}/api/v1"
        found = Cluster(folder, pythons, workers, fastchat, dbgpt, api, plan, gateway)
        programs.wait_registered(dbgpt, found.names(), plan.port, 20, gateway)
        yield found


@pytest.fixture(scope="session")
def clients(cluster: Cluster) -> Iterator[DbgptClients]:
    """DB-GPT's Python clients, talking to the cluster's controller."""
    started = DbgptClients(cluster.pythons, cluster.folder, cluster.dbgpt_controller)
    yield started
    started.close()


@pytest.fixture(scope="session")
def own(cluster: Cluster) -> Own:
    """What the workers say themselves, to compare with."""
    return Own(cluster)
