"""What the tests inside rule files may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from proxy.errors import Kind
from proxy.ruleset.strict import Strict, Text


class ReceivedDoc(Strict):
    """`given.received`: what had come of a stream when its worker was lost."""

    text: str
    tokens: Annotated[int, Field(ge=0)]


class GivenDoc(Strict):
    """`given`: what a test puts in. chunks: the worker's stream; answer(s): its whole answers; asked: answers by step
    name; received: what a lost stream had brought, so that `upstream` is the request with which another worker goes on,
    and `chunks` are what that one says. backend: that of the worker, where it is not the pack's own.
    """

    request: JsonValue = None
    backend: str | None = None
    query: dict[str, str] = {}
    headers: dict[str, str] = {}
    path: dict[str, str] = {}
    worker: dict[str, JsonValue] = {}
    listener: dict[str, JsonValue] = {}
    models: list[dict[str, JsonValue]] | None = None
    asked: dict[str, JsonValue] = {}
    chunks: list[JsonValue] | None = None
    cut: bool = False
    received: ReceivedDoc | None = None
    answers: list[JsonValue] | None = None


class ExpectedErrorDoc(Strict):
    """`expect.error`: what a refused request is refused for; `says` is a part of the message."""

    kind: Kind
    field: str | None = None
    says: str | None = None


class ExpectDoc(Strict):
    """`expect`: what must come out. Objects match when each key named here matches; `without` names keys that must be
    absent.
    """

    upstream: JsonValue = None
    without: list[str] = []
    chunks: list[JsonValue] | None = None
    last: JsonValue = None
    answer: JsonValue = None
    error: ExpectedErrorDoc | None = None

    @model_validator(mode="after")
    def _something(self) -> ExpectDoc:
        if not self.model_fields_set:
            raise ValueError("a test that expects nothing cannot fail")
        return self


class TestDoc(Strict):
    """One test inside a rule file."""

    __test__ = False

    name: Text
    given: GivenDoc
    expect: ExpectDoc
