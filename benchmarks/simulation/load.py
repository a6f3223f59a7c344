"""The fleet and the load that a simulation plays: drawn once from a seed, the same for everything compared."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One request. arrives: seconds; tokens: the length of its answer; session: whose conversation it belongs to."""

    number: int
    arrives: float
    tokens: float
    session: str


@dataclass(frozen=True)
class World:
    """What is simulated.

    The workers' speeds (tokens a second in each slot) lie evenly between `slowest` and `slowest * spread`. Answers are
    `shortest` to `longest` tokens long, Pareto-distributed with `tail`: half are short, a few hold most of the work.
    Arrivals are Poisson; now and then (`calm_seconds` apart) the rate is `burst` times as high for `burst_seconds`.
    utilisation: the work that arrives, of what all slots can do, on average over calm times and bursts.
    """

    utilisation: float = 0.75
    workers: int = 60
    slots: int = 4
    slowest: float = 10.0
    spread: float = 4.0
    shortest: float = 60.0
    longest: float = 4_096.0
    tail: float = 1.2
    calm_seconds: float = 60.0
    burst: float = 2.0
    burst_seconds: float = 10.0
    sessions: int = 2_000

    def speeds(self) -> list[float]:
        """Of every worker, from the slowest on."""
        steps = max(self.workers - 1, 1)
        return [self.slowest * (1 + (self.spread - 1) * index / steps) for index in range(self.workers)]

    def mean_tokens(self) -> float:
        """Of the bounded Pareto distribution with these ends; `tail` is not 1."""
        low, high, tail = self.shortest, self.longest, self.tail
        part = low**tail / (1 - (low / high) ** tail) * tail / (tail - 1)
        return float(part * (low ** (1 - tail) - high ** (1 - tail)))

    def calm_rate(self) -> float:
        """Requests a second between bursts."""
        mean = self.utilisation * self.slots * sum(self.speeds()) / self.mean_tokens()
        period = self.calm_seconds + self.burst_seconds
        return mean * period / (self.calm_seconds + self.burst * self.burst_seconds)

    def jobs(self, count: int, seed: int) -> list[Job]:
        """The first `count` requests, in order of arrival.

        Another utilisation with the same seed has the same bursts and answers. So few requests never arrive exactly at
        the wanted rate, so time is stretched until they do.
        """
        times = self._arrivals(count, random.Random(f"arrivals {seed}"), random.Random(f"bursts {seed}"))
        rng = random.Random(f"answers {seed}")
        sizes = [(self._tokens(rng), rng.randrange(self.sessions)) for _ in times]
        wanted = self.utilisation * self.slots * sum(self.speeds())
        stretch = sum(tokens for tokens, _ in sizes) / times[-1] / wanted
        return [
            Job(number, time * stretch, tokens, f"session {session}")
            for number, (time, (tokens, session)) in enumerate(zip(times, sizes, strict=True))
        ]

    def _arrivals(self, count: int, rng: random.Random, bursts: random.Random) -> list[float]:
        calm, now = self.calm_rate(), 0.0
        found: list[float] = []
        bursting, changes = False, bursts.expovariate(1 / self.calm_seconds)
        while len(found) < count:
            step = rng.expovariate(calm * (self.burst if bursting else 1.0))
            if now + step > changes:
                now, bursting = changes, not bursting
                changes += bursts.expovariate(1 / (self.burst_seconds if bursting else self.calm_seconds))
                continue
            now += step
            found.append(now)
        return found

    def _tokens(self, rng: random.Random) -> float:
        cut = 1 - rng.random() * (1 - (self.shortest / self.longest) ** self.tail)
        return float(self.shortest * cut ** (-1 / self.tail))
