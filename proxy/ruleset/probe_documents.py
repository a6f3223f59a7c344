"""What `probe` of a backend pack may say; as `proxy.ruleset.documents`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.ruleset.mapping_documents import Spec
from proxy.ruleset.strict import Expression, Strict, Text
from proxy.translate.probe import ModelKind


class ProbeCallDoc(Strict):
    """A question over HTTP."""

    method: Literal["GET", "POST"] = "GET"
    """How the worker is asked."""
    path: Text
    """A path of the worker's."""
    query: dict[Text, Expression] = Field(default_factory=dict)
    """A parameter behind the path each; one that is null is left out."""
    body: Spec | None = None
    """What it gets."""

    @model_validator(mode="after")
    def _body_is_posted(self) -> ProbeCallDoc:
        if self.body is not None and self.method == "GET":
            raise ValueError("GET has no body; take POST, or leave the body out")
        return self


class StatusProbeDoc(ProbeCallDoc):
    """`probe.status`: whether a worker is there and, where it tells, which models it serves."""

    models: Expression | None = None
    """The names of its models, or objects of name, kinds, context_length and embedding_size. Left out: the settings
    have to say.
    """
    queue_length: Expression | None = None
    """How many requests wait there."""


class ModelProbeDoc(ProbeCallDoc):
    """`probe.model`: what a worker tells of one model; once in its life, and now and then."""

    when: Expression | None = None
    """Only of such models."""
    kinds: Expression | None = None
    """llm, text2vec, or both in a list."""
    context_length: Expression | None = None
    """Tokens of its context."""
    embedding_size: Expression | None = None
    """Numbers of a vector."""

    @model_validator(mode="after")
    def _reads_something(self) -> ModelProbeDoc:
        if self.kinds is None and self.context_length is None and self.embedding_size is None:
            raise ValueError("a question about a model reads at least one of kinds, context_length, embedding_size")
        return self


class ProbeDoc(Strict):
    """`probe`: how the workers of a backend are looked at."""

    status: StatusProbeDoc
    model: ModelProbeDoc | None = None
    kinds: Expression | Annotated[list[ModelKind], Field(min_length=1)] = "'llm'"
    """The kinds of a model of which nobody else says them: a list, or an expression on `model`."""
    context_length: Annotated[int, Field(ge=1)] | None = None
    """The same for its context."""
    limit: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """The most requests that a worker takes at once, where the settings do not say."""
