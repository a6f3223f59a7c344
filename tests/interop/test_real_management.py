"""DB-GPT's own management takes a model out of service and puts it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.clients import ClientError, DbgptClients
from tests.interop.clusters import DIRECT, PAIR, RESUMED, Cluster
from tests.interop.own import Own
from tests.interop.streams import SAID, Stream, asked
from tests.interop.wire import post_object, text_at

pytestmark = [
    pytest.mark.parametrize("fleet", [DIRECT], indirect=True, scope="session"),
    pytest.mark.usefixtures("whole"),
]

OUT_SECONDS = 4.0


@pytest.fixture(scope="module")
def manager(fleet: Cluster) -> Iterator[DbgptClients]:
    """DB-GPT's remote worker manager."""
    running = DbgptClients(fleet.pythons, fleet.folder, fleet.dbgpt_controller)
    yield running
    running.close()


def test_a_model_leaves_and_returns(fleet: Cluster, manager: DbgptClients) -> None:
    """A shutdown takes the model off DB-GPT's list, lets its stream end, and refuses it; a startup undoes it."""
    answer = Own(fleet).answer(PAIR, SAID, max_new_tokens=600)
    stream = Stream(f"{fleet.plan.url}/generate_stream", asked(PAIR, 600))
    stream.wait_begun()
    manager.call("shutdown", model=PAIR, host="127.0.0.1", port=fleet.plan.port)
    fleet.wait_names(fleet.names() - {f"{PAIR}@llm"}, OUT_SECONDS)
    refused = post_object(f"{fleet.plan.url}/generate", asked(PAIR, 4))
    assert refused["error_code"] != 0
    assert PAIR in text_at(refused, "text")
    assert post_object(f"{fleet.plan.url}/generate", asked(RESUMED, 4))["error_code"] == 0
    assert stream.text() == answer.text
    manager.call("startup", model=PAIR, host="127.0.0.1", port=fleet.plan.port)
    fleet.wait_names(seconds=OUT_SECONDS)
    got = manager.call("generate", model=PAIR, messages=SAID, temperature=0.0, max_new_tokens=8)
    assert text_at(got, "text") == answer.text[:8]


def test_a_model_that_nobody_has_cannot_be_started(fleet: Cluster, manager: DbgptClients) -> None:
    """The refusal reaches DB-GPT's user in words, and nothing changes."""
    with pytest.raises(ClientError, match="absent"):
        manager.call("startup", model="absent", host="127.0.0.1", port=fleet.plan.port)
    fleet.wait_names(seconds=OUT_SECONDS)
