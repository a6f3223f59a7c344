"""What `probe` of a backend pack may say; as `proxy.ruleset.documents`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.ruleset.documents import Spec
from proxy.ruleset.strict import Strict, Text
from proxy.translate.probe import ModelKind


class ProbeCallDoc(Strict):
    """A question over HTTP. query: an expression for each parameter behind the path; null leaves it out."""

    method: Literal["GET", "POST"] = "GET"
    path: Text
    query: dict[Text, Text] = Field(default_factory=dict)
    body: Spec | None = None

    @model_validator(mode="after")
    def _body_is_posted(self) -> ProbeCallDoc:
        if self.body is not None and self.method == "GET":
            raise ValueError("GET has no body; take POST, or leave the body out")
        return self


class StatusProbeDoc(ProbeCallDoc):
    """`probe.status`: whether a worker is there and, where it tells, which models it serves.

    models: their names, or objects of name, kinds, context_length and embedding_size; absent: the settings, or a
    controller, have to say.
    """

    models: Text | None = None
    queue_length: Text | None = None


class ModelProbeDoc(ProbeCallDoc):
    """`probe.model`: what a worker tells of one model. when: on its kinds, as far as they are known; absent: always."""

    when: Text | None = None
    kinds: Text | None = None
    context_length: Text | None = None
    embedding_size: Text | None = None

    @model_validator(mode="after")
    def _reads_something(self) -> ModelProbeDoc:
        if self.kinds is None and self.context_length is None and self.embedding_size is None:
            raise ValueError("a question about a model reads at least one of kinds, context_length, embedding_size")
        return self


class ProbeDoc(Strict):
    """`probe`: how the workers of a backend are looked at. kinds, context_length, limit: where nobody else says."""

    status: StatusProbeDoc
    model: ModelProbeDoc | None = None
    kinds: Text | Annotated[list[ModelKind], Field(min_length=1)] = "'llm'"
    context_length: Annotated[int, Field(ge=1)] | None = None
    limit: Annotated[int, Field(ge=1, le=100_000)] | None = None


for _model in (ProbeCallDoc, StatusProbeDoc, ModelProbeDoc, ProbeDoc):
    _model.model_rebuild()
