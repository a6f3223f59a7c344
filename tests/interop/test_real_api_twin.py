"""The gateway's own API beside DB-GPT's API server, which asks the same workers through it: the same answers."""

from __future__ import annotations

import pytest

from proxy.types import Json, JsonObject
from tests.interop.clusters import CERTAIN, PLAIN, Cluster
from tests.interop.wire import HttpError, at, get_json, int_at, list_at, post_events, post_json, text_at

TOKENS = 24
# DB-GPT's API server drops a temperature of 0; FastChat decodes greedily below 1e-5.
GREEDY: JsonObject = {"temperature": 1e-6, "max_tokens": TOKENS}
SAID: list[Json] = [
    {"role": "system", "content": "Answer briefly. 简短地回答。"},
    {"role": "user", "content": "What is a gateway?"},
    {"role": "assistant", "content": "It stands between two networks 🚪"},
    {"role": "user", "content": "它说哪些语言？ Größe: 🙂"},
]
CHAT: JsonObject = {"model": PLAIN, "messages": SAID, **GREEDY}
PROMPT: JsonObject = {"model": PLAIN, "prompt": "SELECT name, 数据 FROM", **GREEDY}
# The names and times of an answer are its own.
OWN = ("id", "created")


def own_api(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.plan.port}/api/v1"


def without(value: Json, *names: str) -> Json:
    """The value without these keys, wherever they are."""
    if isinstance(value, dict):
        return {key: without(each, *names) for key, each in value.items() if key not in names}
    return [without(each, *names) for each in value] if isinstance(value, list) else value


def refusal(url: str, body: Json) -> HttpError:
    with pytest.raises(HttpError) as caught:
        post_json(url, body)
    return caught.value


def test_the_same_models(cluster: Cluster) -> None:
    """The same list, with the same keys in each entry."""
    ours, theirs = get_json(f"{own_api(cluster)}/models"), get_json(f"{cluster.api}/models")
    assert without(ours, *OWN, "permission", "root") == without(theirs, *OWN, "permission", "root")
    for our, their in zip(list_at(ours, "data"), list_at(theirs, "data"), strict=True):
        assert (at(our, "id"), at(our, "root")) == (at(their, "id"), at(their, "root"))
        assert without(at(our, "permission"), *OWN) == without(at(their, "permission"), *OWN)


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"model": CERTAIN, "stop": ["a", "e"]}, {"messages": "Hi"}])
def test_the_same_chat(cluster: Cluster, more: JsonObject) -> None:
    """A chat in one piece differs in no field."""
    body = {**CHAT, **more}
    ours = post_json(f"{own_api(cluster)}/chat/completions", body)
    assert without(ours, *OWN) == without(post_json(f"{cluster.api}/chat/completions", body), *OWN)


@pytest.mark.parametrize("more", [{}, {"stop": "e"}, {"echo": True}])
def test_the_same_completion(cluster: Cluster, more: JsonObject) -> None:
    """A completion in one piece differs in no field."""
    body = {**PROMPT, **more}
    ours = post_json(f"{own_api(cluster)}/completions", body)
    assert without(ours, *OWN) == without(post_json(f"{cluster.api}/completions", body), *OWN)


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [("chat/completions", CHAT, ("delta", "content")), ("completions", PROMPT, ("text",))],
)
def test_the_same_stream(cluster: Cluster, path: str, body: JsonObject, text: tuple[str, ...]) -> None:
    """The same text, role, reasons and usage. Where a text is cut into events is each one's own matter."""
    ours = post_events(f"{own_api(cluster)}/{path}", {**body, "stream": True})
    theirs = post_events(f"{cluster.api}/{path}", {**body, "stream": True})
    assert told(ours, text) == told(theirs, text)
    if path == "chat/completions":
        assert without(ours[0], *OWN, "object") == without(theirs[0], *OWN)
        assert at(ours[1], "choices", 0, "delta", "reasoning_content") is None
    for event in theirs:
        assert set(event) <= set(ours[-1])
        choice, our_choice = at(event, "choices", 0), at(ours[-1], "choices", 0)
        assert isinstance(choice, dict)
        assert isinstance(our_choice, dict)
        assert set(choice) <= set(our_choice)


def test_the_same_stream_of_several_answers(cluster: Cluster) -> None:
    """One behind the other, each with its number; the tokens of all are told once more at the end."""
    body: JsonObject = {**CHAT, "n": 3, "stream": True}
    ours = post_events(f"{own_api(cluster)}/chat/completions", body)
    theirs = post_events(f"{cluster.api}/chat/completions", body)
    assert texts_by_index(ours) == texts_by_index(theirs)
    assert list(texts_by_index(ours)) == [0, 1, 2]
    whole = post_json(f"{cluster.api}/chat/completions", {**CHAT, "n": 3})
    assert ours[-1]["usage"] == at(whole, "usage")


def texts_by_index(events: list[JsonObject]) -> dict[int, str]:
    """The text of each choice of a stream of chat events."""
    texts: dict[int, str] = {}
    for choice in (choice for event in events for choice in list_at(event, "choices")):
        delta, index = at(choice, "delta"), int_at(choice, "index")
        assert isinstance(delta, dict)
        texts[index] = texts.get(index, "") + str(delta.get("content") or "").replace("\ufffd", "")
    return texts


def told(events: list[JsonObject], path: tuple[str, ...]) -> JsonObject:
    """What a stream tells altogether."""
    choices = [list_at(event, "choices")[0] for event in events]
    texts, reasons = [], []
    for choice in choices:
        found: Json = choice
        for step in path:
            found = found.get(step) if isinstance(found, dict) else None
        texts.append(str(found or ""))
        assert isinstance(choice, dict)
        reasons.append(choice["finish_reason"])
    usages = [event["usage"] for event in events if event.get("usage")]
    return {
        # DB-GPT's API server drops what the tokens made no character of, in streams only.
        "text": "".join(texts).replace("\ufffd", ""),
        "model": text_at(events[0], "model"),
        "first": at(events[0], "choices", 0, "index"),
        "finish": [reason for reason in reasons if reason],
        "usage": usages[-1],
    }


def test_the_same_vectors(cluster: Cluster) -> None:
    """Eleven texts, in one list and in one object."""
    body: JsonObject = {"model": PLAIN, "input": [f"text {number}" for number in range(11)]}
    ours, theirs = (post_json(f"{api}/embeddings", body) for api in (own_api(cluster), cluster.api))
    assert without(ours, "embedding", "usage") == without(theirs, "embedding", "usage")
    for our, their in zip(list_at(ours, "data"), list_at(theirs, "data"), strict=True):
        assert list_at(our, "embedding") == pytest.approx(list_at(their, "embedding"), abs=1e-4)


REFUSED: list[tuple[str, JsonObject]] = [
    ("chat/completions", {**CHAT, "model": "absent"}),
    ("chat/completions", {"messages": SAID}),
    ("chat/completions", {"model": PLAIN}),
    ("chat/completions", {**CHAT, "messages": [{"role": "parrot", "content": "Hi"}]}),
    ("chat/completions", {**CHAT, "temperature": 3}),
    ("chat/completions", {**CHAT, "temperature": "hot"}),
    ("chat/completions", {**CHAT, "top_p": 2}),
    ("chat/completions", {**CHAT, "max_tokens": 0}),
    ("chat/completions", {**CHAT, "n": 0}),
    ("chat/completions", {**CHAT, "messages": [{"role": "user", "content": "数据库和网关 " * 700}]}),
    ("completions", {**PROMPT, "model": "absent"}),
    ("completions", {"model": PLAIN}),
    ("completions", {**PROMPT, "prompt": [1, 2]}),
    ("completions", {**PROMPT, "temperature": -1}),
    ("embeddings", {"model": "absent", "input": "a"}),
    ("embeddings", {"model": PLAIN}),
    ("beta/relevance", {"model": PLAIN, "query": "q", "documents": ["a"]}),
]


@pytest.mark.parametrize(("path", "body"), REFUSED)
def test_the_same_refusals(cluster: Cluster, path: str, body: JsonObject) -> None:
    """The status, DB-GPT's code and the shape are the same; the words are our own."""
    ours, theirs = refusal(f"{own_api(cluster)}/{path}", body), refusal(f"{cluster.api}/{path}", body)
    assert ours.status == theirs.status
    assert at(ours.body, "code") == at(theirs.body, "code")
    assert at(ours.body, "object") == at(theirs.body, "object")
    assert text_at(ours.body, "message")
