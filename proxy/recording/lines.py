"""A recording is a file of JSON lines: a head, a line for each request in the order in which they ended, and an end.

What a line has is said here once, for whoever writes them and for whoever reads them.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from proxy.limits import ELEMENTS_MAX, RECORDING_REQUESTS_MAX

VERSION = 1


class Strict(BaseModel):
    """An object in which an unknown key is a mistake and no value is converted."""

    # Read by a command alone; what is not asked for is not built.
    model_config = ConfigDict(extra="forbid", strict=True, defer_build=True)


class Raw(Strict):
    """Bytes as they went over a wire: text where they are UTF-8."""

    text: str | None = None
    base64: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Raw:
        if (self.text is None) == (self.base64 is None):
            raise ValueError("expected either text or base64")
        if self.base64 is not None:
            try:
                base64.b64decode(self.base64, validate=True)
            except (binascii.Error, ValueError):
                raise ValueError("base64: expected base64") from None
        return self

    @classmethod
    def of(cls, data: bytes) -> Raw:
        """These bytes."""
        try:
            return cls(text=data.decode())
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode())

    @property
    def data(self) -> bytes:
        """The bytes."""
        return self.text.encode() if self.text is not None else base64.b64decode(self.base64 or "")


class Head(Strict):
    """The first line. gateway: the version that wrote it; redacted: whether texts were replaced, and words: which were
    not.
    """

    recording: Literal[1]
    gateway: str
    began: str
    redacted: bool = False
    words: list[str] = []


class End(Strict):
    """The last line of a recording that came to its end. left_out: requests that were too large, or too many at once;
    why: what ended it.
    """

    ended: str
    requests: Annotated[int, Field(ge=0, le=RECORDING_REQUESTS_MAX)]
    left_out: Annotated[int, Field(ge=0)]
    why: str


class Failure(Strict):
    """What something ended in, in the gateway's words."""

    kind: str
    message: str
    field: str | None = None
    upstream_code: int | None = None
    upstream_status: int | None = None


class Asked(Strict):
    """A question of a step, and the worker's answer; null where it gave none."""

    step: str
    path: str
    body: JsonValue = None
    answer: JsonValue = None


class Exchange(Strict):
    """One request to the worker and what came of it. status: null where nothing came; said: the body as it came;
    complete: whether it came to its end.
    """

    method: str
    path: str
    headers: dict[str, str] = {}
    body: JsonValue = None
    status: int | None = None
    said: Raw | None = None
    complete: bool = False


class Attempt(Strict):
    """One worker on which the request was tried, or the part of it at this place, where its rule makes several. worker:
    what rules see of it, without its key; resumed: it went on with the stream of the one before; elapsed: what rules
    saw of the time at the end of a stream.
    """

    worker: dict[str, JsonValue]
    asked: list[Asked] = []
    exchanges: list[Exchange] = []
    failure: Failure | None = None
    resumed: bool = False
    part: Annotated[int, Field(ge=0, lt=ELEMENTS_MAX)] = 0
    elapsed: JsonValue = None


class Client(Strict):
    """What the client got. status: null where it left before anything; complete: whether it got all of it."""

    status: int | None = None
    content_type: str | None = None
    said: Raw | None = None
    complete: bool = False
    failure: Failure | None = None


class Recorded(Strict):
    """One request. scope: what rules saw beside the body: query, headers, listener, gateway and the like; route: as
    `pack/name`, null where none took it.
    """

    at: str
    seconds: Annotated[float, Field(ge=0)]
    method: str
    path: str
    scope: dict[str, JsonValue]
    body: JsonValue = None
    route: str | None = None
    outcome: str
    attempts: list[Attempt] = []
    client: Client
