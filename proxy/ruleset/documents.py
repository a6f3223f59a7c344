"""What a rule file may say: one class for each kind of mapping in it. The text below a key is its documentation.

Only shapes are checked here; names of tables, expressions and what they read are the compiler's work.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from proxy.errors import Kind
from proxy.ruleset.answer_documents import AnswerDoc, StreamDoc
from proxy.ruleset.mapping_documents import Spec
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.spread_documents import MirrorDoc, SideDoc
from proxy.ruleset.strict import Expression, Message, Name, Strict, Text
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import Selection


class MatchDoc(Strict):
    """`match`: which requests the route takes."""

    method: Text | list[Text]
    """GET, POST, PUT, PATCH or DELETE, or a list of them. GET takes HEAD too."""
    path: Text
    """A path, in which {name} stands for a segment, or for a part of one."""
    headers: dict[str, str] = {}
    """Headers that the request must have: a value, or * for any."""
    when: Expression | None = None
    """A condition on the request."""
    body: Literal["needed", "optional"] = "needed"
    """optional: a request without a body counts as one with an empty object."""


class WorkerDoc(Strict):
    """`worker`: which worker the request needs."""

    kind: Name | None = None
    """llm or text2vec. Left out: either."""
    model: Expression | None = None
    """The name of the model."""
    need: Selection = "lease"
    """lease: a worker that can answer now; known: what is known of the model, also while its workers are down; none: no
    worker.
    """
    exclusive: bool = False
    """One such request at a time reaches each worker."""
    split: list[SideDoc] | None = None
    """Requests go to these by their weights."""
    mirror: MirrorDoc | None = None

    @model_validator(mode="after")
    def _spread(self) -> WorkerDoc:
        if self.need != "lease" and (self.split or self.mirror):
            raise ValueError("split and mirror are for requests that a worker answers; here need says otherwise")
        if self.split is not None and len(self.split) < 2:
            raise ValueError("split: expected two sides at least")
        if self.split and not any(side.weight for side in self.split):
            raise ValueError("split: the weights are all 0; expected one that is not")
        if self.split and len({(side.backend, side.model) for side in self.split}) < len(self.split):
            raise ValueError("split: two sides are the same workers")
        return self

    @model_validator(mode="after")
    def _model_named(self) -> WorkerDoc:
        if self.model is None and self.need != "none":
            raise ValueError("worker needs model, an expression that gives the model's name, or need: none")
        return self


def _operation(name: str) -> str:
    if name not in OPERATIONS:
        raise ValueError(f"unknown operation '{name}'; expected one of {', '.join(OPERATIONS)}")
    return name


OperationName = Annotated[str, AfterValidator(_operation), Field(json_schema_extra={"enum": [*OPERATIONS]})]


class AskDoc(Strict):
    """`ask`: a question to the worker before the request. Where it fails, the step is null."""

    path: Text | None = None
    """POST this path of the worker."""
    body: Spec | None = None
    """With this body."""
    operation: OperationName | None = None
    """Or ask for an operation, as the worker's backend puts it."""
    with_: dict[str, Spec] | None = Field(None, alias="with")
    """With these arguments."""
    result: Expression
    """What is kept of the answer: of `upstream`, or of the operation's results."""

    @model_validator(mode="after")
    def _path_or_operation(self) -> AskDoc:
        if (self.path is None) == (self.operation is None):
            raise ValueError("ask has either a path or an operation")
        if (self.path is None) != (self.body is None) or (self.operation is None) != (self.with_ is None):
            raise ValueError("a path goes with a body, an operation with its arguments, in with")
        return self


class StepDoc(Strict):
    """One step: `set` names a value (by `value`, a mapping, or `ask`), or `check` refuses what does not hold."""

    set: Name | None = None
    """The name of a value for later: `steps.NAME`."""
    value: Spec | None = None
    """Where it comes from."""
    ask: AskDoc | None = None
    """Or the question to the worker that gives it."""
    when: Expression | None = None
    """Only if this holds; else it is null."""
    check: Expression | None = None
    """Refuse the request where this does not hold."""
    error: Kind = "invalid_request"
    """The kind of the error."""
    message: Message | None = None
    """What the caller is told."""
    field: Text | None = None
    """Which of the caller's fields it is about."""

    @model_validator(mode="after")
    def _set_or_check(self) -> StepDoc:
        if (self.set is None) == (self.check is None):
            raise ValueError("a step has either set or check")
        if self.set is not None:
            if (self.value is None) == (self.ask is None):
                raise ValueError("a step that sets a name has either value or ask")
            misplaced = sorted({"error", "message", "field"} & self.model_fields_set)
            if misplaced:
                raise ValueError(f"only a check has {' and '.join(misplaced)}; this step sets a name")
        elif self.message is None or self.value is not None or self.ask is not None or self.when is not None:
            raise ValueError("a check has a message, and may have error and field, nothing else")
        return self


class BatchDoc(Strict):
    """`batch`: ask the worker in parts, one after the other; the body sees each part as `batch`."""

    of: Expression
    """The array."""
    size: Annotated[int, Field(ge=1, le=10_000)]
    """Elements in one request."""


class FailureDoc(Strict):
    """`failure`: how a whole answer of the worker, `upstream`, says that it failed."""

    code: Expression
    """Neither null nor 0 where it failed."""
    message: Expression | None = None
    """What the worker says of it."""


class RequestDoc(Strict):
    """`request`: what goes to the worker."""

    method: Literal["POST", "GET"] = "POST"
    """How the worker is asked."""
    path: Text
    """A path of the worker's."""
    headers: dict[str, Expression] = {}
    """Headers that the worker gets; one that is null is left out."""
    batch: BatchDoc | None = None
    failure: FailureDoc | None = None
    body: Spec
    """What it gets."""
    resume: dict[Text, Spec] | None = None
    """The fields of the body that differ where another worker goes on with a lost stream. Left out: a lost stream stays
    lost.
    """


class CallDoc(Strict):
    """`call`: what is asked of whichever worker the request gets. How that worker is asked is in the pack of its
    backend.
    """

    operation: OperationName
    """Which one."""
    each: Expression | None = None
    """An array: the call is made once for each of its elements, with `item` and `index`."""
    with_: dict[str, Spec] = Field(alias="with")
    """A mapping for each argument."""


class OperationDoc(Strict):
    """`operation`: what the gateway does before it answers."""

    does: Literal["start_model", "stop_model"]
    """What is done."""
    model: Expression
    """The name of the model."""
    kind: Expression | None = None
    """The client's word for one kind of the model."""


class FieldsDoc(Strict):
    """`fields`: names that the two sides have beside those in the tests, for `compat`."""

    request: list[Text] = []
    """In the client's request."""
    answer: list[Text] = []
    """In the worker's answer or frames."""


class RouteDoc(Strict):
    """A rule file: one route."""

    route: Name
    """Its name within the pack."""
    description: Text
    """What it is for, in a sentence."""
    match: MatchDoc
    like: Name | None = None
    """Another route of the pack, whose worker, steps, call, request and stream.from this one shares."""
    beside: Name | None = None
    """Another route of the pack, whose match and worker this one shares, for workers of other backends."""
    worker: WorkerDoc | None = None
    steps: list[StepDoc] = []
    """What is looked at and worked out before the request, in order."""
    call: CallDoc | None = None
    request: RequestDoc | None = None
    stream: StreamDoc | None = None
    answer: AnswerDoc | None = None
    operation: OperationDoc | None = None
    errors: Literal["body", "frame"] | None = None
    """Whether an error looks as the `body` or the `frame` of errors.yaml. Left out: a frame in a stream, else the body.
    """
    fields: FieldsDoc | None = None
    tests: list[TestDoc] = []
    """Run by `test`, and before the rule is served."""

    @model_validator(mode="before")
    @classmethod
    def _requests(cls, said: object) -> object:
        if not isinstance(said, dict) or said.get("beside") is None:
            return said
        if {"match", "worker", "request"} & said.keys():
            raise ValueError("beside takes match and worker from the other route; leave match, worker and request out")
        return {**said, "match": {"method": [], "path": "/"}}

    @model_validator(mode="after")
    def _shape(self) -> RouteDoc:
        streams_out = self.stream is not None and self.stream.to is not None
        if streams_out == (self.answer is not None):
            raise ValueError("a route has either stream.to or answer: how its client gets the result")
        if streams_out and self.errors == "body":
            raise ValueError("errors: body cannot be said in a stream; leave errors out")
        if self.operation is not None and (self.worker or self.request or self.call):
            raise ValueError("an operation is the gateway's own; leave worker, request and call out")
        if self.like is not None:
            given = {"worker", "steps", "call", "request"} & self.model_fields_set
            if given or (self.stream is not None and "from_" in self.stream.model_fields_set):
                raise ValueError(
                    "like takes worker, steps, call, request and stream.from from the other route; leave them out here"
                )
            return self
        if self.call is not None:
            return self._calling(self.call)
        if self.stream is not None and (self.request is None or self.stream.from_ is None):
            raise ValueError("a stream needs a request that starts it, and from, which says how it is read")
        asks = self.request is not None or any(step.ask for step in self.steps)
        if asks and self.beside is None and (self.worker is None or self.worker.need != "lease"):
            raise ValueError("a request needs a worker that can answer now: add worker with kind and model")
        if self.request is not None and self.request.batch is not None and self.stream is not None:
            raise ValueError("a stream cannot be asked for in batches")
        if self.request is not None and self.request.resume == {}:
            raise ValueError("request.resume names no field; expected what differs where another worker goes on")
        resumes = self.request is not None and self.request.resume is not None
        if resumes and self.stream is None:
            raise ValueError("request.resume is for a stream of the worker; there is no stream here")
        if not resumes and self.stream is not None and self.stream.from_ is not None and self.stream.from_.echoed:
            raise ValueError("stream.from.echoed is for a stream that goes on; there is no request.resume here")
        return self

    def _calling(self, call: CallDoc) -> RouteDoc:
        if self.request is not None or (self.stream is not None and self.stream.from_ is not None):
            raise ValueError("a call is asked as the worker's backend wants it; leave request and stream.from out")
        if self.beside is None and (self.worker is None or self.worker.need != "lease"):
            raise ValueError("a call needs a worker that can answer now: add worker with kind and model")
        if any(step.ask is not None and step.ask.operation is None for step in self.steps):
            raise ValueError("beside a call, steps ask for an operation, since nobody knows the worker's paths here")
        if self.stream is not None and "text" not in OPERATIONS[call.operation].results:
            raise ValueError(f"{call.operation} gives one answer and no stream")
        return self
