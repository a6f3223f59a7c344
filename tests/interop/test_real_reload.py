"""New rules while real streams run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.types import Json
from tests.interop.clusters import DIRECT, MORTAL, PAIR, Cluster
from tests.interop.own import Own
from tests.interop.programs import wait_until
from tests.interop.streams import SAID, Stream, asked, metric
from tests.interop.wire import post_frames

pytestmark = [
    pytest.mark.parametrize("fleet", [DIRECT], indirect=True, scope="session"),
    pytest.mark.usefixtures("whole"),
]

RELOAD_SECONDS = 15.0
OLD = "        incremental: {value: false}\n"
NEW = f"{OLD}        model_context: {{value: changed}}\n"


@pytest.fixture
def rule(fleet: Cluster) -> Iterator[Path]:
    """The file with the rule for streams; put back, and in force again, after the test."""
    file = fleet.folder / "rules" / "dbgpt-worker" / "generate_stream.yaml"
    before = file.read_text(encoding="utf-8")
    yield file
    write(file, before)
    fleet.gateway.reload()
    wait_until("the old rules are in force again", lambda: contexts(fleet) == {None}, RELOAD_SECONDS)


def write(file: Path, text: str) -> None:
    """In one step: the gateway may look at any moment."""
    unfinished = file.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(file)


def contexts(fleet: Cluster) -> set[Json]:
    """What the rule under change says in a new stream's frames but the last."""
    frames = post_frames(f"{fleet.plan.url}/generate_stream", asked(PAIR, 12))
    return {frame.get("model_context") for frame in frames[:-1]}


def test_a_changed_rule_is_for_new_streams(fleet: Cluster, rule: Path) -> None:
    """After SIGHUP a new stream follows the new rule, and one that runs ends whole under the one it began with."""
    answer = Own(fleet).answer(MORTAL, SAID, max_new_tokens=1500)
    stream = Stream(f"{fleet.plan.url}/generate_stream", asked(MORTAL, 1500))
    stream.wait_begun()
    text = rule.read_text(encoding="utf-8")
    assert OLD in text
    write(rule, text.replace(OLD, NEW))
    fleet.gateway.reload()
    wait_until("the new rule is in force", lambda: contexts(fleet) == {"changed"}, RELOAD_SECONDS)
    assert stream.is_alive(), "the stream was over before the rule changed"
    assert stream.text() == answer.text
    assert {frame.get("model_context") for frame in stream.frames} == {None}


def test_a_rule_with_a_mistake_is_refused(fleet: Cluster, rule: Path) -> None:
    """The mistake is told with its line, and the rules that were there go on."""
    write(rule, rule.read_text(encoding="utf-8") + "nonsense: true\n")
    fleet.gateway.reload()
    wait_until(
        "the reload has failed",
        lambda: metric(fleet.plan, "gateway_config_last_reload_successful") == 0,
        RELOAD_SECONDS,
    )
    assert "nonsense" in fleet.gateway.logged()
    assert contexts(fleet) == {None}
