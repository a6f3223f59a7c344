"""DB-GPT's API server in front of the gateway: what its users get is what the worker says."""

from __future__ import annotations

import pytest

from proxy.types import Json, JsonObject
from tests.interop.clusters import CERTAIN, PLAIN, Cluster
from tests.interop.own import Answer, Own
from tests.interop.wire import (
    HttpError,
    at,
    get_json,
    int_at,
    list_at,
    post_events,
    post_frames,
    post_json,
    post_object,
    text_at,
)

TOKENS = 40
# The API server drops a temperature of 0; FastChat decodes greedily below 1e-5.
GREEDY: JsonObject = {"temperature": 1e-6, "max_tokens": TOKENS}
CONTEXT_LENGTH = 2048

DIALOGUE: list[Json] = [
    {"role": "system", "content": "Answer briefly. 简短地回答。"},
    {"role": "user", "content": "What is a gateway?"},
    {"role": "assistant", "content": "It stands between two networks 🚪"},
    {"role": "user", "content": "它说哪些语言？ Größe: 🙂"},
]
ROLES = {"system": "system", "user": "human", "assistant": "ai"}


def as_dbgpt(messages: list[Json]) -> list[Json]:
    """OpenAI's messages with DB-GPT's names for the roles."""
    return [{"role": ROLES[text_at(each, "role")], "content": at(each, "content")} for each in messages]


def said(text: str) -> list[Json]:
    """A dialogue of one user message."""
    return [{"role": "user", "content": text}]


def visible(text: str) -> str:
    """The text as the API server streams it: it drops replacement characters."""
    return text.replace("\ufffd", "")


def finish_reasons(events: list[JsonObject]) -> list[Json]:
    reasons = [at(event, "choices", 0, "finish_reason") for event in events]
    return [reason for reason in reasons if reason is not None]


def last_usage(events: list[JsonObject]) -> JsonObject:
    usages = [event["usage"] for event in events if event.get("usage")]
    assert usages, events
    assert isinstance(usages[-1], dict)
    return usages[-1]


def check_usage(usage: Json, answer: Answer) -> None:
    """The usage is the worker's; its completion tokens are counted from nought, so one more is right, too."""
    prompt, completion = int_at(answer.usage, "prompt_tokens"), int_at(answer.usage, "completion_tokens")
    assert int_at(usage, "prompt_tokens") == prompt
    assert int_at(usage, "completion_tokens") in (completion, completion + 1)
    assert int_at(usage, "total_tokens") == prompt + int_at(usage, "completion_tokens")


def count(cluster: Cluster, model: str, prompt: str) -> int:
    return int_at(post_object(f"{cluster.workers[model].url}/count_token", {"model": model, "prompt": prompt}), "count")


def test_models_are_listed(cluster: Cluster) -> None:
    """The API server lists each model of the fleet."""
    listed = list_at(get_json(f"{cluster.api}/models"), "data")
    assert {text_at(each, "id") for each in listed} == set(cluster.workers)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_chat_equals_the_workers_own_answer(cluster: Cluster, own: Own, model: str) -> None:
    """A chat gives the text, the finish reason and the usage that the worker gives for FastChat's own prompt."""
    answer = own.answer(model, as_dbgpt(DIALOGUE), max_new_tokens=TOKENS)
    got = post_json(f"{cluster.api}/chat/completions", {"model": model, "messages": DIALOGUE, **GREEDY})
    assert text_at(got, "choices", 0, "message", "content") == answer.text
    assert at(got, "choices", 0, "message", "role") == "assistant"
    assert at(got, "choices", 0, "finish_reason") == answer.finish_reason
    check_usage(at(got, "usage"), answer)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_streamed_chat_is_the_same_chat(cluster: Cluster, own: Own, model: str) -> None:
    """The deltas of a streamed chat join to the worker's text, with one role event, one finish event and a usage."""
    answer = own.answer(model, as_dbgpt(DIALOGUE), max_new_tokens=TOKENS)
    body: JsonObject = {"model": model, "messages": DIALOGUE, "stream": True, **GREEDY}
    events = post_events(f"{cluster.api}/chat/completions", body)
    assert at(events[0], "choices", 0, "delta") == {"role": "assistant"}
    deltas = [at(event, "choices", 0, "delta", "content") for event in events[1:]]
    assert "".join(str(delta) for delta in deltas if delta) == visible(answer.text)
    assert len([delta for delta in deltas if delta]) > len(answer.text) / 20, "the text came in a few large pieces"
    assert finish_reasons(events) == [answer.finish_reason]
    assert len({event["id"] for event in events}) == 1
    check_usage(last_usage(events), answer)


def test_an_answer_that_ends_of_itself(cluster: Cluster, own: Own) -> None:
    """An answer that the model ends says so once, streamed and not."""
    questions = [said(f"Question {number}?") for number in range(50)]
    own.prepare(PLAIN, [as_dbgpt(each) for each in questions])
    tried = ((each, own.answer(PLAIN, as_dbgpt(each), max_new_tokens=TOKENS)) for each in questions)
    question, answer = next((each, answer) for each, answer in tried if answer.finish_reason == "stop" and answer.text)
    body: JsonObject = {"model": PLAIN, "messages": question, **GREEDY}
    whole = post_json(f"{cluster.api}/chat/completions", body)
    events = post_events(f"{cluster.api}/chat/completions", {**body, "stream": True})
    assert text_at(whole, "choices", 0, "message", "content") == answer.text
    assert at(whole, "choices", 0, "finish_reason") == "stop"
    deltas = [at(event, "choices", 0, "delta", "content") for event in events[1:]]
    assert "".join(str(delta) for delta in deltas if delta) == visible(answer.text)
    assert finish_reasons(events) == ["stop"]


def test_stop_string_ends_the_answer(cluster: Cluster, own: Own) -> None:
    """A stop string of the caller ends the answer before it, and is not part of it."""
    free = own.answer(PLAIN, as_dbgpt(said("Hi")), max_new_tokens=TOKENS).text
    stop = next(free[i : i + 4] for i in range(8, len(free)) if "\ufffd" not in free[i : i + 4])
    body: JsonObject = {"model": PLAIN, "messages": said("Hi"), "stop": [stop, "never said"], **GREEDY}
    got = post_json(f"{cluster.api}/chat/completions", body)
    assert text_at(got, "choices", 0, "message", "content") == free[: free.index(stop)]
    assert at(got, "choices", 0, "finish_reason") == "stop"
    events = post_events(f"{cluster.api}/chat/completions", {**body, "stream": True})
    assert finish_reasons(events) == ["stop"]


def test_several_choices(cluster: Cluster, own: Own) -> None:
    """With n the API server asks several times at once, and each choice is the worker's answer."""
    answer = own.answer(CERTAIN, as_dbgpt(said("Hi")), max_new_tokens=TOKENS)
    body: JsonObject = {"model": CERTAIN, "messages": said("Hi"), "n": 3, **GREEDY}
    got = post_json(f"{cluster.api}/chat/completions", body)
    texts = [text_at(choice, "message", "content") for choice in list_at(got, "choices")]
    assert texts == [answer.text] * 3


def test_completion_equals_the_workers_own_answer(cluster: Cluster, own: Own) -> None:
    """A completion's prompt goes to the worker as it is, without a conversation template."""
    prompt = "SELECT name, 数据 FROM"
    answer = own.answer(PLAIN, prompt, max_new_tokens=TOKENS)
    got = post_json(f"{cluster.api}/completions", {"model": PLAIN, "prompt": prompt, **GREEDY})
    assert text_at(got, "choices", 0, "text") == answer.text
    assert at(got, "choices", 0, "finish_reason") == answer.finish_reason
    check_usage(at(got, "usage"), answer)


def test_streamed_completion_is_the_same_completion(cluster: Cluster, own: Own) -> None:
    """The texts of a streamed completion join to the worker's text, with one finish event."""
    prompt = "SELECT name, 数据 FROM"
    answer = own.answer(PLAIN, prompt, max_new_tokens=TOKENS)
    body: JsonObject = {"model": PLAIN, "prompt": prompt, "stream": True, **GREEDY}
    events = post_events(f"{cluster.api}/completions", body)
    assert "".join(text_at(event, "choices", 0, "text") for event in events) == visible(answer.text)
    assert finish_reasons(events) == [answer.finish_reason]
    check_usage(last_usage(events), answer)


def test_completion_with_nulls(cluster: Cluster) -> None:
    """A null counts as not given where DB-GPT's own worker takes one, else the parameter is named."""
    taken: JsonObject = dict.fromkeys(("top_p", "top_k", "stop", "presence_penalty", "frequency_penalty"))
    got = post_json(f"{cluster.api}/completions", {"model": CERTAIN, "prompt": "Hi", **taken})
    assert text_at(got, "choices", 0, "text")
    for name, told in (("temperature", "temperature"), ("max_tokens", "max_new_tokens")):
        with pytest.raises(HttpError) as caught:
            post_json(f"{cluster.api}/completions", {"model": CERTAIN, "prompt": "Hi", name: None})
        assert at(caught.value.body, "code") == 40001
        assert text_at(caught.value.body, "message").startswith(f"{told}: null")
    assert cluster.queue_length(CERTAIN) == 0


def test_echoed_completion(cluster: Cluster, own: Own) -> None:
    """A completion with echo begins with its prompt."""
    answer = own.answer(PLAIN, "The quick brown", max_new_tokens=8, echo=True)
    body: JsonObject = {"model": PLAIN, "prompt": "The quick brown", "echo": True, **GREEDY, "max_tokens": 8}
    got = text_at(post_json(f"{cluster.api}/completions", body), "choices", 0, "text")
    assert got == answer.text
    assert got.startswith("The quick brown")


def test_embeddings_equal_the_workers_own(cluster: Cluster) -> None:
    """Eleven texts come back as the vectors the worker itself gives, in the order of the texts."""
    texts: list[Json] = [f"text number {number}: {'数据库 ' * number}" for number in range(11)]
    url = f"{cluster.workers[PLAIN].url}/worker_get_embeddings"
    direct = list_at(post_object(url, {"model": PLAIN, "input": texts}), "embedding")
    data = list_at(post_json(f"{cluster.api}/embeddings", {"model": PLAIN, "input": texts}), "data")
    assert [each["index"] for each in data if isinstance(each, dict)] == list(range(11))
    for got, expected in zip(data, direct, strict=True):
        assert list_at(got, "embedding") == pytest.approx(expected, abs=1e-4)
    assert direct[0] != pytest.approx(direct[1], abs=1e-3), "the model gives the same vector to different texts"


def test_unknown_model(cluster: Cluster) -> None:
    """A model nobody serves is refused by the API server, which names the ones there are."""
    with pytest.raises(HttpError) as caught:
        post_json(f"{cluster.api}/chat/completions", {"model": "absent", "messages": said("Hi")})
    assert caught.value.status == 400
    assert at(caught.value.body, "code") == 40301
    assert PLAIN in text_at(caught.value.body, "message")


def test_prompt_beyond_the_context(cluster: Cluster, own: Own) -> None:
    """A prompt that cannot fit is refused with its length and the context's, streamed and not."""
    long = said("数据库和网关 " * 700)
    # The worker itself cuts what is too long; here it only says what FastChat's prompt is.
    tokens = count(cluster, PLAIN, own.answer(PLAIN, as_dbgpt(long), max_new_tokens=1).prompt)
    assert tokens > CONTEXT_LENGTH
    body: JsonObject = {"model": PLAIN, "messages": long, **GREEDY}
    with pytest.raises(HttpError) as caught:
        post_json(f"{cluster.api}/chat/completions", body)
    assert at(caught.value.body, "code") == 40303
    message = text_at(caught.value.body, "message")
    assert str(tokens) in message
    assert str(CONTEXT_LENGTH) in message
    events = post_events(f"{cluster.api}/chat/completions", {**body, "stream": True})
    assert at(events[-1], "error_code") == 40303
    assert text_at(events[-1], "text") == message


BAD_BODIES: list[tuple[JsonObject, int, str]] = [
    ({"model": PLAIN, "messages": [{"role": "human", "content": "Hi"}], "stop": 7}, 40001, "stop"),
    ({"model": PLAIN, "messages": [{"role": "human", "content": "Hi"}], "temperature": "hot"}, 40001, "temperature"),
    ({"model": PLAIN, "messages": [{"role": "human", "content": "Hi"}], "temperature": 9}, 40302, "temperature"),
    ({"model": PLAIN, "messages": [{"role": "parrot", "content": "Hi"}]}, 40001, "parrot"),
    ({"model": PLAIN, "prompt": None}, 40001, "prompt"),
    ({"model": PLAIN, "messages": []}, 40001, "messages"),
    ({"messages": [{"role": "human", "content": "Hi"}]}, 40001, "model"),
    ({"model": "absent", "messages": [{"role": "human", "content": "Hi"}]}, 40301, "absent"),
]


@pytest.mark.parametrize(("body", "code", "named"), BAD_BODIES)
def test_bad_requests_reach_no_worker(cluster: Cluster, body: JsonObject, code: int, named: str) -> None:
    """A bad request is one error frame that names the field, the same without streaming, and costs no slot."""
    frames = post_frames(f"{cluster.plan.url}/generate_stream", body)
    assert [frame["error_code"] for frame in frames] == [code]
    assert named in text_at(frames[0], "text")
    whole = post_object(f"{cluster.plan.url}/generate", body)
    assert (whole["error_code"], whole["text"]) == (code, frames[0]["text"])
    assert cluster.queue_length(PLAIN) == 0
