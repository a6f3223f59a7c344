"""What `pack.yaml` and `errors.yaml` may say; as `proxy.ruleset.documents`, which has the rule files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from proxy.ruleset.mapping_documents import Spec
from proxy.ruleset.strict import Expression, Name, Strict, Text

PackName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=60, title="name")]


class ErrorEntryDoc(Strict):
    """One line of the error table."""

    status: Annotated[int, Field(ge=200, le=599)]
    """The HTTP status."""
    code: JsonValue = None
    """The dialect's own code, `error.code` below."""


class ErrorsDoc(Strict):
    """`errors.yaml`: how this dialect says that something went wrong."""

    kinds: dict[str, ErrorEntryDoc]
    """Each kind of error, and `default` for those that are not named."""
    body: Spec
    """An error as a whole answer."""
    frame: Spec | None = None
    """An error as a frame of a stream."""
    stream_status: Annotated[int, Field(ge=200, le=599)] | None = None
    """The HTTP status of a stream whose first frame is an error. Left out: such a request gets the body instead."""


class PackDoc(Strict):
    """`pack.yaml`: what the routes of a folder share."""

    pack: PackName
    """Its name."""
    description: Text
    """What it is for, in a sentence."""
    backend: Text | None = None
    """The kind of worker that routes without a call are for, and that tests see unless they name another."""
    trace: Expression | None = None
    """The caller's own id of a request, for the log."""
    keys: Literal["bearer"] | None = None
    """Each request must bring one of the gateway's keys in this way, where the settings have any."""
    tables: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    """Tables for `table`, by name."""
    sample: dict[str, JsonValue] = Field(default_factory=dict)
    """The worker that the tests see unless they give another."""
    examples: list[Text] = Field(default_factory=list)
    """Shell lines to try the pack with; {listen}, {admin} and {model} stand for a running gateway's."""
    accepted_losses: dict[Text, Text] = Field(default_factory=dict)
    """Fields that are not passed on, as request.NAME or answer.NAME, with a route's name and a dot before it where it
    is lost there alone; and why.
    """
