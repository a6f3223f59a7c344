"""What the gateway is meant to reach: ratios within one run, so that they hold on any machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

Medians = Mapping[str, Mapping[str, Mapping[str, float]]]
"""By scenario, program and quantity."""


class Verdict(NamedTuple):
    """A target as it is shown; `word` is met, not met or not measured. value: the bare number of `measured`."""

    what: str
    limit: str
    measured: str
    word: str
    value: float | None


@dataclass(frozen=True)
class Target:
    """measure: the value that must be at most (or at least) `limit`; None where the run lacks what it is made of."""

    what: str
    limit: float
    unit: str
    measure: Callable[[Medians], float | None]
    at_least: bool = False

    def judge(self, found: Medians) -> Verdict:
        value = self.measure(found)
        limit = f"at {'least' if self.at_least else 'most'} {_shown(self.limit, self.unit)}"
        if value is None:
            return Verdict(self.what, limit, "", "not measured", None)
        met = value >= self.limit if self.at_least else value <= self.limit
        return Verdict(self.what, limit, _shown(value, self.unit), "met" if met else "not met", round(value, 4))


def _shown(value: float, unit: str) -> str:
    if unit == "×" and 0 < value < 0.5:
        return f"1/{1 / value:.1f}"
    return f"{value:.2f} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _median(found: Medians, scenario: str, program: str, quantity: str) -> float | None:
    return found.get(scenario, {}).get(program, {}).get(quantity)


def _beside(
    scenario: str, other: str, quantity: str = "cpu_us", *, elsewhere: str | None = None
) -> Callable[[Medians], float | None]:
    """The gateway's median divided by that of another program, there or in another scenario of the same load."""

    def measure(found: Medians) -> float | None:
        own = _median(found, scenario, "gateway", quantity)
        base = _median(found, elsewhere or scenario, other, quantity)
        return own / base if own is not None and base else None

    return measure


def _above_direct(scenario: str, quantity: str) -> Callable[[Medians], float | None]:
    def measure(found: Medians) -> float | None:
        own = _median(found, scenario, "gateway", quantity)
        base = _median(found, scenario, "direct", quantity)
        return own - base if own is not None and base is not None else None

    return measure


def unloaded_rate(rate: float, load_cores: float, cpus: float, processes: int) -> float:
    """The rate that `processes` would reach if worker and load client, busy on `load_cores`, ran on another machine.

    With one process and a CPU to spare that is the measured rate.
    """
    could = min(float(processes), cpus)
    had = min(could, cpus - load_cores)
    return rate * could / had if had > 0 else rate


def _two_against_one(found: Medians) -> float | None:
    rates = []
    for program, processes in (("gateway-2", 2), ("gateway", 1)):
        rate = _median(found, "saturation", program, "chunks_per_second")
        cores = _median(found, "saturation", program, "load_cores")
        cpus = _median(found, "saturation", program, "cpus")
        if rate is None or cores is None or cpus is None:
            return None
        rates.append(unloaded_rate(rate, cores, cpus, processes))
    return rates[0] / rates[1]


def _all_right(found: Medians) -> float | None:
    right = _median(found, "thousand", "gateway-2", "right")
    return None if right is None else right * 100


TARGETS = (
    Target("CPU per chunk, worker stream, beside nginx", 1.8, "×", _beside("worker", "nginx")),
    Target("the same, beside FastChat's OpenAI server", 1 / 12, "×", _beside("worker", "fastchat", elsewhere="openai")),
    Target("the same with a field changed in every chunk, beside nginx", 2.2, "×", _beside("field", "nginx")),
    Target("CPU per chunk, OpenAI stream, beside nginx", 2.5, "×", _beside("openai", "nginx")),
    Target("CPU per chunk, OpenAI stream, beside FastChat's OpenAI server", 1 / 8, "×", _beside("openai", "fastchat")),
    Target("CPU per chunk, OpenAI stream, beside LiteLLM", 1 / 15, "×", _beside("openai", "litellm")),
    Target("CPU per byte, answers of 2,000 chunks, beside nginx", 2.0, "×", _beside("long", "nginx", "cpu_ns")),
    Target("first byte added at one stream, p50", 1.0, "ms", _above_direct("one", "first_byte_ms_p50")),
    Target("first byte added at one stream, p99", 3.0, "ms", _above_direct("one", "first_byte_ms_p99")),
    Target("delay added to a chunk at half load, p99", 5.0, "ms", _above_direct("half", "delay_ms_p99")),
    Target(
        "CPU per request, a token count on a new connection each, beside nginx", 5.0, "×", _beside("count", "nginx")
    ),
    Target(
        "CPU per request, an answer of 20 chunks in one piece on a new connection each, beside nginx",
        5.0,
        "×",
        _beside("connections", "nginx"),
    ),
    Target(
        "serve: from its start to its first answer, with all shipped rules",
        0.5,
        "s",
        lambda found: _median(found, "start", "gateway", "serve"),
    ),
    Target("1,000 streams, two processes: answers that are complete and right", 100.0, "%", _all_right, at_least=True),
    Target(
        "1,000 streams: memory of an open stream",
        60.0,
        "kB",
        lambda found: _median(found, "thousand", "gateway", "memory_kb"),
    ),
    Target(
        "two processes against one at saturation, worker and client taken out",
        1.7,
        "×",
        _two_against_one,
        at_least=True,
    ),
)


def judge(found: Medians) -> list[Verdict]:
    """Every target on these medians."""
    return [target.judge(found) for target in TARGETS]
