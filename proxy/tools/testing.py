"""`test`: the tests inside rule packs, with what was expected beside what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from proxy.ruleset import Outcome
from proxy.ruleset.selftest import Problem
from proxy.types import Json

# A longer value is shown around the first place where it differs.
_SHOWN = 160
_BEFORE = 40
# Values up to this length stand side by side in the sentence.
_SIDE_BY_SIDE = 40


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """One line for a test that passed; for one that failed each difference below it."""
    route = outcome.test.route
    name = f"{route.pack}/{route.name}: {outcome.test.test.name}"
    if not outcome.found:
        cut = click.style(f"  [whole, and cut at {outcome.cuts} bytes]", dim=True) if outcome.cuts else ""
        yield f"{click.style('ok', fg='green')}   {name}{cut}"
        return
    yield click.style(f"FAIL {name}  ({outcome.test.place})", fg="red")
    for problem in outcome.found:
        yield from (f"     {line}" for line in problem_lines(problem))


def problem_lines(problem: Problem) -> Iterator[str]:
    """A sentence, and below it both values where they are too long for one."""
    expected, got = problem.expected, problem.got
    if expected is None or got is None or max(len(expected), len(got)) <= _SIDE_BY_SIDE:
        yield problem.message
        return
    yield f"{problem.path}:"
    if problem.path == "error.says":
        yield f"  expected a message with {click.style(expected, fg='green')}"
        yield f"  got the message         {click.style(got, fg='red')}"
        return
    start = _first_difference(expected, got)
    yield f"  expected {_around(expected, start, 'green')}"
    yield f"  got      {_around(got, start, 'red')}"
    yield f"           {' ' * (min(start, _BEFORE) + (3 if start > _BEFORE else 0))}^"


def _first_difference(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _around(text: str, start: int, colour: str) -> str:
    """The text near the difference; what is the same before it stays plain."""
    begin = max(0, start - _BEFORE)
    end = begin + _SHOWN
    same, other = text[begin:start], text[start:end]
    return f"{'...' if begin else ''}{same}{click.style(other, fg=colour)}{'...' if end < len(text) else ''}"


def outcomes_json(outcomes: Sequence[Outcome]) -> Json:
    """For programs: every test with its differences."""
    tests: list[Json] = [
        {
            "pack": outcome.test.route.pack,
            "route": outcome.test.route.name,
            "name": outcome.test.test.name,
            "file": outcome.test.file,
            "line": outcome.test.line,
            "backend": outcome.test.test.given.backend or outcome.test.route.backend,
            "passed": not outcome.found,
            "cut_at_bytes": outcome.cuts,
            "problems": [
                {"message": each.message, "path": each.path, "expected": each.expected, "got": each.got}
                for each in outcome.found
            ],
        }
        for outcome in outcomes
    ]
    failed = sum(bool(outcome.found) for outcome in outcomes)
    return {"passed": len(outcomes) - failed, "failed": failed, "tests": tests}
