"""The simulated fleet: its engine, the three ways to choose, and what the gateway's way is worth."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.simulation.engine import Record, Simulation, Station
from benchmarks.simulation.figures import BASE, CHOICES, NEIGHBOURS, Maker, medians, play, run_once
from benchmarks.simulation.gateway import GatewayChoice
from benchmarks.simulation.load import Job, World
from benchmarks.simulation.neighbours import RandomChoice, ShortestQueue

ROOT = Path(__file__).resolve().parents[2]
SMALL = World(utilisation=0.8, workers=12)


class FirstOfAll(random.Random):
    """No randomness: the first of several, and nine tenths of a period."""

    def choice(self, seq: Sequence[Station]) -> Station:  # type: ignore[override]
        return seq[0]

    def random(self) -> float:
        return 0.9


def two_workers(make: Maker, *arrivals: tuple[float, float]) -> Record:
    """Two workers of one slot and one token a second; arrivals are (time, tokens)."""
    jobs = [Job(number, time, tokens, "s") for number, (time, tokens) in enumerate(arrivals)]
    simulation = Simulation([Station(number, 1, 1.0) for number in range(2)], jobs)
    return simulation.run(make(simulation, FirstOfAll()))


@pytest.mark.parametrize(
    ("make", "waits", "served_by"),
    [
        (CHOICES[BASE], [0, 0, 3], [0, 1, 1]),
        (ShortestQueue, [0, 0, 9], [0, 1, 0]),
        (RandomChoice, [0, 10, 13], [0, 0, 0]),
    ],
    ids=["gateway", "shortest queue", "random"],
)
def test_three_requests_for_two_workers(make: Maker, waits: list[float], served_by: list[int]) -> None:
    """The gateway waits for the first free worker, the others wait where they were sent."""
    record = two_workers(make, (0, 10), (0, 4), (1, 4))
    if make is CHOICES[BASE]:  # its ties are not for the test to decide
        assert record.waits == waits
        assert record.served_by[0] != record.served_by[1] == record.served_by[2]
    else:
        assert (record.waits, record.served_by) == (waits, served_by)


def test_a_shortest_queue_is_corrected_only_by_heartbeats() -> None:
    """Between them finished work still counts, so that a request waits for one worker while the other is free."""
    before = [(0, 10), (20, 2), (30, 20), (31, 5)]  # the heartbeats of both come at 40.5 s
    record = two_workers(ShortestQueue, *before, (41, 2), (44, 1))
    assert record.served_by == [0, 1, 0, 1, 1, 0]
    assert record.waits == [0, 0, 0, 0, 0, 6]


def test_speeds_that_are_told_count() -> None:
    """A worker that says it is four times as fast gets four for the other's one."""
    jobs = [Job(number, 0.0, 1.0, "s") for number in range(10)]
    simulation = Simulation([Station(0, 1, 1.0), Station(1, 1, 4.0)], jobs)
    record = simulation.run(ShortestQueue(simulation, FirstOfAll(), true_speeds=True))
    assert sorted(record.served_by) == [0] * 2 + [1] * 8


@pytest.mark.parametrize("choice", CHOICES)
def test_every_request_is_served_once_within_the_slots(choice: str) -> None:
    """Nothing is lost or served twice, no worker has more at once than slots, and time adds up."""
    jobs = SMALL.jobs(1_500, 1)
    record, simulation = play(SMALL, jobs, CHOICES[choice], random.Random(1))
    assert all(station.running == 0 and not station.queue for station in simulation.stations)
    assert max(station.most_running for station in simulation.stations) == SMALL.slots
    assert simulation.waiting == 0
    for job, wait, end, server in zip(jobs, record.waits, record.ends, record.served_by, strict=True):
        assert wait >= 0
        assert end == pytest.approx(job.arrives + wait + job.tokens / simulation.stations[server].speed)


def test_the_gateway_keeps_waiting_requests_to_itself() -> None:
    """It never sends a worker more than its slots, and holds no lease when all is done."""
    jobs = SMALL.jobs(1_500, 1)
    stations = [Station(number, SMALL.slots, speed) for number, speed in enumerate(SMALL.speeds())]
    simulation = Simulation(stations, jobs)
    gateway = GatewayChoice(simulation, random.Random(1), "least_in_flight")
    record = simulation.run(gateway)
    assert max(record.waits) > 0
    assert max(station.most_queued for station in stations) == 0
    assert gateway.held() == 0


def test_a_request_cannot_be_sent_twice() -> None:
    """A dispatcher that would serve a request twice does not get better figures from it."""
    simulation = Simulation([Station(0, 1, 1.0)], [Job(0, 0.0, 1.0, "s")])
    simulation.waiting = 1
    simulation.send(Job(0, 0.0, 1.0, "s"), simulation.stations[0])
    with pytest.raises(RuntimeError, match="sent twice"):
        simulation.send(Job(0, 0.0, 1.0, "s"), simulation.stations[0])


@pytest.mark.parametrize("choice", [BASE, "consistent hash", "FastChat shortest queue", "DB-GPT random"])
def test_a_seed_decides_everything(choice: str) -> None:
    """The same seed gives the same figures, another one others."""
    figures = run_once(choice, SMALL, 1_000, 7)
    assert run_once(choice, SMALL, 1_000, 7) == figures
    assert run_once(choice, SMALL, 1_000, 8) != figures


def test_the_load_is_what_was_asked_for() -> None:
    """Work arrives at the wanted share of what the fleet can do; another share stretches the same requests."""
    low, high = (World(utilisation=share).jobs(5_000, 3) for share in (0.5, 0.8))
    assert [job.tokens for job in low] == [job.tokens for job in high]
    for share, jobs in ((0.5, low), (0.8, high)):
        possible = jobs[-1].arrives * World().slots * sum(World().speeds())
        assert sum(job.tokens for job in jobs) / possible == pytest.approx(share)
    mean = sum(job.tokens for job in low) / len(low)
    assert mean == pytest.approx(World().mean_tokens(), rel=0.1)
    assert sorted(job.tokens for job in low)[2_500] < mean / 1.5, "the tail is not heavy"


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_least_in_flight_beats_its_neighbours_twice(spread: float) -> None:
    """At p99 of the wait, with equal workers as well as with unequal ones."""
    world = World(utilisation=0.75, spread=spread)
    tails = {
        choice: medians(run_once(choice, world, 4_000, seed) for seed in (1, 2, 3)).wait_p99
        for choice in (BASE, *NEIGHBOURS)
    }
    assert all(tails[other] >= 2 * tails[BASE] for other in NEIGHBOURS), tails


def test_the_command_prints_a_table_for_each_load_and_writes_its_figures(tmp_path: Path) -> None:
    """Without a terminal the tables are Markdown; the JSON has what they were made of, the SVG is a picture."""
    files = tmp_path / "figures.json", tmp_path / "chart.svg"
    command = [sys.executable, "-m", "benchmarks.simulation", "--requests", "1000", "--seeds", "2"]
    done = subprocess.run(
        [*command, "--json", str(files[0]), "--svg", str(files[1])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stderr == ""
    for choice in CHOICES:
        assert done.stdout.count(f"| {choice} ") == 4, done.stdout
    loads = json.loads(files[0].read_text())["loads"]
    assert [len(loads[load]["DB-GPT random"]["seeds"]) for load in loads] == [2] * 4
    assert files[1].read_text().startswith("<svg ")


@pytest.mark.parametrize("wrong", [["--requests", "5"], ["--spread", "0"], ["--burst", "nan"], ["--seeds", "0"]])
def test_the_command_names_a_wrong_option(wrong: list[str]) -> None:
    """One line says which and what was expected."""
    command = [sys.executable, "-m", "benchmarks.simulation", *wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2
    assert wrong[0] in done.stderr.splitlines()[-1]
