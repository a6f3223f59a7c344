"""One question put in each dialect that the gateway serves, and what its client makes of the answer."""

from __future__ import annotations

import json
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any, NamedTuple

from proxy.settings import Address
from proxy.types import Json, JsonObject
from tests.gateway.client import Reply, call, frames_of

USER = "Größe? 🙂"
SYSTEM = "Be brief. 简短"


class Said(NamedTuple):
    """What a client has at the end. error: what the stream, or the status, told of a failure; usage: tokens of the
    prompt and of the answer.
    """

    text: str
    finish: Json
    usage: tuple[Json, Json] | None
    error: str | None = None
    status: int = 200


Ask = Callable[[Address, str], Awaitable[Said]]


async def ask_dbgpt(address: Address, model: str) -> Said:
    """As DB-GPT asks a worker: frames with the whole text so far, each closed by a NUL."""
    messages: Json = [{"role": "system", "content": SYSTEM}, {"role": "human", "content": USER}]
    reply = await call(
        address, "POST", "/api/worker/generate_stream", {"model": model, "messages": messages, "max_new_tokens": 500}
    )
    frames = frames_of(reply.body)
    last = frames[-1]
    if last["error_code"]:
        before = str(frames[-2]["text"]) if len(frames) > 1 else ""
        return Said(before, None, None, str(last["text"]), reply.status)
    for earlier, later in pairwise(frames):
        assert str(later["text"]).startswith(str(earlier["text"]))
    return Said(str(last["text"]), last["finish_reason"], _usage(last.get("usage")), None, reply.status)


async def ask_openai(address: Address, model: str, path: str = "/v1/chat/completions") -> Said:
    """As OpenAI's clients ask: server-sent events with what is new."""
    body: JsonObject = {
        "model": model,
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}],
        "stream": True,
        "max_tokens": 500,
        "stream_options": {"include_usage": True},
    }
    reply = await call(address, "POST", path, body)
    if reply.status != 200:
        return Said("", None, None, _openai_error(reply.object), reply.status)
    events = [event.removeprefix("data: ") for event in reply.body.decode().split("\n\n") if event]
    assert events[-1] == "[DONE]", events[-3:]
    text, finish, usage = "", None, None
    for event in map(json.loads, events[:-1]):
        if "error" in event:
            return Said(text, None, None, _openai_error(event), reply.status)
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice.get("finish_reason") or finish
        usage = event.get("usage") or usage
    return Said(text, finish, _usage(usage), None, reply.status)


async def ask_ollama(address: Address, model: str) -> Said:
    """As Ollama's clients ask: lines with what is new."""
    messages: Json = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": USER}]
    body: JsonObject = {"model": model, "messages": messages, "options": {"num_predict": 500}}
    reply = await call(address, "POST", "/api/chat", body)
    if reply.status != 200:
        return Said("", None, None, str(reply.object["error"]), reply.status)
    lines = _lines(reply)
    told = [line for line in lines if "error" not in line]
    text = "".join(line["message"]["content"] for line in told)
    if len(told) < len(lines):
        assert "error" in lines[-1], "nothing comes after an error"
        return Said(text, None, None, str(lines[-1]["error"]), reply.status)
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    last = lines[-1]
    usage = (last["prompt_eval_count"], last["eval_count"]) if "eval_count" in last else None
    return Said(text, last["done_reason"], usage, None, reply.status)


async def ask_dbgpt_api(address: Address, model: str) -> Said:
    """As the clients of DB-GPT's API server ask, which are OpenAI's."""
    return await ask_openai(address, model, "/api/v1/chat/completions")


DIALECTS: dict[str, Ask] = {"dbgpt": ask_dbgpt, "openai": ask_openai, "dbgpt-api": ask_dbgpt_api, "ollama": ask_ollama}


def any_text(seed: int, pieces: int = 12) -> list[str]:
    """Pieces of a text in which everything is that a program may stumble over, the same for each seed."""
    rng = random.Random(seed)
    hard = [
        "🙂",
        "👩‍👩‍👧",
        "é",
        "e\u0301",
        "你好",
        "�",
        "\u2028",
        "\x00",
        "\x1f",
        "\\",
        '"',
        "\n\n",
        "\r\n",
        "</s>",
        "data: [DONE]",
    ]
    plain = ["a", "Hello", " ", " world", ".", "ß"]
    return ["".join(rng.choices(rng.choice([hard, plain]), k=rng.randint(0, 3))) for _ in range(pieces)] + ["."]


def _usage(usage: Json) -> tuple[Json, Json] | None:
    return (usage["prompt_tokens"], usage["completion_tokens"]) if isinstance(usage, dict) else None


def _openai_error(body: JsonObject) -> str:
    error = body.get("error", body)  # FastChat's server, and DB-GPT's, have the message at the top
    assert isinstance(error, dict), body
    return str(error["message"])


def _lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.headers["content-type"] == "application/x-ndjson"
    *lines, rest = reply.body.split(b"\n")
    assert rest == b"", f"the stream ends within a line: {rest!r}"
    return [json.loads(line) for line in lines]
