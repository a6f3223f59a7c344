"""Where the requests for one model go: the sections of the settings for a split and a mirror."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from proxy.backends.sections import Name, Section
from proxy.documents import suggestion


class Somewhere(Section):
    """Where requests go: to workers of a backend, of a model, or of both."""

    backend: Name | None = None
    """Only workers of this kind. Left out: whichever serve the model."""
    model: Name | None = None
    """The model that they are asked for, by the name that its worker gives it. Left out: the one of the request."""

    @model_validator(mode="after")
    def _something(self) -> Somewhere:
        if self.backend is None and self.model is None:
            raise ValueError("expected backend, model, or both: where these requests go")
        return self


class SideSettings(Somewhere):
    """`models.NAME.split`: one of the sides among which requests for the model are split."""

    weight: Annotated[float, Field(ge=0, le=1_000_000)]
    """Against the weights of the others. 0: only where the others have no worker."""


class MirrorSettings(Somewhere):
    """`models.NAME.mirror`: who gets copies of requests for the model. Their answers are measured and thrown away."""

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of how many requests."""


def spread_problem(split: list[SideSettings] | None, mirror: MirrorSettings | None) -> str:
    """What in them does not go together; "" where nothing does."""
    sides = [(side.backend, side.model) for side in split or []]
    if split is not None and len(split) < 2:
        return "split: expected two sides at least"
    if split and not any(side.weight for side in split):
        return "split: the weights are all 0; expected one that is not"
    if len(set(sides)) < len(sides):
        return "split: two sides are the same workers"
    weighty = {(side.backend, side.model) for side in split or [] if side.weight}
    if mirror is not None and weighty == {(mirror.backend, mirror.model)}:
        return "mirror: it is what it mirrors, the only side of the split that has weight"
    return ""


def unknown_sides(
    model: str, split: list[SideSettings] | None, mirror: MirrorSettings | None, rules: Mapping[str, object]
) -> Iterator[str]:
    """A sentence for each side, and for the mirror, that is of a backend for which there are no rules."""
    places: list[tuple[str, Somewhere]] = [(f"split[{index}]", side) for index, side in enumerate(split or [])]
    if mirror is not None:
        places.append(("mirror", mirror))
    for place, where in places:
        if where.backend is not None and where.backend not in rules:
            known = suggestion(where.backend, sorted(rules))
            yield f"models.{model}.{place}: there are no rules for a backend '{where.backend}'{known}"
