"""What `test` says of tests that fail. After a wanted change, in tests/golden/failing, for each pack:
`dbgpt-gateway test packs/NAME > NAME.txt`, and read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.tools.commands import test as command
from tests.tools.packs import run

FOLDER = Path(__file__).parent / "failing"
PACKS = sorted(path.name for path in (FOLDER / "packs").iterdir())


@pytest.mark.parametrize("name", PACKS)
def test_every_difference_is_shown(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was expected stands beside what came, long values around the place where they differ; exit code 1."""
    monkeypatch.chdir(FOLDER)
    result = run(command, f"packs/{name}")
    assert result.stdout == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert (result.stderr, result.exit_code) == ("", 1)
