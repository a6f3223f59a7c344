"""What the files of a backend pack may say: `backend.yaml`, and one file for each way of asking for an operation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from proxy.errors import Kind
from proxy.ruleset.answer_documents import AnswerCheckDoc, FromDoc
from proxy.ruleset.documents import OperationName, RequestDoc, StepDoc
from proxy.ruleset.mapping_documents import Spec
from proxy.ruleset.pack_documents import PackName
from proxy.ruleset.probe_documents import ProbeDoc
from proxy.ruleset.selftest_documents import ExpectedErrorDoc, ReceivedDoc
from proxy.ruleset.strict import Expression, Name, Strict, Text


class RefusalDoc(Strict):
    """`refusal`: what an HTTP status other than 200 means."""

    message: Expression | None = None
    """What the worker says."""
    kind: Expression | None = None
    """Which kind of error it is, by the names of errors.yaml; null: `kinds` tells."""
    kinds: dict[Annotated[str, Field(pattern=r"^[1-5][0-9][0-9]$")], Kind] = Field(default_factory=dict)
    """Status to kind of error. Left out: upstream_status."""


class BackendDoc(Strict):
    """`backend.yaml`: what the operations of one kind of worker share."""

    backend: PackName
    """Its name."""
    description: Text
    """What it is for, in a sentence."""
    tables: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    """Tables for `table`, by name."""
    sample: dict[str, JsonValue] = Field(default_factory=dict)
    """The worker that the tests see."""
    headers: dict[str, Expression] = Field(default_factory=dict)
    """Headers of each request and question; one that is null is left out."""
    refusal: RefusalDoc | None = None
    probe: ProbeDoc | None = None
    accepted_losses: dict[Text, Text] = Field(default_factory=dict)
    """What the workers cannot take or tell: call.NAME, an argument; result.NAME, a result; answer.NAME, a field of
    theirs; perhaps with an operation's name and a dot before it; and why.
    """


class GivenCallDoc(Strict):
    """`given` of an operation's test: the call, and what the worker says."""

    call: dict[str, JsonValue]
    """The arguments."""
    worker: dict[str, JsonValue] = {}
    """The worker, over the pack's `sample`."""
    asked: dict[str, JsonValue] = {}
    """Its answers to steps that ask, by the name of the step."""
    chunks: list[JsonValue] | None = None
    """The frames of its stream."""
    cut: bool = False
    """Its connection breaks off after them."""
    received: ReceivedDoc | None = None
    """As in the tests of routes."""
    answers: list[JsonValue] | None = None
    """Its whole answers."""


class ExpectedResultDoc(Strict):
    """`expect` of an operation's test: what goes to the worker, and what its answer means."""

    upstream: JsonValue = None
    """What goes to the worker; a list for a batch."""
    without: list[str] = []
    """Keys that must not be in it."""
    chunks: list[JsonValue] | None = None
    """The results after each frame, with the whole text so far."""
    last: JsonValue = None
    """The last one of them."""
    result: JsonValue = None
    """The results of whole answers."""
    error: ExpectedErrorDoc | None = None

    @model_validator(mode="after")
    def _something(self) -> ExpectedResultDoc:
        if not self.model_fields_set:
            raise ValueError("a test that expects nothing cannot fail")
        return self


class CallTestDoc(Strict):
    """One test inside an operation's file."""

    name: Text
    """What it shows."""
    given: GivenCallDoc
    expect: ExpectedResultDoc


class SourceDoc(Strict):
    """`stream` of an operation."""

    from_: FromDoc = Field(alias="from")
    """How the worker's stream is read."""


class AskingDoc(Strict):
    """An operation's file: one way of asking a backend's workers for it."""

    name: Name
    """Its name within the pack."""
    operation: OperationName
    """Which one."""
    description: Text
    """What it is for, in a sentence."""
    when: Expression | None = None
    """Only for such calls. Of several files for one operation the first whose condition holds is used, in the order of
    their names, those with a condition first.
    """
    exclusive: bool = False
    """One such request at a time reaches each worker."""
    steps: list[StepDoc] = []
    """What is looked at and worked out before the request, in order."""
    request: RequestDoc
    stream: SourceDoc | None = None
    result: Spec | None = None
    """What whole answers mean: a mapping for each result."""
    checks: list[AnswerCheckDoc] = []
    """What has to hold of them."""
    tests: list[CallTestDoc] = []
    """Run by `test`, and before the pack is served."""

    @model_validator(mode="after")
    def _shape(self) -> AskingDoc:
        if (self.stream is None) == (self.result is None):
            raise ValueError("an operation has either stream, how the worker's stream is read, or result")
        if self.checks and self.result is None:
            raise ValueError("checks are for whole answers; there is no result here")
        if self.request.batch is not None and self.stream is not None:
            raise ValueError("a stream cannot be asked for in batches")
        if self.request.resume is not None and self.stream is None:
            raise ValueError("request.resume is for a stream of the worker; there is no stream here")
        if self.stream is not None and self.stream.from_.echoed is not None and self.request.resume is None:
            raise ValueError("stream.from.echoed is for a stream that goes on; there is no request.resume here")
        return self
