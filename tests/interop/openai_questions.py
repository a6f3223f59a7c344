"""What clients of FastChat's OpenAI server ask, well and badly: the questions of the comparison with the gateway.

All are greedy where they get as far as the model, so that both sides have one right answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxy.types import Json, JsonObject
from tests.interop.clusters import PLAIN

HELLO: Json = [{"role": "user", "content": "What is a gateway?"}]
DIALOGUE: Json = [
    {"role": "system", "content": "Be brief. 简短"},
    {"role": "user", "content": "Größe? 🙂"},
    {"role": "assistant", "content": "Ja."},
    {"role": "user", "content": "数据"},
]
PARTS: Json = [
    {
        "role": "user",
        "content": [{"type": "text", "text": "The quick"}, {"type": "text", "text": "brown fox"}],
    }
]
LONG: Json = [{"role": "user", "content": "long " * 300}]
STOPS: Json = ["e", "a"]


@dataclass(frozen=True)
class Question:
    """One request. ``body`` is sent as JSON, or as it is where it is bytes; None is no body."""

    name: str
    path: str
    body: Json | bytes = None
    method: str = "POST"

    def __str__(self) -> str:
        return self.name


def chat(name: str, messages: Json = HELLO, **more: Json) -> Question:
    """A chat of at most a few tokens."""
    return Question(name, "/v1/chat/completions", asked({"messages": messages, **more}))


def completion(name: str, prompt: Json = "SELECT name FROM", **more: Json) -> Question:
    """A completion of at most a few tokens."""
    return Question(name, "/v1/completions", asked({"prompt": prompt, **more}))


def embeddings(name: str, text: Json, **more: Json) -> Question:
    return Question(name, "/v1/embeddings", {"model": PLAIN, "input": text, **more})


def asked(more: JsonObject) -> JsonObject:
    """The request with the model, greedy and short unless it says otherwise."""
    return {"model": PLAIN, "temperature": 0, "max_tokens": 12, **more}


def without(question: Question, key: str) -> Question:
    """The question with one field left out."""
    assert isinstance(question.body, dict)
    return Question(question.name, question.path, {k: v for k, v in question.body.items() if k != key})


QUESTIONS = (
    Question("the models", "/v1/models", method="GET"),
    # --- chat
    chat("chat"),
    chat("chat of several turns", DIALOGUE, max_tokens=40),
    chat("chat in parts of text", PARTS),
    chat("chat of two answers", n=2),
    chat("chat stopped by a string", max_tokens=60, stop="e"),
    chat("chat stopped by one of two strings", max_tokens=60, stop=STOPS),
    chat("chat with every setting", top_p=0.9, top_k=5, presence_penalty=1.5, frequency_penalty=-1.5, user="me"),
    chat("chat with a string for messages", "Once upon a time"),
    chat("chat with settings nobody knows", seed=7, tools=[], response_format={"type": "text"}),
    without(chat("chat without a limit", LONG, stop=STOPS), "max_tokens"),
    chat("chat with a null for a limit", LONG, max_tokens=None, stop=STOPS),
    chat("chat wanting more than fits", LONG, max_tokens=100_000, stop=STOPS),
    chat("chat streamed", stream=True, max_tokens=40),
    chat("chat streamed, several turns", DIALOGUE, stream=True, max_tokens=40),
    chat("chat streamed, two answers", n=2, stream=True),
    chat("chat streamed to a stop string", stream=True, max_tokens=60, stop="e"),
    chat("chat streamed with the usage", stream=True, stream_options={"include_usage": True}),
    chat("chat streamed, one token", stream=True, max_tokens=1),
    # --- chat, badly
    chat("chat with an unknown model", model="nobody"),
    without(chat("chat without a model"), "model"),
    without(chat("chat without messages"), "messages"),
    chat("chat with no messages", []),
    chat("chat with an unknown role", [{"role": "robot", "content": "x"}]),
    chat("chat with a message without a role", [{"content": "x"}]),
    chat("chat with a message without content", [{"role": "user"}]),
    chat("chat with a null content", [{"role": "user", "content": None}]),
    chat("chat that does not fit", [{"role": "user", "content": "数据库" * 2000}]),
    chat("chat with max_tokens 0", max_tokens=0),
    chat("chat with max_tokens below 0", max_tokens=-3),
    chat("chat with n 0", n=0),
    chat("chat with a temperature below 0", temperature=-0.1),
    chat("chat with a temperature over 2", temperature=2.5),
    chat("chat with top_p below 0", top_p=-1),
    chat("chat with top_p over 1", top_p=1.5),
    chat("chat with top_k 0", top_k=0),
    chat("chat with a temperature that is a word", temperature="hot"),
    chat("chat with a temperature that is a number in a string", temperature="0"),
    chat("chat with a stop that is a number", max_tokens=30, stop=5),
    chat("chat with stream that is a word", stream="maybe"),
    chat("chat streamed with a bad temperature", stream=True, temperature=3),
    # --- completions
    completion("completion"),
    without(completion("completion without a limit"), "max_tokens"),
    completion("completion of two prompts", ["The quick", "Größe"]),
    completion("completion of two prompts, two answers each", ["The quick", "Größe"], n=2, max_tokens=3),
    completion("completion with the prompt before it", echo=True),
    completion("completion with logprobs", logprobs=1, max_tokens=4),
    completion("completion with logprobs and the prompt", logprobs=1, echo=True, max_tokens=4),
    completion("completion with every setting", best_of=1, use_beam_search=False, top_p=0.5, top_k=3, suffix="x"),
    completion("completion with a stop string", max_tokens=60, stop=["e"]),
    completion("completion streamed", stream=True, max_tokens=40),
    completion("completion streamed, two prompts", ["The quick", "Größe"], stream=True),
    completion("completion streamed, two answers", n=2, stream=True),
    completion("completion streamed with the prompt before it", echo=True, stream=True),
    completion("completion streamed with logprobs", logprobs=1, stream=True, max_tokens=4),
    # --- completions, badly
    without(completion("completion without a prompt"), "prompt"),
    completion("completion of no prompts", []),
    completion("completion of an empty prompt", ""),
    completion("completion of a prompt that is a number", 5),
    completion("completion that does not fit", "数据库" * 2000),
    completion("completion with max_tokens 0", max_tokens=0),
    completion("completion with an unknown model", model="nobody"),
    completion("completion of token ids", [[5, 6, 7]]),
    # --- embeddings
    embeddings("embedding of a string", "What is a gateway?"),
    embeddings("embeddings of a list", ["a", "The quick brown fox", "数据库", "b", "c", "d"]),
    embeddings("embedding in base64", "What is a gateway?", encoding_format="base64"),
    embeddings("embedding in floats", "What is a gateway?", encoding_format="float"),
    embeddings("embedding in another format", "What is a gateway?", encoding_format="int8"),
    Question("embedding by engine", f"/v1/engines/{PLAIN}/embeddings", {"input": "x"}),
    Question("embedding with an unknown model", "/v1/embeddings", {"model": "nobody", "input": "x"}),
    Question("embedding without a model", "/v1/embeddings", {"input": "x"}),
    Question("embedding without input", "/v1/embeddings", {"model": PLAIN}),
    embeddings("embedding of nothing", []),
    embeddings("embedding of an empty string", ""),
    embeddings("embedding of token ids", [5, 6, 7]),
    embeddings("embedding of an object", {"text": "x"}),
    # --- FastChat's own
    Question(
        "token check",
        "/api/v1/token_check",
        {
            "prompts": [
                {"model": PLAIN, "prompt": "The quick brown fox", "max_tokens": 20},
                {"model": PLAIN, "prompt": "x", "max_tokens": 4000},
            ]
        },
    ),
    Question("token check of nothing", "/api/v1/token_check", {"prompts": []}),
    Question("token check without prompts", "/api/v1/token_check", {}),
    Question("token check without max_tokens", "/api/v1/token_check", {"prompts": [{"model": PLAIN, "prompt": "x"}]}),
    Question(
        "token check with an unknown model",
        "/api/v1/token_check",
        {"prompts": [{"model": "nobody", "prompt": "x", "max_tokens": 1}]},
    ),
    Question("own chat", "/api/v1/chat/completions", asked({"messages": HELLO, "repetition_penalty": 1.2})),
    Question("own chat streamed", "/api/v1/chat/completions", asked({"messages": HELLO, "stream": True})),
    # --- what is no request of the API
    Question("a path that is not there", "/v1/nothing", {}),
    Question("a path of OpenAI's that FastChat has not", "/v1/responses", {"model": PLAIN, "input": "x"}),
    Question("a chat that is a GET", "/v1/chat/completions", method="GET"),
    Question("models that are a POST", "/v1/models", {}),
    Question("a body that is no JSON", "/v1/chat/completions", b"{model: x"),
    Question("a body that is a list", "/v1/chat/completions", []),
    Question("no body", "/v1/chat/completions", b""),
)
