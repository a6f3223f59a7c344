"""What must hold after the load: nothing lost, nothing held, nobody left without a reason."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.chaos.load import Ended
from proxy.types import Json

# Gauges that are nought when nothing is under way; with the label values that are counted.
IDLE: dict[str, tuple[str, str] | None] = {
    "gateway_in_flight": None,
    "gateway_worker_in_flight": None,
    "gateway_queue_depth": None,
    "gateway_upstream_connections": ("state", "active"),
}
QUIET_SECONDS = 15.0
_EXAMPLES = 3


class Check(NamedTuple):
    """One thing that must hold. found: what was seen, in a few words."""

    name: str
    holds: bool
    found: str


class Sampled(NamedTuple):
    """What the gateway and the workers say of themselves."""

    metrics: dict[str, float]  # of every series, by name and labels as they are written
    leases: int
    queue_lengths: list[int]

    def busy(self) -> list[str]:
        """What is not at nought, or not told at all."""
        told = {name.partition("{")[0] for name in self.metrics}
        found = [f"no {name} in the metrics" for name in IDLE if name not in told]
        found += [f"{name} {value:g}" for name, value in self.metrics.items() if value and _is_idle_gauge(name)]
        found += [f"/status in_flight {self.leases}"] if self.leases else []
        return found + [f"worker {n} holds {length}" for n, length in enumerate(self.queue_lengths) if length]


def _is_idle_gauge(series: str) -> bool:
    name, _, labels = series.partition("{")
    if name not in IDLE:
        return False
    wanted = IDLE[name]
    return wanted is None or f'{wanted[0]}="{wanted[1]}"' in labels


async def sample(session: aiohttp.ClientSession, admin: str, workers: Sequence[str]) -> Sampled:
    async with session.get(f"{admin}/metrics") as response:
        page = await response.text()
    metrics = {
        s.name + "{" + ",".join(f'{name}="{value}"' for name, value in s.labels.items()) + "}": s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }
    async with session.get(f"{admin}/status") as response:
        rows = (await response.json())["workers"]
    lengths = []
    for url in workers:
        async with session.post(f"{url}/worker_get_status") as response:
            lengths.append(_whole((await response.json())["queue_length"]))
    return Sampled(metrics, sum(_whole(row["in_flight"]) for row in rows), lengths)


async def quiet(admin: str, workers: Sequence[str], seconds: float = QUIET_SECONDS) -> Sampled:
    """What is left when all is at nought, or after so many seconds."""
    end = time.monotonic() + seconds
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        while True:
            found = await sample(session, admin, workers)
            if not found.busy() or time.monotonic() > end:
                return found
            await asyncio.sleep(0.2)


def _whole(value: Json) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value


def checks(ended: Sequence[Ended], asked: int, left: Sampled, log: str, exit_code: int | None) -> list[Check]:
    """The list that is printed; `log` is all that the gateway wrote."""
    wrong = [e for e in ended if e.verdict.kind == "wrong"]
    failed = [e for e in ended if e.verdict.kind == "failed"]
    slots = [length for length in left.queue_lengths if length]
    held = [text for text in left.busy() if not text.startswith("worker")]
    faults = [line for line in log.splitlines() if "Traceback" in line or "the gateway failed" in line]
    return [
        Check("every request ended", len(ended) == asked, f"{len(ended)} of {asked}"),
        Check("each in a right answer or a right error", not wrong, _told(wrong)),
        Check("none failed before its stream began", not failed, _told(failed)),
        Check("nothing in flight, leased or waiting in the gateway", not held, "; ".join(held) or "all at 0"),
        Check("no slot of a worker lost", not slots, f"queue lengths {left.queue_lengths}"),
        Check("no fault of the gateway in its log", not faults, f"{len(faults)} lines" if faults else "none"),
        Check("the gateway ended in order when told to", exit_code == 0, f"exit code {exit_code}"),
    ]


def _told(ended: Sequence[Ended]) -> str:
    if not ended:
        return "0 others"
    lines = [
        f"no. {e.question.number} ({'stream' if e.question.stream else 'whole'}, {e.began:.1f}-{e.ended:.1f} s): "
        f"{e.verdict.code or ''} {e.verdict.detail}"
        for e in ended[:_EXAMPLES]
    ]
    return "\n".join([f"{len(ended)}, such as", *lines])
