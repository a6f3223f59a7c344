"""What a rule file may say: one class for each kind of mapping in it. The keys are documented in docs/rules.md.

Only shapes are checked here; names of tables, expressions and what they read are the compiler's work.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from proxy.errors import Kind
from proxy.ruleset.selftest_documents import TestDoc
from proxy.ruleset.spread_documents import MirrorDoc, SideDoc
from proxy.ruleset.strict import Name, Strict, Text
from proxy.translate.mapping import TypeName, Unknown
from proxy.translate.operations import OPERATIONS
from proxy.translate.plan import Selection
from proxy.translate.text import Mode


class Clamp(Strict):
    """`clamp`: bounds into which a number is moved; a number or an expression each."""

    min: int | float | str | None = None
    max: int | float | str | None = None


class SpecDoc(Strict):
    """Where one value of the output comes from, and what happens to it on the way. A bare string is `from`."""

    from_: Text | None = Field(None, alias="from")
    value: JsonValue = None
    fields: dict[str, Spec] | None = None
    items: list[Spec] | None = None
    each: Text | None = None
    where: Text | None = None
    when: Text | None = None
    default: JsonValue = None
    null: Literal["omit", "keep", "refuse"] = "omit"
    required: bool = False
    table: Name | dict[str, JsonValue] | None = None
    unknown: Unknown = "refuse"
    type: TypeName | None = None
    min: int | float | None = None
    max: int | float | None = None
    one_of: list[JsonValue] | None = None
    clamp: Clamp | None = None
    name: Text | None = None

    @model_validator(mode="after")
    def _one_source(self) -> SpecDoc:
        sources = sorted({"from_", "value", "fields", "items"} & self.model_fields_set)
        if len(sources) != 1:
            given = " and ".join(source.rstrip("_") for source in sources) or "none"
            raise ValueError(f"a mapping needs exactly one of from, value, fields, items; got {given}")
        if self.where is not None and self.each is None:
            raise ValueError("where filters the elements of each; there is no each here")
        if "unknown" in self.model_fields_set and self.table is None:
            raise ValueError("unknown says what to do with a value that the table lacks; there is no table here")
        if self.null == "refuse" and self.from_ is None:
            raise ValueError("null: refuse needs a from that is a plain path such as body.temperature")
        if (self.min is not None or self.max is not None) and self.type not in {None, "integer", "number"}:
            raise ValueError(f"min and max are for numbers; the type here is {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


def _expression_is_from(value: object) -> object:
    if isinstance(value, str):
        return {"from": value}
    if not isinstance(value, dict):
        written = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        raise ValueError(f"expected an expression or a mapping; a constant is written {{value: {written[:40]}}}")
    return value


Spec = Annotated[SpecDoc, BeforeValidator(_expression_is_from)]


class MatchDoc(Strict):
    """`match`: which requests the route takes."""

    method: Text | list[Text]
    path: Text
    headers: dict[str, str] = {}
    when: Text | None = None


class WorkerDoc(Strict):
    """`worker`: which worker the request needs. need: lease (one that can answer now), known (what is known of it),
    none. split: where requests go by weight; mirror: where copies of them go.
    """

    kind: Name | None = None
    model: Text | None = None
    need: Selection = "lease"
    exclusive: bool = False
    split: list[SideDoc] | None = None
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


OperationName = Annotated[str, AfterValidator(_operation)]


class AskDoc(Strict):
    """`ask`: a question to the worker before the request: POST `path` with `body`, its answer seen as `upstream` by
    `result`; or an `operation` `with` its arguments, whose results `result` sees by their names.
    """

    path: Text | None = None
    body: Spec | None = None
    operation: OperationName | None = None
    with_: dict[str, Spec] | None = Field(None, alias="with")
    result: Text

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
    value: Spec | None = None
    ask: AskDoc | None = None
    when: Text | None = None
    check: Text | None = None
    error: Kind = "invalid_request"
    message: Text | None = None
    field: Text | None = None

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
    """`batch`: ask the worker in parts of `size` elements of the array `of`."""

    of: Text
    size: Annotated[int, Field(ge=1, le=10_000)]


class FailureDoc(Strict):
    """`failure`: how a whole answer of the worker says that it failed: a code that is neither null nor 0, and a
    message.
    """

    code: Text
    message: Text | None = None


class RequestDoc(Strict):
    """`request`: what goes to the worker. resume: fields of the body when another worker goes on with a lost stream."""

    method: Literal["POST", "GET"] = "POST"
    path: Text
    headers: dict[str, Text] = {}
    batch: BatchDoc | None = None
    failure: FailureDoc | None = None
    body: Spec
    resume: dict[Text, Spec] | None = None


class CallDoc(Strict):
    """`call`: what is asked of whichever worker the request gets: an operation `with` its arguments. How that worker
    is asked is in the pack of its backend.
    """

    operation: OperationName
    with_: dict[str, Spec] = Field(alias="with")


class ReadDoc(Strict):
    """`read`: what a frame of the worker means. error_status: the HTTP status that an error in a frame would have come
    with, by which it is known as by that of a refusal.
    """

    text: Text
    finish: Spec | None = None
    usage: Spec | None = None
    error_code: Text | None = None
    error_message: Text | None = None
    error_status: Text | None = None
    reasoning: Text | None = None
    logprobs: Text | None = None


class FromDoc(Strict):
    """`stream.from`: the worker's stream. finish_at_end: frames that still tell something follow the one that has the
    finish, so the client is told at the end of the stream. keeps_stops: one of `stops` that ended the text is still at
    its end, and is cut off.
    """

    framing: Name
    text: Mode
    read: ReadDoc
    stops: Text | None = None
    prefix: Text | None = None
    missing_finish: Text | None = None
    echoed: Text | None = None
    finish_at_end: bool = False
    keeps_stops: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> FromDoc:
        if self.echoed is not None and self.text != "cumulative":
            raise ValueError("stream.from.echoed is cut off each frame's whole text; it needs text: cumulative")
        if self.keeps_stops and self.stops is None:
            raise ValueError("stream.from.keeps_stops is about stop strings; it needs stops")
        return self


class ToDoc(Strict):
    """`stream.to`: the client's stream. also: further framings, among which its Accept header chooses; first: a frame
    before the first one; final: one more behind the last.
    """

    framing: Name
    also: list[Name] = []
    text: Mode
    hold_back: Annotated[int, Field(ge=0, le=64)] = 0
    first: Spec | None = None
    chunk: Spec
    last: Spec | None = None
    final: Spec | None = None
    resumed: Spec | None = None


class StreamDoc(Strict):
    """`stream`: without `to` it is collected into `answer`."""

    from_: FromDoc | None = Field(None, alias="from")
    to: ToDoc | None = None


class AnswerCheckDoc(Strict):
    """A condition on what the worker answered; where it does not hold, the answer is not passed on."""

    check: Text
    message: Text


class AnswerDoc(Strict):
    """`answer`: a whole answer to the client."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
    headers: dict[str, Text] = {}
    checks: list[AnswerCheckDoc] = []
    body: Spec


class OperationDoc(Strict):
    """`operation`: what the gateway does before it answers. kind: the client's word for one kind of the model."""

    does: Literal["start_model", "stop_model"]
    model: Text
    kind: Text | None = None


class FieldsDoc(Strict):
    """`fields`: names that the two sides have beside those in the tests: in the client's request, in the worker's
    answer or frames.
    """

    request: list[Text] = []
    answer: list[Text] = []


class RouteDoc(Strict):
    """A rule file: one route. errors: whether an error looks as the table's body or its frame; a stream's always is a
    frame.

    like: another route of the pack, whose worker, steps, call, request and stream.from this one shares. beside: another
    route of the pack, whose match and worker this one shares, for workers of other backends than the pack's.
    """

    route: Name
    description: Text
    match: MatchDoc
    like: Name | None = None
    beside: Name | None = None
    worker: WorkerDoc | None = None
    steps: list[StepDoc] = []
    call: CallDoc | None = None
    request: RequestDoc | None = None
    stream: StreamDoc | None = None
    answer: AnswerDoc | None = None
    operation: OperationDoc | None = None
    errors: Literal["body", "frame"] | None = None
    fields: FieldsDoc | None = None
    tests: list[TestDoc] = []

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


for _model in (
    SpecDoc,
    AskDoc,
    StepDoc,
    FailureDoc,
    CallDoc,
    RequestDoc,
    ReadDoc,
    ToDoc,
    AnswerDoc,
    StreamDoc,
    RouteDoc,
):
    _model.model_rebuild()
