"""DB-GPT's `dbgpt_client`, unchanged, with the gateway in the place of DB-GPT's application."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.types import Json, JsonObject
from tests.interop.clients import ClientError, PipedClients
from tests.interop.clusters import CERTAIN, CONTROLLER, MORTAL, PLAIN, Cluster
from tests.interop.own import Own
from tests.interop.programs import wait_until
from tests.interop.streams import metric
from tests.interop.wire import at, list_at, post_events, text_at

TOKENS = 40
LONG = 1800
# The client always says what it does not want, so every other field arrives as a null.
GREEDY: JsonObject = {"temperature": 0.0, "max_new_tokens": TOKENS}
SAID = "它说哪些语言？ Größe: 🙂"
DIALOGUE: list[Json] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "What is a gateway?"},
    {"role": "assistant", "content": "It stands between two networks."},
    {"role": "user", "content": SAID},
]
AS_DBGPT: list[Json] = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "human", "content": "What is a gateway?"},
    {"role": "ai", "content": "It stands between two networks."},
    {"role": "human", "content": SAID},
]


def base(cluster: Cluster) -> str:
    """What is given to the client as its `api_base`."""
    return f"http://127.0.0.1:{cluster.plan.port}/api/v2"


def visible(text: str) -> str:
    """The text without its last half character, of which a stream shows nothing."""
    return text.rstrip("\ufffd")


def joined(chunks: list[Json]) -> str:
    return "".join(str(at(chunk, "choices", 0, "delta", "content") or "") for chunk in chunks)


@pytest.mark.parametrize("model", [PLAIN, CERTAIN])
def test_chat_is_the_workers_own(cluster: Cluster, clients: PipedClients, own: Own, model: str) -> None:
    """A chat in one piece: the text, the usage and the reason of the end are the worker's."""
    answer = own.answer(model, [{"role": "human", "content": SAID}], max_new_tokens=TOKENS)
    got = clients.call("app_chat", base=base(cluster), model=model, messages=SAID, conv_uid="conversation-7", **GREEDY)
    assert text_at(got, "choices", 0, "message", "content") == answer.text
    assert at(got, "choices", 0, "finish_reason") == answer.finish_reason
    assert (at(got, "id"), at(got, "model")) == ("conversation-7", model)
    assert at(got, "usage", "prompt_tokens") == at(answer.usage, "prompt_tokens")


def test_streamed_chat_is_the_same_chat(cluster: Cluster, clients: PipedClients, own: Own) -> None:
    """What is new in each chunk joins to the text; the last one has the reason and the usage."""
    answer = own.answer(PLAIN, AS_DBGPT, max_new_tokens=TOKENS)
    chunks = list_at(clients.call("app_chat_stream", base=base(cluster), model=PLAIN, messages=DIALOGUE, **GREEDY))
    assert joined(chunks) == visible(answer.text)
    assert len(chunks) > len(answer.text) / 20, "the text came in a few large pieces"
    assert [at(chunk, "choices", 0, "finish_reason") for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert at(chunks[-1], "choices", 0, "finish_reason") == answer.finish_reason
    assert at(chunks[-1], "usage", "prompt_tokens") == at(answer.usage, "prompt_tokens")
    assert len({text_at(chunk, "id") for chunk in chunks}) == 1


def test_a_stream_of_whole_texts(cluster: Cluster, clients: PipedClients, own: Own) -> None:
    """With `incremental=False` each chunk has all of the text, where the client looks and where its server puts it."""
    answer = own.answer(CERTAIN, [{"role": "human", "content": SAID}], max_new_tokens=TOKENS)
    asked: JsonObject = {"model": CERTAIN, "messages": SAID, "incremental": False, **GREEDY}
    chunks = list_at(clients.call("app_chat_stream", base=base(cluster), **asked))
    texts = [text_at(chunk, "choices", 0, "delta", "content") for chunk in chunks]
    assert texts[-1] == visible(answer.text)
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert len(set(texts)) > 2
    events = post_events(f"{base(cluster)}/chat/completions", {**asked, "stream": True})
    assert at(events[-1], "object") == "chat.completion"
    assert at(events[-1], "choices", 0, "message", "content") == texts[-1]


REFUSED: list[tuple[JsonObject, str, str]] = [
    ({"model": "absent"}, "invalid_model", "absent"),
    ({"chat_mode": "chat_app", "chat_param": "app"}, "invalid_chat_mode", "chat_app"),
    ({"chat_mode": "chat_knowledge", "chat_param": "space"}, "invalid_chat_mode", "chat_knowledge"),
    ({"temperature": 9.0}, "invalid_request_error", "temperature"),
    ({"max_new_tokens": 0}, "invalid_request_error", "max_tokens"),
    ({"messages": ""}, "invalid_messages", "messages"),
    ({"messages": "数据库和网关 " * 700}, "context_length_exceeded", "2048"),
]


@pytest.mark.parametrize(("changed", "code", "named"), REFUSED)
def test_what_is_refused_is_an_error_object(
    cluster: Cluster, clients: PipedClients, changed: JsonObject, code: str, named: str
) -> None:
    """The client gives its user the error as an object, also where a stream was asked for, and no slot is lost."""
    asked: JsonObject = {"model": PLAIN, "messages": SAID, **changed}
    whole = clients.call("app_chat", base=base(cluster), **asked)
    (streamed,) = list_at(clients.call("app_chat_stream", base=base(cluster), **asked))
    assert whole == streamed
    assert at(whole, "detail", "error", "code") == code
    assert named in text_at(whole, "detail", "error", "message")
    assert at(whole, "err_msg") == at(whole, "detail", "error", "message")
    assert cluster.queue_length(PLAIN) == 0


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("fleet", [CONTROLLER], indirect=True, scope="session")
def test_a_stream_that_breaks_off_is_told_in_a_chunk(fleet: Cluster) -> None:
    """The client survives it, with all that had come, and what it was shows the cause."""
    client = PipedClients(fleet.pythons.dbgpt, "dbgpt_clients.py", fleet.folder, fleet.dbgpt_controller)
    asked: JsonObject = {"model": MORTAL, "messages": SAID, "temperature": 0.0, "max_new_tokens": LONG}
    before = begun(fleet)
    try:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.call, "app_chat_stream", base=base(fleet), **asked)
            wait_until("the answer has begun", lambda: begun(fleet) == before + 1, 20, interval=0.02)
            fleet.kill_worker(fleet.workers[MORTAL])
            try:
                chunks = list_at(running.result())
            except ClientError as error:
                pytest.fail(f"the client broke: {error}")
    finally:
        client.close()
    assert text_at(chunks[-1], "choices", 0, "delta", "content").startswith("[SERVER_ERROR]")
    assert at(chunks[-1], "choices", 0, "finish_reason") == "stop"
    assert len(joined(chunks[:-1])) > 0


def begun(cluster: Cluster) -> float:
    """How many streamed chats of the application have begun."""
    return metric(cluster.plan, "gateway_time_to_first_frame_seconds_count", route="app_chat_stream")
