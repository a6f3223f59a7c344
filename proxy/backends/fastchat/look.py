"""What a FastChat worker tells of its models: conversation template, context length, and whether it gives vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp

from proxy.backends.control import ControlError
from proxy.backends.fastchat.worker_api import WorkerApi
from proxy.backends.workers.look import ModelKnowledge, Status
from proxy.backends.workers.settings import SourceSettings
from proxy.fleet.facts import Kind, ModelFacts
from proxy.types import JsonObject

log = logging.getLogger(__name__)

BACKEND: Final = "fastchat"


class FastChatLooks:
    """Looks at FastChat workers, by settings and a knowledge of models that may be replaced at any time.

    A worker does not say whether its model takes images. image_models: those of which a controller says so;
    takes_images: whether the worker of this base address has registered so.
    """

    backend = BACKEND

    def __init__(self, models: ModelKnowledge, settings: SourceSettings) -> None:
        self.models, self.settings = models, settings
        self.image_models: set[str] = set()
        self.takes_images: Callable[[str], bool] = lambda address: False

    def open(self, session: aiohttp.ClientSession, address: str) -> FastChatLook:
        """A look at the worker of this base address."""
        return FastChatLook(WorkerApi(session, address, self.settings.look_limits()), self)


class FastChatLook:
    """One worker; `forget` is for a new life, in which its list of models may be the same and all else another."""

    interval: float | None = None
    nothing = "it lists no models"

    def __init__(self, api: WorkerApi, shared: FastChatLooks) -> None:
        self.address = api.address
        self.limit: int | None = None
        self._api, self._shared = api, shared
        self._llm: dict[str, tuple[JsonObject, int]] = {}
        self._embedding: dict[str, int | None] = {}

    async def status(self) -> Status:
        """As the worker says it."""
        return await self._api.status(self._shared.settings.status_limits())

    async def learn(self, model: str) -> str:
        """Fetch what an llm needs. What was known of the model in this life stays when there is no usable answer."""
        raw = await self._api.conversation(model)
        context_length = await self._api.context_length(model)
        try:
            conversation = self._shared.models.prepare(model, raw)
        except Exception as error:  # the template is foreign data; whatever is wrong with it is told
            self._llm.pop(model, None)
            return f"its conversation template cannot be used: {str(error) or type(error).__name__}"
        self._llm[model] = conversation, context_length
        return ""

    async def learn_more(self, models: Sequence[str], news: Callable[[], None]) -> bool:
        """Ask for one vector per model, once in a worker's life."""
        settings = self._shared.settings
        if not settings.probe_embeddings:
            return True
        for model in models:
            if model in self._embedding:
                continue
            try:
                size, offered = await self._api.embeddings(model, settings.embed_limits())
            except ControlError as error:
                log.info("worker %s: embeddings of model %r not known yet: %s", self.address, model, error)
                return False
            limit = settings.usual_limit if offered else settings.limit_without_embeddings
            is_new = size is not None or limit != self.limit
            self._embedding[model], self.limit = size, limit
            if is_new:
                news()
        return True

    def facts(self, model: str) -> ModelFacts:
        """An llm once its template is known, text2vec once it has given a vector."""
        conversation, context_length = self._llm.get(model, (None, 0))
        size = self._embedding.get(model)
        kinds: set[Kind] = set()
        if conversation is not None:
            kinds.add("llm")
        if size is not None:
            kinds.add("text2vec")
        document: JsonObject = {
            "model": model,
            "address": self.address,
            "backend": BACKEND,
            "context_length": context_length,
            "conversation": conversation,
            "kinds": [*sorted(kinds)],
            "embedding_size": size,
            "images": model in self._shared.image_models or self._shared.takes_images(self.address),
            **self._shared.models.facts(model),
        }
        known = document["context_length"]
        context_length = known if isinstance(known, int) else context_length
        return ModelFacts(model, frozenset(kinds), context_length, conversation, document)

    def forget(self) -> None:
        """Everything is asked again, the vectors too."""
        self._llm, self._embedding, self.limit = {}, {}, None
