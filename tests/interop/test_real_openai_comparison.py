"""FastChat's own OpenAI server and the gateway in front of the same worker, asked the same and compared field by field.

What differs is meant: `differing.py` has each difference as what it makes of FastChat's reply, `docs/openai.md` says
why, and any other difference fails here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from proxy.types import Json, JsonObject
from tests.interop import programs
from tests.interop.clusters import DIRECT, PLAIN, Cluster
from tests.interop.fastchat_programs import openai_server
from tests.interop.openai_differences import DIFFERENCES, expected
from tests.interop.openai_questions import QUESTIONS, Question
from tests.interop.openai_replies import reply_of
from tests.interop.programs import REPOSITORY
from tests.interop.wire import at, int_at, list_at, post_events, post_json, text_at

CLIENT_SECONDS = 60.0

pytestmark = pytest.mark.parametrize("cluster", [DIRECT], indirect=True, scope="session")


@pytest.fixture(scope="module")
def theirs(cluster: Cluster) -> Iterator[str]:
    """The address of FastChat's server."""
    (port,) = programs.free_ports(1)
    program = openai_server(cluster.pythons, cluster.folder, port, cluster.fastchat_controller)
    yield f"http://127.0.0.1:{port}"
    program.kill()


@pytest.fixture(scope="module")
def ours(cluster: Cluster) -> str:
    """The address of the gateway."""
    return f"http://127.0.0.1:{cluster.plan.port}"


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_the_gateway_answers_as_fastchats_server_does(
    cluster: Cluster, theirs: str, ours: str, question: Question
) -> None:
    assert reply_of(ours, question) == expected(question, reply_of(theirs, question))


def test_every_difference_is_told_with_its_reason(cluster: Cluster) -> None:
    """The page has a row for each difference, and none for one that is no more."""
    page = (REPOSITORY / "docs" / "openai.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE))
    assert told == {each.name for each in DIFFERENCES} | {"replacement"}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_is_the_same_text_as_the_whole_answer(ours: str, path: str) -> None:
    """Replacement characters and all."""
    said: JsonObject = {"prompt": "Größe? 🙂", "messages": [{"role": "user", "content": "Größe? 🙂"}]}
    body: JsonObject = {"model": PLAIN, "temperature": 0, "max_tokens": 60, **said}
    choice = at(post_json(f"{ours}{path}", body), "choices", 0)
    assert isinstance(choice, dict)
    whole = text_at(choice, "text") if "text" in choice else text_at(choice, "message", "content")
    assert "\ufffd" in whole
    assert "".join(texts_of(post_events(f"{ours}{path}", {**body, "stream": True}))[0]) == whole


def test_answers_to_several_prompts_are_told_apart(theirs: str, ours: str) -> None:
    """FastChat's server gives them all the index 0 in a stream; in a whole answer it counts as the gateway does."""
    body: JsonObject = {"model": PLAIN, "temperature": 0, "max_tokens": 8, "prompt": ["The quick", "Größe"], "n": 2}
    whole = [text_at(each, "text") for each in list_at(post_json(f"{theirs}/v1/completions", body), "choices")]
    streamed = texts_of(post_events(f"{ours}/v1/completions", {**body, "stream": True}))
    assert {index: "".join(pieces) for index, pieces in streamed.items()} == dict(enumerate(whole))


def texts_of(events: list[JsonObject]) -> dict[int, list[str]]:
    """The new texts of a stream by the index of the answer."""
    found: dict[int, list[str]] = {}
    for event in events:
        choice = at(event, "choices", 0)
        assert isinstance(choice, dict)
        delta = choice.get("delta", {"content": choice.get("text")})
        assert isinstance(delta, dict)
        found.setdefault(int_at(choice, "index"), []).append(str(delta.get("content") or ""))
    return found


def used(cluster: Cluster, url: str, *flags: str) -> JsonObject:
    """What OpenAI's Python client gets at an address, by case."""
    script = str(REPOSITORY / "tests" / "interop" / "openai_client.py")
    done = subprocess.run(
        [str(cluster.pythons.clients), script, f"{url}/v1", PLAIN, *flags],
        env=programs.program_environment(cluster.folder),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: JsonObject = json.loads(done.stdout)
    return found


def settled(value: Json) -> Json:
    """A case without what is known to differ: words of errors, replacement characters in streams, last digits."""
    if isinstance(value, dict):
        return {key: settled(each) for key, each in value.items() if key != "message" or isinstance(each, dict)}
    if isinstance(value, list):
        return [each for each in map(settled, value) if each not in ([None, None], ["", None])]
    if isinstance(value, str):
        return value.replace("\ufffd", "") or None
    return round(value, 3) if isinstance(value, float) else value


def test_openais_client_is_served_as_by_fastchats_server(cluster: Cluster, theirs: str, ours: str) -> None:
    """Unchanged but for the address: blocking and not, whole and streamed, vectors, models, and what it raises."""
    expected, found = used(cluster, theirs), used(cluster, ours)
    assert len(found) > 10
    for name, case in expected.items():
        assert settled(found[name]) == settled(case), name


def test_openais_client_finds_more_than_there(cluster: Cluster, theirs: str, ours: str) -> None:
    there, here = used(cluster, theirs, "--additions"), used(cluster, ours, "--additions")
    assert at(here, "one_model", "value") == PLAIN
    assert at(here, "no_model", "error") == "BadRequestError"
    assert text_at(here, "chat_helper", "value", 0)
    assert at(there, "chat_helper", "value", 0) is None, "FastChat's server names the object of its events now"
    assert at(here, "usage_streamed", "value", "choices") == 0
    assert int_at(here, "usage_streamed", "value", "usage", "completion_tokens") == 2 * 23
    assert (at(here, "image", "error"), at(here, "image", "status")) == ("BadRequestError", 400)
