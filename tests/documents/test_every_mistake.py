"""A mistake in one value does not hide the others of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.documents import DocumentError
from proxy.settings import load_settings

MANY = """\
listen: 127.0.0.1:1
admn: 127.0.0.1:2
timeouts: {connect_seconds: 1.10, idle_seconds: -1}
listen: 127.0.0.1:3
"""


def test_a_doubled_key_and_an_unclear_number_hide_nothing(tmp_path: Path) -> None:
    """Equal keys, an unknown key, a number that would change and one out of range are told together, once each."""
    file = tmp_path / "settings.yaml"
    file.write_text(MANY, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_settings(file, {})
    told = [(each.line, each.column, each.message) for each in caught.value.diagnostics]
    assert [place[:2] for place in told] == [(2, 1), (3, 29), (3, 49), (4, 1)]
    assert "did you mean 'admin'?" in told[0][2]
    assert "'1.10'" in told[1][2]
    assert "idle_seconds" in told[2][2]
    assert "stands here twice" in told[3][2]
