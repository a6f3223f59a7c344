from __future__ import annotations

from pathlib import Path

import click
import pytest

from proxy.ruleset.selftest import Problem
from proxy.tools import commands
from proxy.tools.testing import problem_lines
from tests.tools.packs import inside, run, run_json, write_pack


def test_what_passed(tmp_path: Path) -> None:
    """Each test has a line, and a stream's says that it was cut at every byte too."""
    result = run(commands.test, write_pack(tmp_path))
    assert result.exit_code == 0
    assert result.stdout == (
        "ok   sample/chat: a word  [whole, and cut at 64 bytes]\n"
        "ok   sample/embed: it embeds\n"
        "ok   sample/whole: one answer  [whole, and cut at 35 bytes]\n"
        "3 passed, 0 failed\n"
    )


def test_what_failed(tmp_path: Path) -> None:
    """A failing test has its file, and a line for each field that differs."""
    pack = write_pack(tmp_path, chat="heat: {from: body.heat, type: number, max: 2} -> heat: body.user")
    result = run(commands.test, pack)
    assert result.exit_code == 1
    assert result.stdout.startswith(
        f'FAIL sample/chat: a word  ({pack}/chat.yaml:22)\n     upstream[0].heat: expected 1, got "me"\nok   sample'
    )
    told = run_json(commands.test, pack, code=1)
    assert (told["passed"], told["failed"]) == (2, 1)
    assert inside(told, "tests", 0, "problems") == [
        {
            "message": 'upstream[0].heat: expected 1, got "me"',
            "path": "upstream[0].heat",
            "expected": "1",
            "got": '"me"',
        }
    ]


def test_long_values_stand_one_above_the_other() -> None:
    """The first character that differs is pointed at, and what is far from it is left out."""
    expected, got = "x" * 100 + "a" + "y" * 300, "x" * 100 + "b"
    lines = [click.unstyle(line) for line in problem_lines(Problem("m", "answer", expected, got))]
    assert lines[0] == "answer:"
    assert lines[1] == f"  expected ...{'x' * 40}a{'y' * 119}..."
    assert lines[2] == f"  got      ...{'x' * 40}b"
    assert lines[3].index("^") == lines[1].index("a") == lines[2].index("b")


@pytest.mark.parametrize(
    "problem",
    [Problem("answer: expected 3, got 2", "answer", "3", "2"), Problem("a: absent", "a", "3"), Problem("it failed")],
)
def test_short_values_stand_in_the_sentence(problem: Problem) -> None:
    """One line is enough where it can be read in one look."""
    assert list(problem_lines(problem)) == [problem.message]
