"""From one simulated run to medians over several seeds."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from statistics import median

from benchmarks.simulation.engine import Dispatcher, Record, Simulation, Station
from benchmarks.simulation.gateway import GatewayChoice
from benchmarks.simulation.load import Job, World
from benchmarks.simulation.neighbours import RandomChoice, ShortestQueue

# Requests at the beginning, while the fleet fills up, that are served but not counted; a share of all.
WARM_UP = 0.1
# How long a request waits in the gateway before it is refused, unless set otherwise.
QUEUE_SECONDS = 30.0
BASE = "least in flight"

Maker = Callable[[Simulation, random.Random], Dispatcher]
CHOICES: dict[str, Maker] = {
    BASE: partial(GatewayChoice, policy="least_in_flight"),
    "power of two": partial(GatewayChoice, policy="power_of_two"),
    "weighted round robin": partial(GatewayChoice, policy="weighted_round_robin"),
    "random": partial(GatewayChoice, policy="random"),
    "consistent hash": partial(GatewayChoice, policy="consistent_hash"),
    "least in flight, no limits": partial(GatewayChoice, policy="least_in_flight", limited=False),
    "power of two, no limits": partial(GatewayChoice, policy="power_of_two", limited=False),
    "FastChat shortest queue": ShortestQueue,
    "FastChat, true speeds": partial(ShortestQueue, true_speeds=True),
    "DB-GPT random": RandomChoice,
}
NEIGHBOURS = ("FastChat shortest queue", "FastChat, true speeds", "DB-GPT random")


@dataclass(frozen=True)
class Figures:
    """Of one run, or medians of several. Times are seconds; `wait` until a slot began, `answer` until its last token.

    late: share of requests that waited longer than the gateway lets one wait unless told otherwise; crowded: share
    that came while as many waited as it lets wait.
    """

    wait_p50: float
    wait_p99: float
    wait_max: float
    answer_p50: float
    answer_p99: float
    late: float
    crowded: float


def play(world: World, jobs: Sequence[Job], make: Maker, rng: random.Random) -> tuple[Record, Simulation]:
    """One run of these requests; the simulation comes back for those who check it."""
    stations = [Station(number, world.slots, speed) for number, speed in enumerate(world.speeds())]
    simulation = Simulation(stations, jobs)
    return simulation.run(make(simulation, rng)), simulation


def run_once(choice: str, world: World, requests: int, seed: int) -> Figures:
    """The same seed gives everything that is compared the same requests."""
    jobs = world.jobs(requests, seed)
    record, _ = play(world, jobs, CHOICES[choice], random.Random(f"choice {seed}"))
    return figures(record, jobs)


def figures(record: Record, jobs: Sequence[Job]) -> Figures:
    """Without the warm-up."""
    first = int(len(jobs) * WARM_UP)
    waits = sorted(record.waits[first:])
    answers = sorted(end - job.arrives for end, job in zip(record.ends[first:], jobs[first:], strict=True))
    return Figures(
        wait_p50=_share(waits, 0.5),
        wait_p99=_share(waits, 0.99),
        wait_max=waits[-1],
        answer_p50=_share(answers, 0.5),
        answer_p99=_share(answers, 0.99),
        late=sum(wait > QUEUE_SECONDS for wait in waits) / len(waits),
        crowded=record.crowded / len(jobs),
    )


def _share(values: Sequence[float], share: float) -> float:
    """The smallest of the sorted `values`, of which there is one at least, that `share` of them do not exceed."""
    return values[max(math.ceil(share * len(values)) - 1, 0)]


def medians(runs: Iterable[Figures]) -> Figures:
    """Of each figure by itself."""
    known = list(runs)
    return Figures(**{part.name: median(getattr(run, part.name) for run in known) for part in fields(Figures)})


def times(figure: float, base: float) -> float:
    """How many times `base`; infinite where the base is nought and the figure is not, 1 where both are."""
    if base:
        return figure / base
    return math.inf if figure else 1.0
