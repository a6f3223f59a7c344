"""What `pack.yaml` and `errors.yaml` may say; as `proxy.ruleset.documents`, which has the rule files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from proxy.ruleset.documents import Spec
from proxy.ruleset.strict import Name, Strict, Text

PACK_NAME = r"^[a-z][a-z0-9-]*$"


class ErrorEntryDoc(Strict):
    """One line of the error table."""

    status: Annotated[int, Field(ge=200, le=599)]
    code: JsonValue = None


class ErrorsDoc(Strict):
    """`errors.yaml`: how this dialect says that something went wrong."""

    kinds: dict[str, ErrorEntryDoc]
    body: Spec
    frame: Spec | None = None
    stream_status: Annotated[int, Field(ge=200, le=599)] | None = None


class PackDoc(Strict):
    """`pack.yaml`: what the routes of a folder share. trace: the caller's own id of a request, for the log.
    backend: the kind of worker that routes without a call are for, and that tests see unless they name another.
    keys: that each request must bring one of the gateway's keys, where the settings have any, and how.

    sample: the worker that the routes' tests see unless they give another. examples: shell lines to try the pack with,
    in which {listen}, {admin} and {model} stand for a running gateway's. accepted_losses: fields that are not passed
    on, as `request.NAME` or `answer.NAME`, with a route's name and a dot before it where it is lost there alone, and
    why.
    """

    pack: Annotated[str, Field(pattern=PACK_NAME, max_length=60)]
    description: Text
    backend: Text | None = None
    trace: Text | None = None
    keys: Literal["bearer"] | None = None
    tables: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    sample: dict[str, JsonValue] = Field(default_factory=dict)
    examples: list[Text] = Field(default_factory=list)
    accepted_losses: dict[Text, Text] = Field(default_factory=dict)
