"""What a rule may say of requests that are split among several kinds of workers, or copied to some."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from proxy.ruleset.strict import Expression, Strict, Text


class SomewhereDoc(Strict):
    """Some of the workers."""

    backend: Text | None = None
    """Those of this backend. Left out: whichever."""
    model: Expression | None = None
    """Asked for this model. Left out: the request's own."""

    @model_validator(mode="after")
    def _something(self) -> SomewhereDoc:
        if self.backend is None and self.model is None:
            raise ValueError("expected backend, model, or both: where these requests go")
        return self


class SideDoc(SomewhereDoc):
    """`worker.split`: one side of it."""

    weight: Annotated[float, Field(ge=0, le=1_000_000)]
    """Against the weights of the others."""


class MirrorDoc(SomewhereDoc):
    """`worker.mirror`: where copies of requests go; their answers are measured and thrown away."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of how many requests; 1: of all."""
