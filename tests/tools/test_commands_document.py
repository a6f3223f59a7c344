"""docs/commands.md shows what the commands say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.types import Json, JsonObject
from tests.tools.calling import write_calls
from tests.tools.packs import write_json

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^<!-- dbgpt-gateway ([^\n]+) -->\n```json\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


# A request for the small pack that was answered when its backend knew another field.
WORKER: JsonObject = {"model": "m", "address": "http://w:1", "backend": "lines"}
EXCHANGE: JsonObject = {
    "method": "POST",
    "path": "/chat",
    "headers": {"Content-Type": "application/json"},
    "body": {"model": "m", "turns": [{"role": "user", "content": "hi"}], "warmth": 1},
    "status": 200,
    "said": {"text": '{"token":"ho","done":"stop"}\n'},
    "complete": True,
}
RECORDED: JsonObject = {
    "at": "2026-01-02T03:04:05.000Z",
    "seconds": 0.5,
    "method": "POST",
    "path": "/say",
    "scope": {"query": {}, "headers": {}, "gateway": {}, "listener": {}},
    "body": {"model": "m", "text": "hi", "heat": 1},
    "route": "speech/say",
    "outcome": "ok",
    "attempts": [
        {
            "worker": WORKER,
            "asked": [{"step": "count", "path": "/count", "body": {"of": [{"role": "user", "content": "hi"}]}}],
            "exchanges": [EXCHANGE],
        }
    ],
    "client": {
        "status": 200,
        "content_type": "text/event-stream",
        "said": {"text": 'data: {"said":"ho","end":"stop"}\n\ndata: [DONE]\n\n'},
        "complete": True,
    },
}
RECORDING: list[JsonObject] = [
    {"recording": 1, "gateway": "1.0", "began": "2026-01-02T03:04:00.000Z"},
    RECORDED,
    {"ended": "2026-01-02T03:05:00.000Z", "requests": 1, "left_out": 0, "why": "its time is over"},
]


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
    Path("recording.jsonl").write_text("".join(json.dumps(line) + "\n" for line in RECORDING), encoding="utf-8")
    said = CliRunner().invoke(main, shlex.split(command)).stdout
    assert fits(json.loads(shown), json.loads(said)), said


def test_every_command_is_in_the_document() -> None:
    """With an example, where its output is documented here."""
    shown = {command.split()[0] for command, _ in EXAMPLES}
    assert shown == {"check", "test", "explain", "translate", "compat", "schema", "init", "replay"}
    sections = set(re.findall(r"^## (\w+)$", TEXT, re.MULTILINE))
    assert sections == shown
