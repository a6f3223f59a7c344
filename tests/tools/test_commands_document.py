"""docs/commands.md shows what the commands say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.types import Json
from tests.tools.calling import write_calls
from tests.tools.packs import write_json

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^<!-- dbgpt-gateway ([^\n]+) -->\n```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def fits(shown: Json, said: Json) -> bool:
    """Whether an example shows what was said: all the keys, and of lists some of the elements."""
    if isinstance(shown, dict) and isinstance(said, dict):
        return shown.keys() == said.keys() and all(fits(value, said[name]) for name, value in shown.items())
    if isinstance(shown, list) and isinstance(said, list):
        return bool(shown) >= bool(said) and all(any(fits(each, other) for other in said) for each in shown)
    return shown == said


@pytest.mark.parametrize(("command", "shown"), EXAMPLES, ids=lambda text: text.split()[0])
def test_the_document_shows_what_is_said(
    command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every example is the command's own output on a small pack."""
    monkeypatch.chdir(tmp_path)
    write_calls(tmp_path / "packs")
    write_json(Path("body.json"), {"model": "m", "text": "hi", "seed": 3, "foo": 1})
    said = CliRunner().invoke(main, shlex.split(command)).stdout
    assert fits(json.loads(shown), json.loads(said)), said


def test_every_command_is_in_the_document() -> None:
    """With an example, where its output is documented here."""
    shown = {command.split()[0] for command, _ in EXAMPLES}
    assert shown == {"check", "test", "explain", "translate", "compat", "schema", "init"}
    sections = set(re.findall(r"^## (\w+)$", TEXT, re.MULTILINE))
    assert sections == shown | {"replay"}
