"""What the files of a backend pack may say: `backend.yaml`, and one file for each way of asking for an operation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from proxy.errors import Kind
from proxy.ruleset.documents import AnswerCheckDoc, FromDoc, OperationName, RequestDoc, Spec, StepDoc
from proxy.ruleset.pack_documents import PACK_NAME
from proxy.ruleset.probe_documents import ProbeDoc
from proxy.ruleset.selftest_documents import ExpectedErrorDoc, ReceivedDoc
from proxy.ruleset.strict import Name, Strict, Text


class RefusalDoc(Strict):
    """`refusal`: what an HTTP status other than 200 means. message, kind: expressions over `body` (null where it is no
    JSON), `text` and `status`; kinds: what single statuses are to the client, by the names of errors.yaml, where `kind`
    gives no such name.
    """

    message: Text | None = None
    kind: Text | None = None
    kinds: dict[Annotated[str, Field(pattern=r"^[1-5][0-9][0-9]$")], Kind] = Field(default_factory=dict)


class BackendDoc(Strict):
    """`backend.yaml`: what the operations of one kind of worker share. headers: sent with each request and question;
    they see `worker`. probe: how its workers are looked at. sample: the worker that the tests see. accepted_losses:
    what the workers cannot take or tell, as `call.NAME` or `result.NAME`, and why.
    """

    backend: Annotated[str, Field(pattern=PACK_NAME, max_length=60)]
    description: Text
    tables: dict[Name, dict[str, JsonValue]] = Field(default_factory=dict)
    sample: dict[str, JsonValue] = Field(default_factory=dict)
    headers: dict[str, Text] = Field(default_factory=dict)
    refusal: RefusalDoc | None = None
    probe: ProbeDoc | None = None
    accepted_losses: dict[Text, Text] = Field(default_factory=dict)


class GivenCallDoc(Strict):
    """`given` of an operation's test: the call, and what the worker says, as in the tests of routes."""

    call: dict[str, JsonValue]
    worker: dict[str, JsonValue] = {}
    asked: dict[str, JsonValue] = {}
    chunks: list[JsonValue] | None = None
    cut: bool = False
    received: ReceivedDoc | None = None
    answers: list[JsonValue] | None = None


class ExpectedResultDoc(Strict):
    """`expect` of an operation's test: what goes to the worker, and what its answer means: the frames of a stream with
    the whole text so far, or one result.
    """

    upstream: JsonValue = None
    without: list[str] = []
    chunks: list[JsonValue] | None = None
    last: JsonValue = None
    result: JsonValue = None
    error: ExpectedErrorDoc | None = None

    @model_validator(mode="after")
    def _something(self) -> ExpectedResultDoc:
        if not self.model_fields_set:
            raise ValueError("a test that expects nothing cannot fail")
        return self


class CallTestDoc(Strict):
    """One test inside an operation's file."""

    name: Text
    given: GivenCallDoc
    expect: ExpectedResultDoc


class SourceDoc(Strict):
    """`stream` of an operation: how the worker's stream is read."""

    from_: FromDoc = Field(alias="from")


class AskingDoc(Strict):
    """One way of asking a backend's workers for an operation. when: on the call; of several files for one operation the
    first whose condition holds is used, in the order of their names, those with a condition first. result: what whole
    answers mean. exclusive: one such request at a time reaches each worker.
    """

    name: Name
    operation: OperationName
    description: Text
    when: Text | None = None
    exclusive: bool = False
    steps: list[StepDoc] = []
    request: RequestDoc
    stream: SourceDoc | None = None
    result: Spec | None = None
    checks: list[AnswerCheckDoc] = []
    tests: list[CallTestDoc] = []

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


for _model in (CallTestDoc, SourceDoc, AskingDoc):
    _model.model_rebuild()
