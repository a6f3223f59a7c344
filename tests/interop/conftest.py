"""Clusters of the real programs, each started once for the whole run: two to talk to, two whose programs are ended.

They are started one after the other in the background, in the order in which the tests need them. ``make interop``
builds the environments first; see ``environments.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.interop import clusters, environments
from tests.interop.clients import DbgptClients
from tests.interop.clusters import FORMS, Cluster
from tests.interop.own import Own
from tests.interop.programs import Pythons

TEST_SECONDS = 180
STARTS: dict[str, Callable[[str, Pythons, Path], Cluster]] = {
    "cluster": clusters.main_cluster,
    "fleet": clusters.mortal_cluster,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a cluster also waits for programs that import PyTorch: give all of them more time."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def pythons() -> Pythons:
    """The environments of the real programs; none for this Python is a skip, one not built yet is a failure."""
    try:
        built = [environments.python_of(each) for each in environments.ENVIRONMENTS]
    except environments.NoPythonError as error:
        pytest.skip(str(error))
    found = [python for python in built if python is not None]
    if len(found) == len(built):
        fastchat, openai, dbgpt, clients = found
        models = {kind: environments.model_folder(fastchat.parents[1], kind) for kind in environments.MODEL_KINDS}
        if all(model.exists() for model in models.values()):
            return Pythons(fastchat=fastchat, fastchat_openai=openai, dbgpt=dbgpt, clients=clients, models=models)
    pytest.fail("the real programs are not all installed: run `make interop`", pytrace=False)


def needed(items: list[pytest.Item]) -> list[tuple[str, str]]:
    """The clusters that these tests use, as (fixture, form), in the order of their first use."""
    found: dict[tuple[str, str], None] = {}
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            for name in STARTS:
                if name in item.callspec.params:
                    found[name, str(item.callspec.params[name])] = None
    return list(found)


@pytest.fixture(scope="session")
def started(
    request: pytest.FixtureRequest, pythons: Pythons, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Cluster]]]:
    """Each cluster, running or being started. At the end none may have lost a slot of a worker."""
    folder = tmp_path_factory.mktemp("programs")
    with ThreadPoolExecutor(1) as pool:
        starting = {
            (name, form): pool.submit(STARTS[name], form, pythons, folder / f"{name}-{form}")
            for name, form in needed(request.session.items)
        }
        try:
            yield starting
            for each in starting.values():
                if each.done() and each.exception() is None:
                    each.result().wait_idle()
                    assert not each.result().workers_degraded(), each.result().gateway.tail()
        finally:
            pool.shutdown(cancel_futures=True)
            for each in starting.values():
                if not each.cancelled() and each.exception() is None:
                    each.result().stack.close()


@pytest.fixture(scope="session", params=FORMS)
def cluster(request: pytest.FixtureRequest, started: dict[tuple[str, str], Future[Cluster]]) -> Cluster:
    """Workers with different templates, DB-GPT's controller and API server, and the gateway, registered."""
    return started["cluster", request.param].result()


@pytest.fixture(scope="session", params=FORMS)
def fleet(request: pytest.FixtureRequest, started: dict[tuple[str, str], Future[Cluster]]) -> Cluster:
    """Another cluster, for the tests that end programs. Without an API server."""
    return started["fleet", request.param].result()


@pytest.fixture
def whole(fleet: Cluster) -> None:
    """A test begins with everything running and registered, whatever became of the one before."""
    fleet.restore()


@pytest.fixture(scope="session")
def clients(cluster: Cluster) -> Iterator[DbgptClients]:
    """DB-GPT's Python clients, talking to the cluster's controller."""
    running = DbgptClients(cluster.pythons, cluster.folder, cluster.dbgpt_controller)
    yield running
    running.close()


@pytest.fixture(scope="session")
def own(cluster: Cluster) -> Own:
    """What the workers of the cluster say themselves, to compare with."""
    return Own(cluster)
