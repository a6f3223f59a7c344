"""What `check` says of packs full of mistakes. After a wanted change, in tests/golden/diagnostics, for each pack:
`dbgpt-gateway check packs/NAME 2> NAME.txt`, and read the difference.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main

FOLDER = Path(__file__).parent / "diagnostics"
PACKS = sorted(path.name for path in (FOLDER / "packs").iterdir())


@pytest.mark.parametrize("name", PACKS)
def test_every_mistake_is_listed_with_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All mistakes of a pack come at once, in the order of the files, and the exit code is 1."""
    monkeypatch.chdir(FOLDER)
    result = CliRunner().invoke(main, ["check", f"packs/{name}"])
    assert _fixed(result.output) == _fixed((FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
    assert result.exit_code == 1


def _fixed(text: str) -> str:
    """Without the names of what comes with the program, which others add to."""
    return re.sub("(backends that have it|comes with the program): .*", r"\1: ...", text)


def test_several_packs_are_checked_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mistakes of one folder do not hide those of the next, and a folder that is not there is one of them."""
    monkeypatch.chdir(FOLDER)
    result = CliRunner().invoke(main, ["check", "packs/trace", "packs/empty", "packs/nowhere", "packs/files/good.yaml"])
    assert result.exit_code == 1
    for start in ("packs/trace/pack.yaml:3:8: ", "packs/empty: ", "packs/nowhere: ", "packs/files/good.yaml:1:1: "):
        assert any(line.startswith(start) for line in result.output.splitlines())
    assert result.output.endswith("4 mistakes\n")
