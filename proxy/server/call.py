"""One client's request, for everything that works on it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

from proxy.errors import GatewayError
from proxy.recording.tape import TapedPart
from proxy.server.facilities import Facilities
from proxy.server.sinks import StreamSink
from proxy.server.tally import RuleTally
from proxy.server.traffic import Traffic
from proxy.telemetry.request import RequestMetrics
from proxy.translate.mapping import Scope
from proxy.translate.plan import Route, Spread
from proxy.translate.reader import StreamReader
from proxy.translate.request import StepValues


@dataclass
class Call:
    """One client's request, for everything that works on it.

    started, asked: on the facilities' clock, when it came and when the first worker was looked for; spent: seconds of
    CPU that rewriting took; queued: seconds spent waiting for a worker or its turn, None where it could have waited for
    nothing; frames: received from workers; answered: bytes of their whole answers; resumed: how often its stream went
    on with another worker; reader: of its last stream; workers: on which it was tried, in order; model: that the last
    of them answers with, "" before; stopped: set before the request is cancelled because the gateway stops. tally: what
    the rules did for it; tape: where it is recorded. index: which element of an array it answers, where there is one;
    steps: what steps gave for the elements, by worker; drawn: by what chance all of them go to one side of a split.
    """

    facilities: Facilities
    traffic: Traffic
    route: Route
    scope: Scope
    metrics: RequestMetrics
    tally: RuleTally
    started: float
    asked: float = 0.0
    spent: float = 0.0
    queued: float | None = None
    frames: int = 0
    answered: int = 0
    resumed: int = 0
    reader: StreamReader | None = None
    workers: list[str] = field(default_factory=list)
    model: str = ""
    stopped: GatewayError | None = None
    tape: TapedPart | None = None
    index: int = 0
    steps: StepValues | None = None
    drawn: float | None = None

    def part(self, index: int) -> Call:
        """The answer to one element of an array: workers, attempts and times of its own. `add` gives them back."""
        self.steps = {} if self.steps is None else self.steps
        self.drawn = self.facilities.rng.random() if self.drawn is None else self.drawn
        part = copy(self)
        part.index, part.scope, part.workers = index, dict(self.scope), []
        part.tape = None if self.tape is None else self.tape.part(index)
        return part

    def forget(self) -> None:
        """It is answered: only its numbers are held from now on, not what was asked."""
        self.scope = {}
        if self.reader is not None:
            self.reader.scope = {}

    def add(self, part: Call) -> None:
        """Take what was counted for a part into the whole request."""
        self.workers += part.workers
        self.model = part.model or self.model
        self.spent += part.spent
        self.frames += part.frames
        self.resumed += part.resumed
        if part.queued is not None:
            self.queued = max(self.queued or 0.0, part.queued)

    def spread(self, model: str) -> Spread:
        """How requests for this model are shared out: as the settings say, or the rule where they say nothing."""
        told, ruled = self.traffic.spreads.get(model), self.route.spread
        return ruled if told is None else Spread(told.sides or ruled.sides, told.mirror or ruled.mirror)

    def waited(self, seconds: float) -> None:
        """Add to the time in queues."""
        self.queued = (self.queued or 0.0) + seconds

    def left(self, total: float) -> float:
        """Seconds that workers may still take of `total` for the whole request; waiting in queues takes none of it."""
        return total - (self.facilities.clock() - self.asked) + (self.queued or 0.0)

    def count(self, sink: StreamSink) -> None:
        """Add a stream that is over to the request's numbers."""
        self.spent += sink.spent
        self.frames += sink.received_frames
        self.reader = sink.reader
        self.metrics.received(sink.received_frames, sink.received_bytes)
        sink.count_tokens()
        self.tally.streamed(sink.reader, sink.asking)
