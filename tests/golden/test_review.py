"""What `check` says of packs that compile and are wrong all the same. After a wanted change, in tests/golden/review,
for each pack: `dbgpt-gateway check packs/NAME 2> NAME.txt`, and read the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.tools.commands import check

FOLDER = Path(__file__).parent / "review"
PACKS = sorted(path.name for path in (FOLDER / "packs").iterdir())


@pytest.mark.parametrize("name", PACKS)
def test_every_finding_is_listed_with_its_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes that nothing reaches, constant conditions, streams without an end, names that nothing makes: each class,
    beside rules that look alike and are right.
    """
    monkeypatch.chdir(FOLDER)
    result = CliRunner().invoke(check, [f"packs/{name}"])
    assert result.stderr == (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    assert (result.stdout, result.exit_code) == ("", 1)
