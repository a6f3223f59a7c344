"""A rule pack in the working directory, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tools.packs import write_pack


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `sample` below the working directory, which is the test's own."""
    monkeypatch.chdir(tmp_path)
    return write_pack(tmp_path / "sample")
