"""What an operator sets for one model instead of what its worker says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from proxy.backends.fastchat.conversation import prepare_conversation
from proxy.backends.settings import Defaults, ModelSettings, read_chat_template
from proxy.types import Json, JsonObject


class ModelOverrides:
    """Templates and context lengths of the settings' `models`. ValueError for a template file that cannot be used."""

    def __init__(self, models: Mapping[str, ModelSettings], defaults: Defaults) -> None:
        self._models = dict(models)
        self._defaults = defaults
        self._templates = {name: template for name, model in models.items() if (template := _source(name, model))}

    def facts(self, model: str) -> JsonObject:
        """What the settings say of a model, over what its worker says: `context_length` and `images` if set,
        `defaults`, and `reasoning`, null where nothing is said of it.
        """
        settings = self._models.get(model, ModelSettings())
        reasoning = settings.reasoning
        said: JsonObject = {
            "defaults": {**_given(self._defaults), **_given(settings.defaults)},
            "reasoning": None if reasoning is None else reasoning.model_dump(by_alias=True),
        }
        if settings.context_length is not None:
            said["context_length"] = settings.context_length
        if settings.images is not None:
            said["images"] = settings.images
        return said

    def prepare(self, model: str, raw: JsonObject) -> JsonObject:
        """The conversation of a model for `render_prompt`: the operator's chat template, or the worker's own one."""
        settings = self._models.get(model, ModelSettings())
        source = self._templates.get(model)
        if source is None:
            return prepare_conversation(raw, style=settings.template_style)
        return {
            "chat_template": source,
            "bos_token": settings.bos_token,
            "eos_token": settings.eos_token,
            "stop_str": cast("list[Json]", list(settings.stop)),
            "stop_token_ids": cast("list[Json]", list(settings.stop_token_ids)),
        }


def _given(defaults: Defaults) -> JsonObject:
    return {name: value for name, value in defaults.model_dump().items() if value is not None}


def _source(name: str, settings: ModelSettings) -> str | None:
    try:
        if settings.chat_template_file is not None:
            return read_chat_template(settings.chat_template_file)
    except ValueError as error:
        raise ValueError(f"models.{name}: {error}") from None
    return settings.chat_template
