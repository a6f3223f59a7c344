"""What the tests inside rule files may say."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from proxy.errors import Kind
from proxy.ruleset.strict import Strict, Text


class ReceivedDoc(Strict):
    """`given.received`: what had come of a stream when its worker was lost."""

    text: str
    """The text so far."""
    tokens: Annotated[int, Field(ge=0)]
    """How many tokens those were."""


class GivenDoc(Strict):
    """`given`: what a test puts in."""

    request: JsonValue = None
    """The client's request."""
    backend: str | None = None
    """The worker's backend, where it is not the pack's own."""
    query: dict[str, str] = {}
    """Its query parameters."""
    headers: dict[str, str] = {}
    """Its headers, in lower case."""
    path: dict[str, str] = {}
    """Its path parameters."""
    worker: dict[str, JsonValue] = {}
    """The worker, over the pack's `sample`."""
    listener: dict[str, JsonValue] = {}
    """The address that the request comes to."""
    models: list[dict[str, JsonValue]] | None = None
    """The models that are known."""
    asked: dict[str, JsonValue] = {}
    """The worker's answers to steps that ask, by the name of the step."""
    chunks: list[JsonValue] | None = None
    """The frames of its stream."""
    cut: bool = False
    """Its connection breaks off after them."""
    received: ReceivedDoc | None = None
    """What a lost stream had brought: `upstream` is then the request with which another worker goes on, and `chunks`
    are what that one says.
    """
    answers: list[JsonValue] | None = None
    """Its whole answers."""


class ExpectedErrorDoc(Strict):
    """`expect.error`: what the request is refused for."""

    kind: Kind
    """The kind of the error."""
    field: str | None = None
    """The field that is named."""
    says: str | None = None
    """A part of the message."""


class ExpectDoc(Strict):
    """`expect`: what must come out. Of objects only the keys that are named count."""

    upstream: JsonValue = None
    """What goes to the worker; a list for a batch."""
    without: list[str] = []
    """Keys that must not be in it."""
    chunks: list[JsonValue] | None = None
    """The client's frames."""
    last: JsonValue = None
    """The last one of them."""
    answer: JsonValue = None
    """The client's whole answer."""
    error: ExpectedErrorDoc | None = None

    @model_validator(mode="after")
    def _something(self) -> ExpectDoc:
        if not self.model_fields_set:
            raise ValueError("a test that expects nothing cannot fail")
        return self


class TestDoc(Strict):
    """One test inside a rule file. A stream is run as a whole, and again cut at every byte."""

    __test__ = False

    name: Text
    """What it shows."""
    given: GivenDoc
    expect: ExpectDoc
