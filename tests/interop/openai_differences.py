"""Where the gateway means to answer otherwise than FastChat's OpenAI server: what each difference makes of its reply.

``docs/openai.md`` has a row of each name, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from proxy.types import Json, JsonObject
from tests.interop.openai_questions import Question

Reply = Any
"""As ``reply_of`` gives it: JSON, in which ``ANY`` may stand for what is not known beforehand."""


class _Any:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "..."


ANY: Any = _Any()


@dataclass(frozen=True)
class Difference:
    """``change`` turns FastChat's reply into the gateway's, where ``concerns`` says that it is one of these."""

    name: str
    concerns: Callable[[Question, Reply], bool]
    change: Callable[[Reply], None]


def asked(*names: str) -> Callable[[Question, Reply], bool]:
    """Whether the question is one of these."""
    return lambda question, _: question.name in names


def refused(code: int = 40001, status: int = 400) -> Callable[[Reply], None]:
    """The gateway refuses the request with this code."""

    def change(reply: Reply) -> None:
        assert reply["body"] != {"object": "error", "message": ANY, "code": code}, "it is refused just so"
        reply.update(status=status, type="application/json", body={"object": "error", "message": "", "code": code})

    return change


def is_error(_: Question, reply: Reply) -> bool:
    return isinstance(reply["body"], dict) and reply["body"].get("object") == "error"


def tell_in_own_words(reply: Reply) -> None:
    reply["body"]["message"] = ANY


def add_openais_error(reply: Reply) -> None:
    reply["body"]["error"] = {"message": ANY, "type": "invalid_request_error", "param": ANY, "code": ANY}


def tell_more_than_detail(reply: Reply) -> None:
    assert set(reply["body"]) == {"detail"}
    reply["body"] = {"object": "error", "message": ANY, "code": 40001, "detail": ANY}


def events(reply: Reply) -> list[Any]:
    """The events of a stream but for its end."""
    return [event for event in reply["body"] if isinstance(event, dict)]


def is_stream(_: Question, reply: Reply) -> bool:
    return isinstance(reply["body"], list)


def fill_events(reply: Reply) -> None:
    kind = "chat.completion.chunk" if events(reply)[0]["id"] == "chatcmpl-*" else "text_completion"
    for event in events(reply):
        event.update(object=kind, created="a time")


def has_several_answers(_: Question, reply: Reply) -> bool:
    return is_stream(_, reply) and sum(finish_of(event) is not None for event in events(reply)) > 1


def finish_of(event: Reply) -> Json:
    found: Json = event["choices"][0]["finish_reason"]
    return found


def finish_in_place(reply: Reply) -> None:
    """Each answer's end behind its text; the ends stand in the order of the answers."""
    found = events(reply)
    ends = [event for event in found if finish_of(event) is not None]
    reply["body"] = [*in_place([event for event in found if finish_of(event) is None], ends), "[DONE]"]


def in_place(texts: Iterable[Reply], ends: list[Reply]) -> list[Reply]:
    ordered: list[Reply] = []
    for event in texts:
        if ordered and event["choices"][0]["index"] != ordered[-1]["choices"][0]["index"]:
            ordered.append(ends.pop(0))
        ordered.append(event)
    return [*ordered, *ends]


def tell_usage(reply: Reply) -> None:
    last = {key: value for key, value in events(reply)[-1].items() if key != "choices"}
    usage = {"prompt_tokens": 89, "completion_tokens": 11, "total_tokens": 100}
    reply["body"][-1:] = [{**last, "choices": [], "usage": usage}, "[DONE]"]


def keep_the_first_token(reply: Reply) -> None:
    """With the whole prompt the model says something else."""
    reply["body"]["choices"][0]["message"]["content"] = ANY
    reply["body"]["choices"][0]["finish_reason"] = "stop"
    reply["body"]["usage"] = ANY


def tell_as_dbgpt(reply: Reply) -> None:
    """As its own tests have it; a whole answer has a place for a thought."""
    if isinstance(reply["body"], list):
        reply["body"] = ANY
    else:
        reply["body"]["choices"][0]["message"]["reasoning_content"] = None


def count_over_prompts(reply: Reply) -> None:
    """Where one prompt ends cannot be seen in FastChat's events; see the test of the texts by their index."""
    assert {event["choices"][0]["index"] for event in events(reply)} == {0}
    reply["body"] = ANY


DIFFERENCES = (
    Difference(
        "refused",
        asked(
            "chat with an unknown role",
            "chat with a message without a role",
            "chat with a message without content",
            "completion of no prompts",
            "completion of token ids",
            "embedding of nothing",
            "embedding of token ids",
        ),
        refused(),
    ),
    Difference(
        "types",
        asked(
            "chat with a temperature that is a number in a string",
            "chat with a stop that is a number",
            "completion of a prompt that is a number",
        ),
        refused(),
    ),
    Difference("no-messages", asked("chat with no messages"), refused()),
    Difference("empty-prompt", asked("completion of an empty prompt"), refused()),
    Difference("no-model", asked("embedding without a model"), refused()),
    Difference("own-check", asked("token check with an unknown model"), refused(40301)),
    Difference("own-check", asked("token check of nothing"), refused()),
    Difference("not-found", lambda _, reply: "detail" in reply["body"], tell_more_than_detail),
    Difference("words", is_error, tell_in_own_words),
    Difference("openai-error", is_error, add_openais_error),
    Difference("events", is_stream, fill_events),
    Difference("index", asked("completion streamed, two prompts"), count_over_prompts),
    Difference("own-chat", asked("own chat", "own chat streamed"), tell_as_dbgpt),
    Difference("ends", has_several_answers, finish_in_place),
    Difference("usage", asked("chat streamed with the usage"), tell_usage),
    Difference(
        "first-token",
        asked("chat without a limit", "chat with a null for a limit", "chat wanting more than fits"),
        keep_the_first_token,
    ),
)


def expected(question: Question, theirs: JsonObject) -> Reply:
    """What the gateway replies, by FastChat's reply and the differences that concern it."""
    reply = deepcopy(theirs)
    for each in DIFFERENCES:
        if each.concerns(question, reply):
            each.change(reply)
    return reply
