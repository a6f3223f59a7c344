"""Which side of a split a request falls on."""

from __future__ import annotations

import random
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.fleet.select import EvenDraws, consistent_hash
from proxy.server.split import in_order, point
from tests.fleet.test_select import KEYS, workers


class Side(NamedTuple):
    name: str
    weight: float


OLD, NEW, SPARE = Side("old", 90), Side("new", 10), Side("spare", 0)
WEIGHTS = st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 1e6)), min_size=2, max_size=5).filter(any)


def first(sides: list[Side], at: float) -> str:
    return in_order(sides, at)[0].name


@given(weights=WEIGHTS, at=st.floats(0, 1, exclude_max=True))
def test_every_side_has_its_place_and_one_without_weight_is_never_first(weights: list[float], at: float) -> None:
    """All are there once, the others by weight, so that a request that finds no worker goes on to each of them."""
    sides = [Side(str(index), weight) for index, weight in enumerate(weights)]
    ordered = in_order(sides, at)
    assert sorted(ordered) == sorted(sides)
    assert ordered[0].weight > 0
    others = [side.weight for side in ordered[1:]]
    assert others == sorted(others, reverse=True)


@pytest.mark.parametrize("unit", [1, 0.001, 12_345.6])
def test_weights_are_shares(unit: float) -> None:
    """What they add up to does not matter."""
    rng = random.Random(1)
    sides = [Side("old", 90 * unit), Side("new", 10 * unit)]
    counts = Counter(first(sides, point("m", None, rng)) for _ in range(20_000))
    assert counts["new"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_keys_fall_by_weight_and_stay() -> None:
    """A key has its side, in every process and whatever the chance says; the sides have their shares of the keys."""
    sides = {key: first([OLD, NEW, SPARE], point("m", key, random.Random(3))) for key in KEYS}
    assert sides == {key: first([OLD, NEW, SPARE], point("m", key, EvenDraws())) for key in KEYS}
    assert Counter(sides.values())["new"] / len(KEYS) == pytest.approx(0.1, abs=0.02)


def test_more_weight_takes_keys_and_sends_none_back() -> None:
    """While a new side grows from 10 to 50 of 100 no session that was moved is moved back."""
    before: set[str] = set()
    for weight in (0, 1, 10, 25, 50, 100):
        moved = {
            k
            for k in KEYS
            if first([Side("old", 100 - weight), Side("new", weight)], point("m", k, EvenDraws())) == "new"
        }
        assert before <= moved
        before = moved
    assert before == set(KEYS)


def test_a_side_says_nothing_of_a_worker_or_of_another_split() -> None:
    """The keys of one side are spread over workers like all keys, and over the sides of another model's split."""
    mine = [key for key in KEYS if first([Side("a", 1), Side("b", 1)], point("m", key, EvenDraws())) == "a"]
    homes = Counter(consistent_hash(workers(4), key, EvenDraws()).address for key in mine)
    assert min(homes.values()) > len(mine) / 4 * 0.8
    elsewhere = Counter(first([Side("a", 1), Side("b", 1)], point("other", key, EvenDraws())) for key in mine)
    assert min(elsewhere.values()) > len(mine) / 2 * 0.8
