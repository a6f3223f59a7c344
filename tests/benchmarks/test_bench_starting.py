"""How long commands take to start: measured on the commands themselves."""

from __future__ import annotations

import pytest

from benchmarks import starting
from benchmarks.process import StartError


def test_starts_are_counted_until_a_client_is_answered_or_the_command_ends() -> None:
    """One start of each, after one that only warms up."""
    said: list[str] = []
    found = starting.measure(1, said.append, ("serve", "--version"))
    assert [len(seconds) for seconds in found.values()] == [1, 1]
    assert min(found["--version"] + found["serve"]) > 0
    assert said[-1] == "start: --version, 1 of 1"


def test_a_command_that_fails_is_no_start() -> None:
    """What cannot be run has no figures."""
    with pytest.raises(StartError, match="--wrong"):
        starting.measure(1, lambda _: None, ("--wrong",))
