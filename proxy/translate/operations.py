"""What a client's rule can ask of any worker: the one vocabulary between dialect packs and backend packs.

A dialect pack turns its client's request into the arguments of an operation and makes its client's answer of the
results. A backend pack does the same towards its workers. Neither knows the other's fields.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from proxy.types import Json, JsonObject


class Operation(NamedTuple):
    """arguments and results: each name with what it is; any of them may be null, which means that it was not said.

    light: a mere question, such as a count of tokens, which takes no place at a worker and waits for none.
    """

    arguments: dict[str, str]
    results: dict[str, str]
    light: bool = False


OPERATIONS: Final[dict[str, Operation]] = {
    "generate": Operation(
        arguments={
            "messages": "list of {role, content}; role is system, user or assistant; content is a string, or a list of "
            "{type: text, text} and {type: image, url}",
            "prompt": "raw text to go on from, without a template; instead of messages",
            "max_tokens": "integer: most tokens of the answer",
            "temperature": "number",
            "top_p": "number",
            "top_k": "integer; neither 0 nor -1 is ever given: both mean that it is off",
            "stop": "list of strings, each of which ends the answer",
            "stop_token_ids": "list of integers",
            "presence_penalty": "number",
            "frequency_penalty": "number",
            "repetition_penalty": "number",
            "seed": "integer",
            "echo": "boolean: the answer begins with the prompt",
            "logprobs": "integer: how many alternatives to tell the probabilities of",
            "best_of": "integer",
            "use_beam_search": "boolean",
            "user": "string: who asks, in the client's own words",
        },
        results={
            "text": "string: the answer",
            "finish": "string: why it ended; null before the end",
            "usage": "{prompt_tokens, completion_tokens, total_tokens}",
            "reasoning": "string: the thought before the answer, where the model shows one apart",
            "logprobs": "{text_offset, tokens, token_logprobs, top_logprobs}",
        },
    ),
    "embed": Operation(
        arguments={
            "input": "list of strings, or of lists of token ids",
            "encoding_format": "string: float or base64",
            "user": "string: who asks, in the client's own words",
        },
        results={
            "vectors": "list of vectors, in the order of input; strings where the encoding is base64",
            "usage": "{prompt_tokens, total_tokens}",
        },
    ),
    "count": Operation(
        arguments={
            "prompt": "raw text",
            "messages": "as in generate; instead of a prompt",
        },
        results={"count": "integer: tokens; null where the worker cannot tell"},
        light=True,
    ),
}


def summed(usages: Iterable[Json]) -> Json:
    """The usage of several answers together, each whole number added up; null where none has told any."""
    told = [usage for usage in usages if isinstance(usage, dict)]
    total: JsonObject = {}
    for usage in told:
        for name, count in usage.items():
            known = total.get(name, 0)
            if type(count) is int and type(known) is int:
                total[name] = known + count
    return total if told else None
