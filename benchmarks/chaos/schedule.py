"""When which worker suffers what: drawn once from a seed, with always one worker that is well."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

# kill: ended at once and started again; stop: it hangs, with its socket open; reset: three of ten connections are
# reset somewhere; stall: three of ten answers pause for longer than they may; frame: three of ten streams have a frame
# that is none; head: every answer begins late, three of ten later than they may.
Trouble = Literal["kill", "stop", "reset", "stall", "frame", "head"]
TROUBLES: tuple[Trouble, ...] = get_args(Trouble)

PHASE_SECONDS = 6.0
# After each phase nothing is wrong with anybody for so long: a request that has been to every worker but the well one
# must not find that one in trouble just then.
CALM_SECONDS = 3.0


@dataclass(frozen=True)
class Episode:
    """Trouble of one worker, `at` to `at + seconds` after the beginning."""

    at: float
    seconds: float
    worker: int
    trouble: Trouble


def schedule(seconds: float, workers: int, rng: random.Random) -> list[Episode]:
    """Episodes by time, over at least `seconds`. In each phase another worker is well; most of the others are not."""
    episodes: list[Episode] = []
    deck: list[Trouble] = []
    well, begin = -1, 1.0
    while begin < seconds:
        well = rng.choice([worker for worker in range(workers) if worker != well])
        for worker in range(workers):
            if worker == well or rng.random() < 0.1:
                continue
            if not deck:  # every trouble comes as often as the others
                deck = rng.sample(TROUBLES, len(TROUBLES))
            start = rng.uniform(0.0, PHASE_SECONDS / 3)
            length = rng.uniform(PHASE_SECONDS / 3, PHASE_SECONDS - start)
            episodes.append(Episode(begin + start, length, worker, deck.pop()))
        begin += PHASE_SECONDS + CALM_SECONDS
    return sorted(episodes, key=lambda episode: episode.at)
