"""What a rule may say of requests that are split among several kinds of workers, or copied to some."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from proxy.ruleset.strict import Strict, Text


class SomewhereDoc(Strict):
    """Workers of a backend (left out: whichever), asked for a model (an expression; left out: the request's own)."""

    backend: Text | None = None
    model: Text | None = None

    @model_validator(mode="after")
    def _something(self) -> SomewhereDoc:
        if self.backend is None and self.model is None:
            raise ValueError("expected backend, model, or both: where these requests go")
        return self


class SideDoc(SomewhereDoc):
    """One of `worker.split`: weight against the weights of the others."""

    weight: Annotated[float, Field(ge=0, le=1_000_000)]


class MirrorDoc(SomewhereDoc):
    """`worker.mirror`: where copies of requests go. share: of how many, 1 for all."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
