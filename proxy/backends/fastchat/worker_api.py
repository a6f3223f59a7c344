"""Control calls to one FastChat worker (any worker program of fschat 0.2.24 to 0.2.36 and its main branch)."""

from __future__ import annotations

from typing import Final, NamedTuple

import aiohttp

from proxy.backends.control import CallLimits, ControlError, brief, call_json
from proxy.backends.workers.look import Status
from proxy.types import Json, JsonObject

# A short text that every tokenizer splits into at least one token.
SAMPLE: Final = "hello"


class Embeddings(NamedTuple):
    """size: numbers in a vector, None where the model gives none; offered: the worker's program has the call."""

    size: int | None
    offered: bool


class WorkerApi:
    """Calls to the worker at `address`. Each raises ControlError when there is no usable answer.

    limits: for the small calls. Every body names the model: the programs that serve several models behind one address
    demand it.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, limits: CallLimits) -> None:
        self._session = session
        self.address = address
        self._limits = limits

    async def status(self, limits: CallLimits) -> Status:
        """Which models it serves and how busy it is; late when the worker's event loop is blocked."""
        answer = await self._call("/worker_get_status", {}, limits)
        names = answer.get("model_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._malformed("/worker_get_status", "model_names", "a list of strings", names)
        models = tuple(dict.fromkeys(name for name in names if isinstance(name, str) and name))
        queue, speed = _number(answer.get("queue_length"), 0), _number(answer.get("speed"), 1)
        return Status(models, int(queue), float(speed))

    async def conversation(self, model: str) -> JsonObject:
        """The model's conversation template as the worker gives it (its numbering of styles depends on its version)."""
        answer = await self._call("/worker_get_conv_template", {"model": model}, self._limits)
        template = answer.get("conv")
        if not isinstance(template, dict):
            raise self._malformed("/worker_get_conv_template", "conv", "an object", template)
        return template

    async def context_length(self, model: str) -> int:
        """Tokens that prompt and answer share."""
        answer = await self._call("/model_details", {"model": model}, self._limits)
        length = answer.get("context_length")
        if isinstance(length, bool) or not isinstance(length, int) or length <= 0:
            raise self._malformed("/model_details", "context_length", "a positive integer", length)
        return length

    async def has_tokenizer(self, model: str) -> bool:
        """False when the worker counts no tokens in a text that has some: the one that forwards to a remote API."""
        try:
            answer = await self._call("/count_token", {"model": model, "prompt": SAMPLE}, self._limits)
        except ControlError as error:
            if error.kind in ("status", "malformed", "too_large"):
                return True  # counting is broken for some tokenizers; that says nothing about the rest of the worker
            raise
        return answer.get("count") != 0

    async def embeddings(self, model: str, limits: CallLimits) -> Embeddings:
        """How many numbers an embedding of this model has. Raises only when no answer came.

        The call blocks the worker's event loop while the model runs. A worker without a tokenizer is not asked: its
        embeddings call fails after it took one of its slots, and the slot is lost.
        """
        if not await self.has_tokenizer(model):
            return Embeddings(None, offered=True)
        try:
            answer = await self._call("/worker_get_embeddings", {"model": model, "input": [SAMPLE]}, limits)
        except ControlError as error:
            if error.kind in ("status", "malformed", "too_large"):
                return Embeddings(None, offered=error.status != 404)
            raise
        vectors = answer.get("embedding")
        vector = vectors[0] if isinstance(vectors, list) and vectors else None
        if not isinstance(vector, list) or not all(isinstance(part, (int, float)) for part in vector):
            return Embeddings(None, offered=True)
        return Embeddings(len(vector) or None, offered=True)

    async def _call(self, path: str, body: JsonObject, limits: CallLimits) -> JsonObject:
        answer = await call_json(self._session, "POST", self.address + path, limits, body=body)
        if not isinstance(answer, dict):
            raise self._malformed(path, "the answer", "an object", answer)
        return answer

    def _malformed(self, path: str, what: str, expected: str, found: Json) -> ControlError:
        return ControlError("malformed", f"{self.address}{path}: {what} is {brief(found)}, expected {expected}")


def _number(value: Json, default: float) -> float:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return value if usable and isinstance(value, (int, float)) else default
