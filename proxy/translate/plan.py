"""What a rule file is after compilation: immutable plans that the run time follows, and nothing that knows YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from proxy.errors import Kind
from proxy.framing import Framing
from proxy.translate.accept import preferred
from proxy.translate.fields import NOTHING_NAMED, NamedFields
from proxy.translate.mapping import Read, Value
from proxy.translate.operations import OPERATIONS
from proxy.translate.steps import Check, Step, Steps
from proxy.translate.text import Mode
from proxy.types import Json

if TYPE_CHECKING:
    from proxy.translate.quick import Quick

Selection = Literal["lease", "known", "none"]


class ErrorEntry(NamedTuple):
    """One line of a dialect's error table: the HTTP status and the dialect's own code."""

    status: int
    code: Json


class ErrorTable(NamedTuple):
    """How a dialect says that something went wrong.

    body: the error as a whole answer; frame: the error as a frame of a stream, None where the dialect has none;
    stream_status: the status of a stream whose first frame is the error, None where such a request gets the body
    instead. Both mappings see `error` (kind, message, field, code, upstream_code) and `text` (what the client has so
    far).
    """

    entries: Mapping[str, ErrorEntry]
    default: ErrorEntry
    body: Value
    frame: Value | None
    stream_status: int | None

    def entry(self, kind: Kind) -> ErrorEntry:
        """The table's line for this kind, or its default."""
        return self.entries.get(kind, self.default)


class Batch(NamedTuple):
    """Ask in parts: `items` is split into slices of `size`; the request mapping sees each as `batch`, the response all
    as `answers`.
    """

    items: Read
    size: int


class Refusal(NamedTuple):
    """How a worker says with an HTTP status that it does not answer. message, kind: read `body` (null where it is no
    JSON), `text` and `status`; kinds: what single statuses mean where `kind` names none, else it is `upstream_status`.
    """

    message: Read | None
    kinds: Mapping[int, Kind]
    kind: Read | None = None


class UpstreamPlan(NamedTuple):
    """The request to the worker. failure_code, failure_message: how its whole answer, seen as `upstream`, says that it
    failed. resume: fields of the body that are put in place of the mapped ones when another worker goes on with a lost
    stream; they see `request` (the mapped body), `text` and `tokens` (what had come). None: a lost stream stays lost.
    """

    method: str
    path: str
    headers: Mapping[str, Read]
    body: Value
    batch: Batch | None = None
    failure_code: Read | None = None
    failure_message: Read | None = None
    resume: Mapping[str, Value] | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True)
class StreamSource:
    """How the worker's stream is read: its framing, and what each frame means. prefix: text before the worker's own;
    echoed: what a worker repeats before the new text when it goes on with another one's stream; it sees `text`, what
    had come. None: it repeats nothing. finish_at_end: frames that still tell something, such as the usage, may follow
    the one that says why the answer ended. keeps_stops: the worker leaves the stop string that ended it in its text.
    error_status: the HTTP status that an error in a frame would have come with; `refusal` says what that means.
    """

    framing: Framing
    mode: Mode
    text: Read
    finish: Value | None
    usage: Value | None
    error_code: Read | None
    error_message: Read | None
    stops: Read | None
    prefix: Read | None
    missing_finish: str | None
    echoed: Read | None = None
    reasoning: Read | None = None
    logprobs: Read | None = None
    finish_at_end: bool = False
    keeps_stops: bool = False
    error_status: Read | None = None
    refusal: Refusal | None = None


@dataclass(frozen=True)
class StreamTarget:
    """How the client's stream is written. first: a frame before the first one; last: the mapping of the finishing
    frame, None where it is the chunk's; final: one more frame behind that; resumed: what `chunk` is to them once a
    worker that went on, or the gateway itself, ends the stream of another one, None: that worker's frame; usual: what
    the chunk's mapping comes to while there is no thought, None: the same; step: what rewrites the usual frame quickly,
    see `quick`.
    """

    framing: Framing
    mode: Mode
    hold_back: int
    chunk: Value
    last: Value | None = None
    first: Value | None = None
    final: Value | None = None
    resumed: Value | None = None
    usual: Value | None = None
    step: Quick | None = None


class Answer(NamedTuple):
    """A whole answer: status, headers and body, once the checks on the worker's answer hold."""

    status: int
    headers: Mapping[str, Read]
    body: Value
    checks: tuple[Check, ...] = ()


class Operation(NamedTuple):
    """Something that the gateway does about a model before it answers: "start_model" or "stop_model".

    kind: the client's word for what the model is asked for; None or null: for everything.
    """

    name: str
    model: Read
    kind: Read | None


class CallPlan(NamedTuple):
    """What a rule asks of whichever worker it gets: an operation, and its arguments as one object. each: an array, for
    each element of which that is done once, with `item` and `index`.
    """

    operation: str
    arguments: Value
    each: Read | None = None


@dataclass(frozen=True)
class Asking:
    """How the workers of one backend are asked for one operation. Its expressions see `call` (the arguments), `worker`,
    `gateway` and `steps` of its own, and nothing of the client's request.

    condition: on the call, None: always. result: what a whole answer means, as one object; None where `source` reads a
    stream. `place` is `file:line`. named: the fields that its expressions read, so that the others can be counted.
    """

    backend: str
    name: str
    operation: str
    place: str
    condition: Read | None
    steps: Steps
    upstream: UpstreamPlan
    source: StreamSource | None
    result: Value | None
    checks: tuple[Check, ...]
    exclusive: bool
    sample: Mapping[str, Json]
    named: NamedFields = NOTHING_NAMED

    @property
    def pack(self) -> str:
        """Its pack, as metrics and pages name it: a dialect may have the name of a backend."""
        return f"backends/{self.backend}"


class Side(NamedTuple):
    """Workers of one backend (None: whichever), asked for the model that `model` gives (None, or null: the request's
    own). weight: against those of the other sides; of a mirror: the share of the requests that it gets a copy of.
    """

    weight: float
    backend: str | None = None
    model: Read | None = None


class Spread(NamedTuple):
    """sides: among which requests are split, none where they are not; mirror: who gets copies of them."""

    sides: tuple[Side, ...] = ()
    mirror: Side | None = None


NO_SPREAD: Final = Spread()


@dataclass(frozen=True)
class Route:
    """One rule: which requests it takes, and what becomes of them.

    Exactly one of these shapes: `target` (a stream), `source` without `target` (a stream that is collected into
    `answer`),
    `upstream` without `source` (one question, one `answer`), neither (answered from what the gateway knows).
    `place` is `file:line` of the rule. errors_as_frame: an error looks as the table's frame and comes with its
    `stream_status`. named: as in `Asking`.

    needs_body: its requests have one, which is a JSON object; takes_no_body: or none at all, which is an empty object.

    A route with a `call` is written once for each backend that has the operation: `variants` has these by backend,
    several where they depend on the call, and the route itself is the first one of its pack's own backend. In a
    variant `asking` says how its workers are asked. A route without a `call` asks workers of `backend` only (None:
    whichever). questions: how the operations that steps ask are put to the workers of each backend. also: the same
    route with the stream in other framings. others: the route in whose way workers of all other backends than `backend`
    are asked; None: they are not.
    """

    name: str
    pack: str
    place: str
    methods: tuple[str, ...]
    path: str
    headers: Mapping[str, Callable[[str], bool]]
    condition: Read | None
    selection: Selection
    kind: str | None
    model: Read | None
    steps: Steps
    errors: ErrorTable
    trace: Read | None = None
    upstream: UpstreamPlan | None = None
    source: StreamSource | None = None
    target: StreamTarget | None = None
    answer: Answer | None = None
    operation: Operation | None = None
    exclusive: bool = False
    errors_as_frame: bool = False
    needs_body: bool = True
    takes_no_body: bool = False
    needs_key: bool = False
    spread: Spread = NO_SPREAD
    sample: Mapping[str, Json] = field(default_factory=dict)
    backend: str | None = None
    call: CallPlan | None = None
    asking: Asking | None = None
    variants: Mapping[str, tuple[Route, ...]] = field(default_factory=dict)
    questions: Mapping[str, Mapping[str, tuple[Asking, ...]]] = field(default_factory=dict)
    also: tuple[Route, ...] = ()
    others: Route | None = None
    named: NamedFields = NOTHING_NAMED

    def accepted(self, accept: str) -> Route:
        """The route with the framing that an Accept header prefers."""
        if not self.also:
            return self
        routes = (self, *self.also)
        offered = [route.target.framing.content_type for route in routes if route.target is not None]
        return routes[preferred(accept, offered)]

    @cached_property
    def backends(self) -> frozenset[str] | None:
        """The backends whose workers this route can ask; None: whichever."""
        if self.others is not None and self.backend is not None:
            beside = self.others.backends
            return None if beside is None else beside | {self.backend}
        if self.call is not None:
            return frozenset(self.variants)
        questions = [step.call for step in self.steps if isinstance(step, Step) and step.call is not None]
        asks = self.upstream is not None or any(question.operation is None for question in questions)
        return frozenset({self.backend}) if asks and self.backend is not None else None

    @cached_property
    def has_parts(self) -> bool:
        """Whether its call may be made several times, for each element of an array."""
        calls = [route.call for route in (self, self.others) if route is not None]
        return any(call is not None and call.each is not None for call in calls)

    @cached_property
    def is_light(self) -> bool:
        """Whether it asks a worker for so little that it takes no place there and waits for none."""
        return self.upstream is None or (self.call is not None and OPERATIONS[self.call.operation].light)
