"""The names that expressions read, with what they are. Which of them can be read where is the compiler's to say."""

from __future__ import annotations

from typing import Final, NamedTuple


class Seen(NamedTuple):
    """What a name is. members: the names within it, where they are always the same ones."""

    meaning: str
    members: frozenset[str] = frozenset()


NAMES: Final[dict[str, Seen]] = {
    "body": Seen("the request's JSON object; in `refusal` the JSON of the worker's answer, null where it is none"),
    "query": Seen("the query parameters"),
    "headers": Seen("the headers, names in lower case, without those that hold a secret"),
    "path": Seen("the parameters of the path"),
    "listener": Seen("the address that the request came to", frozenset({"port", "model"})),
    "gateway": Seen("the gateway itself", frozenset({"host", "port", "version", "default_model", "requests"})),
    "now": Seen("the time of the request, in whole seconds since 1970"),
    "request_id": Seen("32 random hexadecimal digits of the request's own"),
    "worker": Seen(
        "the chosen worker and model",
        frozenset(
            {
                *("model", "public_name", "address", "backend", "context_length", "conversation", "kinds"),
                *("embedding_size", "images", "defaults", "reasoning", "key"),
            }
        ),
    ),
    "models": Seen(
        "each known model: `model`, `kind`, `up`, `offered`, `address`, `context_length`; in `probe` those asked for"
    ),
    "steps": Seen("the values that the steps before it have set"),
    "item": Seen("the element, inside `each`"),
    "index": Seen("its position, counted from 0"),
    "batch": Seen("the slice that is asked for"),
    "request": Seen("the body as it was mapped for the new worker"),
    "tokens": Seen("how many tokens had come of a lost stream"),
    "chunk": Seen("the worker's frame"),
    "text": Seen(
        "the answer's text; in `resume` and `echoed` what had come of a lost stream, in `errors.yaml` what the client "
        "has already, in `refusal` the worker's answer"
    ),
    "new_text": Seen("what `text` has that the frame before had not"),
    "reasoning": Seen("the thought before the answer; null where there is none"),
    "new_reasoning": Seen("what `reasoning` has that the frame before had not"),
    "finish": Seen("why the answer ended; null before its end"),
    "usage": Seen("the tokens of prompt and answer"),
    "logprobs": Seen("the probabilities of tokens"),
    "elapsed": Seen("the seconds until the answer's first byte, and in all", frozenset({"first", "total"})),
    "vectors": Seen("the vectors, in the order of the texts"),
    "count": Seen("how many tokens there are; null where the worker cannot tell"),
    "upstream": Seen("the worker's answer, the first one of a batch"),
    "results": Seen("the results of the operation for each element, in their order"),
    "answers": Seen("the worker's answers to all parts of a batch"),
    "call": Seen("the arguments of the operation"),
    "error": Seen("what went wrong", frozenset({"kind", "message", "field", "code", "status", "upstream_code"})),
    "status": Seen("the HTTP status of the worker's answer"),
    "answer": Seen("the worker's answer to a probe"),
    "model": Seen("the name of the model"),
    "kinds": Seen("the kinds of the model, as far as they are known"),
}
