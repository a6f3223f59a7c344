"""What one pair of route and model counts, and each backend for it: the objects that a request's code calls, on the
hot path too.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Literal, get_args

from proxy.limits import BACKENDS_MAX
from proxy.telemetry.buckets import FIRST_FRAME, INTER_FRAME, OVERHEAD, REQUEST_DURATION
from proxy.telemetry.cells import OTHER, HistogramCell

Outcome = Literal["ok", "client_error", "upstream_error", "gateway_error", "cancelled", "refused"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

Phase = Literal["translate", "queue", "connect"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)


class Totals:
    """Sums over all requests. received: from workers; sent: to clients. Bytes are body bytes."""

    __slots__ = ("phases", "received_bytes", "received_frames", "sent_bytes", "sent_frames")

    def __init__(self) -> None:
        self.received_frames = 0
        self.received_bytes = 0
        self.sent_frames = 0
        self.sent_bytes = 0
        self.phases: dict[Phase, HistogramCell] = {phase: HistogramCell(OVERHEAD) for phase in PHASES}


class BackendMetrics:
    """Counts of the calls to workers of one backend for the requests of one route and model; times are seconds.

    Each worker that a request is tried on is a call of its own: `started` once and `finished` once.
    """

    __slots__ = (
        "completion_tokens",
        "duration",
        "first",
        "gaps",
        "in_flight",
        "outcomes",
        "prompt_tokens",
        "request",
        "token",
    )

    def __init__(self, request: RequestMetrics) -> None:
        self.request = request
        self.in_flight = 0
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.duration = HistogramCell(REQUEST_DURATION)
        self.first = HistogramCell(FIRST_FRAME)
        self.gaps = HistogramCell(INTER_FRAME)
        self.token = HistogramCell(INTER_FRAME)
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def started(self) -> None:
        self.in_flight += 1

    def first_frame(self, seconds: float) -> None:
        """Time from the call to its first frame."""
        self.first.observe(seconds)

    def gap(self, seconds: float) -> None:
        """Time since the stream's last read that carried frames; called for each read, so it does the cell's work."""
        gaps = self.gaps
        gaps.counts[bisect_left(INTER_FRAME, seconds)] += 1
        gaps.total += seconds

    def tokens(self, prompt: int, completion: int, seconds: float) -> None:
        """What the worker said that it read and made. seconds: from the first frame to the last one."""
        self.prompt_tokens += max(prompt, 0)
        self.completion_tokens += max(completion, 0)
        if completion > 1 and seconds > 0.0:
            self.token.observe(seconds / (completion - 1))  # the first token came with the first frame

    def finished(self, outcome: Outcome, seconds: float) -> None:
        """The end of a call that was `started`."""
        self.in_flight -= 1
        self.outcomes[outcome] += 1
        self.duration.observe(seconds)

    def take(self, other: BackendMetrics) -> None:
        """Add what another one has, such as that of another route."""
        self.in_flight += other.in_flight
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        self.duration.take(other.duration)
        self.first.take(other.first)
        self.gaps.take(other.gaps)
        self.token.take(other.token)
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class RequestMetrics:
    """Counts of the requests of one route for one model. Methods are for the event loop's thread; times are seconds.

    fold: the label for a model's name. A request calls `started` once and `finished` once, whatever happens between
    them.
    """

    __slots__ = (
        "_fold",
        "_totals",
        "backends",
        "completion_tokens",
        "duration",
        "first",
        "gaps",
        "in_flight",
        "model",
        "outcomes",
        "prompt_tokens",
        "route",
    )

    def __init__(self, route: str, model: str, totals: Totals, fold: Callable[[str], str]) -> None:
        self.route = route
        self.model = model
        self._totals = totals
        self._fold = fold
        self.backends: dict[tuple[str, str], BackendMetrics] = {}
        self.in_flight = 0
        self.outcomes: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self.duration = HistogramCell(REQUEST_DURATION)
        self.first = HistogramCell(FIRST_FRAME)
        self.gaps = HistogramCell(INTER_FRAME)
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def backend(self, name: str, model: str) -> BackendMetrics:
        """The counters of this backend for the model that answers: the same object for the same pair. Those of too many
        are one, `other`.
        """
        key = name, self._fold(model)
        found = self.backends.get(key)
        if found is None:
            if len(self.backends) >= BACKENDS_MAX:
                key = OTHER, OTHER
            found = self.backends.setdefault(key, BackendMetrics(self))
        return found

    def started(self) -> None:
        self.in_flight += 1

    def first_frame(self, seconds: float) -> None:
        """Time from the request to the first frame of its stream."""
        self.first.observe(seconds)

    def switched(self, seconds: float) -> None:
        """Time between the last frame of one worker and the first of another that goes on with its stream."""
        self.gaps.observe(seconds)

    def received(self, frames: int, size: int) -> None:
        """Frames and bytes that came from a worker; once for each stream, at its end."""
        self._totals.received_frames += frames
        self._totals.received_bytes += size

    def sent(self, frames: int, size: int) -> None:
        """Frames and bytes that went to the client; once for each stream, at its end."""
        self._totals.sent_frames += frames
        self._totals.sent_bytes += size

    def tokens(self, prompt: int, completion: int) -> None:
        """The usage that a worker reported. Negative numbers, which only a broken worker sends, count as none."""
        self.prompt_tokens += max(prompt, 0)
        self.completion_tokens += max(completion, 0)

    def spent(self, phase: Phase, seconds: float) -> None:
        """Time that the gateway itself added to a request. KeyError for an unknown phase."""
        self._totals.phases[phase].observe(seconds)

    def finished(self, outcome: Outcome, seconds: float) -> None:
        """The end of a request that was `started`. KeyError for an unknown outcome."""
        self.in_flight -= 1
        self.outcomes[outcome] += 1
        self.duration.observe(seconds)
