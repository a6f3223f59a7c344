"""Which of several workers gets the next request: the policies.

Each takes the workers that may have it (at least one), the request's hash key or None, and a source of randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Protocol, TypeVar

from proxy.fleet.rules import PolicyName

_MASK: Final = (1 << 64) - 1
# A worker says its own speed; one that says nonsense gets neither everything nor nothing.
_SLOWEST, _FASTEST = 0.01, 1_000_000.0


class Draws(Protocol):
    """A source of randomness, such as `random.Random`."""

    def random(self) -> float:
        """From 0 up to but not 1."""


class EvenDraws:
    """Stands in for a source of randomness: always the same numbers, spread evenly."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0.0

    def random(self) -> float:
        """The next number; steps of the golden ratio leave no gaps."""
        self._last = (self._last + 0.6180339887498949) % 1.0
        return self._last


class Candidate(Protocol):
    """What a policy may look at."""

    address: str
    in_flight: int  # requests that the gateway has on this worker now
    foreign: int  # requests that others have there, as far as known
    speed: float  # relative, as the worker says
    seed: int  # `hash64(address)`


W = TypeVar("W", bound=Candidate)


class Policy(Protocol):
    """One way to choose. Some keep something between calls, so each model has its own."""

    def __call__(self, workers: Sequence[W], key: str | None, rng: Draws, /) -> W:
        """The worker for one request."""


def least_in_flight(workers: Sequence[W], key: str | None, rng: Draws) -> W:
    """The least loaded; among equals a random one, so that a quiet fleet is used evenly."""
    least, ties = -1, [workers[0]]
    for worker in workers:
        load = worker.in_flight + worker.foreign
        if load < least or least < 0:
            least, ties = load, [worker]
        elif load == least:
            ties.append(worker)
    return ties[0] if len(ties) == 1 else any_of(ties, key, rng)


def power_of_two(workers: Sequence[W], key: str | None, rng: Draws) -> W:
    """The less loaded of two different ones taken at random."""
    count = len(workers)
    if count == 1:
        return workers[0]
    first = int(rng.random() * count)
    second = int(rng.random() * (count - 1))
    one, other = workers[first], workers[second + (second >= first)]
    # Both are drawn in random order, so equals are a fair draw already.
    return one if one.in_flight + one.foreign <= other.in_flight + other.foreign else other


def any_of(workers: Sequence[W], key: str | None, rng: Draws) -> W:
    """Any, each as likely."""
    return workers[int(rng.random() * len(workers))]


def consistent_hash(workers: Sequence[W], key: str | None, rng: Draws) -> W:
    """For one key always the same worker as long as it is among them, and then its next one; without a key the least
    loaded. Each pair of key and worker has a figure and the highest wins, so a worker's leaving moves only its keys."""
    if key is None:
        return least_in_flight(workers, key, rng)
    mixed = hash64(key)
    return max(workers, key=lambda worker: _mix(mixed ^ worker.seed))


class WeightedRoundRobin:
    """In turn, each as often as its speed says, and spread out: weights 5, 1, 1 give A A B A C A A."""

    __slots__ = ("_turns",)

    def __init__(self) -> None:
        self._turns: dict[str, float] = {}

    def __call__(self, workers: Sequence[W], key: str | None, rng: Draws, /) -> W:
        """The worker whose turn it is."""
        turns = self._turns
        if len(turns) > 2 * len(workers) + 16:  # most of these are gone
            here = {worker.address for worker in workers}
            self._turns = turns = {address: turn for address, turn in turns.items() if address in here}
        total, most, chosen = 0.0, 0.0, workers[0]
        for worker in workers:
            weight = _weight(worker.speed)
            total += weight
            turn = turns[worker.address] = turns.get(worker.address, 0.0) + weight
            if turn > most or worker is workers[0]:
                most, chosen = turn, worker
        turns[chosen.address] -= total
        return chosen


def hash64(text: str) -> int:
    """64 bits of a text, the same in every process and on every machine."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def new_policy(name: PolicyName) -> Policy:
    """The policy of this name, with nothing remembered yet."""
    return _POLICIES[name]()


def _mix(value: int) -> int:
    """Each bit of `value` reaches each bit of the answer (the finalizer of splitmix64)."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def _weight(speed: float) -> float:
    if speed >= _SLOWEST:
        return min(speed, _FASTEST)
    return _SLOWEST  # also where it is no number


_POLICIES: Final[dict[PolicyName, Callable[[], Policy]]] = {
    "least_in_flight": lambda: least_in_flight,
    "power_of_two": lambda: power_of_two,
    "weighted_round_robin": WeightedRoundRobin,
    "random": lambda: any_of,
    "consistent_hash": lambda: consistent_hash,
}
