"""A model's thought on its way to DB-GPT's programs: in the field that those of 0.7.1 and later have, or in the text.

The models here do not think, so the beginning of their text, up to something that is in there anyway, is called that.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from proxy.types import Json, JsonObject
from tests.interop import programs
from tests.interop.clients import PipedClients
from tests.interop.clusters import CERTAIN, CONTROLLER, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.programs import GatewayPlan, Program, wait_until
from tests.interop.streams import metric
from tests.interop.wire import at, post_events, post_json, text_at

pytestmark = pytest.mark.parametrize("cluster", [CONTROLLER], indirect=True, scope="session")

TOKENS = 40
SAID: list[Json] = [{"role": "human", "content": "Hello"}]


class Thoughts(NamedTuple):
    """A worker's own answer in parts: a tag in the middle of it, and what stands before and behind."""

    thought: str
    tag: str
    text: str


class Thinkers(NamedTuple):
    """DB-GPT's API server and Python clients in front of a gateway, and what their models say.

    DB-GPT's programs are said to know the thought of PLAIN, and not that of CERTAIN.
    """

    api: str
    clients: PipedClients
    said: dict[str, Thoughts]


def parted(text: str) -> Thoughts:
    """The text in parts."""
    for place in range(len(text) // 3, len(text) - 3):
        tag = text[place : place + 2]
        if tag.isalpha() and text.count(tag) == 1:
            thought, rest = text.split(tag)
            return Thoughts(thought.lstrip(), tag, rest.lstrip())
    raise AssertionError(f"there are no two letters in {text!r} that are there once")


@pytest.fixture(scope="module")
def thinkers(cluster: Cluster, own: Own) -> Iterator[Thinkers]:
    """A DB-GPT cluster of its own with a gateway in front of the FastChat workers of the other one."""
    pythons, folder, ports = cluster.pythons, cluster.folder / "thinkers", programs.free_ports(4)
    found = {model: parted(own.answer(model, SAID, max_new_tokens=TOKENS).text) for model in (PLAIN, CERTAIN)}
    controller = f"http://127.0.0.1:{ports[0]}"
    known = {PLAIN: "true", CERTAIN: "false"}
    settings = "models:\n" + "".join(
        f"  {model}: {{reasoning: {{begins_inside: true, close: '{said.tag}', dbgpt: {known[model]}}}}}\n"
        for model, said in found.items()
    )
    flags = [flag for model in found for flag in ("--fastchat-worker", cluster.workers[model].url)]
    plan = GatewayPlan(ports[1], ports[2], controller, tuple(flags), settings)
    with ExitStack() as stack:

        def keep(program: Program) -> Program:
            stack.callback(program.kill)
            return program

        keep(programs.dbgpt_controller(pythons, folder, ports[0]))
        keep(programs.gateway(folder, plan))
        wait_until("the workers are used", lambda: metric(plan, "gateway_worker_up") == 2, 30)
        programs.wait_registered(controller, cluster.names(), plan.port, 30)
        keep(programs.dbgpt_api_server(pythons, folder, ports[3], controller))
        clients = PipedClients(pythons.dbgpt, "dbgpt_clients.py", folder, controller)
        stack.callback(clients.close)
        yield Thinkers(f"http://127.0.0.1:{ports[3]}/api/v1", clients, found)


def chat(model: str) -> JsonObject:
    messages: list[Json] = [{"role": "user", "content": "Hello"}]
    return {"model": model, "messages": messages, "temperature": 1e-6, "max_tokens": TOKENS}


def joined(events: list[JsonObject], name: str) -> str:
    """One field of all deltas, put together."""
    deltas = [at(event, "choices", 0, "delta") for event in events]
    return "".join(str(delta.get(name) or "") for delta in deltas if isinstance(delta, dict))


def visible(text: str) -> str:
    """The text as the API server streams it: it drops replacement characters."""
    return text.replace("\ufffd", "")


def test_newer_programs_have_the_thought_in_a_field_of_its_own(thinkers: Thinkers) -> None:
    """The API server passes it on as `reasoning_content`, streamed and in one piece; the clients read it too."""
    thought, _, text = thinkers.said[PLAIN]
    whole = post_json(f"{thinkers.api}/chat/completions", chat(PLAIN))
    message = at(whole, "choices", 0, "message")
    assert (at(message, "reasoning_content"), at(message, "content")) == (thought, text)
    events = post_events(f"{thinkers.api}/chat/completions", {**chat(PLAIN), "stream": True})
    assert joined(events, "reasoning_content") == visible(thought)
    assert joined(events, "content") == visible(text)
    asked: JsonObject = {"model": PLAIN, "messages": SAID, "temperature": 1e-6, "max_new_tokens": TOKENS}
    generated = thinkers.clients.call("generate", **asked)
    # DB-GPT itself writes both into one text where it makes an object of what it read.
    assert thought in text_at(generated, "text")
    assert text_at(generated, "text").endswith(text)


def test_older_programs_have_it_in_the_text(thinkers: Thinkers) -> None:
    """Between tags, and no frame takes anything back of what was there before."""
    thought, tag, text = thinkers.said[CERTAIN]
    expected = f"<think>\n{thought}\n{tag}\n\n{text}"
    whole = post_json(f"{thinkers.api}/chat/completions", chat(CERTAIN))
    assert text_at(whole, "choices", 0, "message", "content") == expected
    events = post_events(f"{thinkers.api}/chat/completions", {**chat(CERTAIN), "stream": True})
    assert joined(events, "content") == visible(expected)
