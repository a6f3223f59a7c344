from __future__ import annotations

from pathlib import Path

import pytest

from proxy.tools.commands import check
from tests.tools.calling import write_calls
from tests.tools.packs import inside, run, run_json, write_pack


def test_the_shipped_packs_have_no_mistake() -> None:
    """Nor anything that a closer look finds."""
    result = run(check)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("\nno mistakes\n")


def test_changes_of_a_shipped_pack_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rule is changed, in which fields, by which line of which file."""
    monkeypatch.chdir(tmp_path)
    write_pack(tmp_path / "base")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "pack.yaml").write_text("extends: ../base\nremove_routes: [embed]\n", encoding="utf-8")
    (mine / "c.yaml").write_text(
        "extends: chat\nremove: [request.body.fields.size]\nrequest: {path: /y, body: {fields: {seed: body.seed}}}\n",
        encoding="utf-8",
    )
    result = run(check, "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "sample (mine) extends base\n"
        "  embed: removed by mine/pack.yaml; was base/embed.yaml\n"
        "  chat: mine/c.yaml over base/chat.yaml\n"
        "    - request.body.fields.size  line 2\n"
        "    ~ request.path              line 3\n"
        "    + request.body.fields.seed  line 3\n"
        "sample  2 routes  2 tests  mine\n"
        "no mistakes\n"
    )
    told = run_json(check, "mine")
    assert inside(told, "changes", 0) == {
        "pack": "sample",
        "part": "embed",
        "file": "mine/pack.yaml",
        "base": "base/embed.yaml",
        "removed": True,
        "fields": [],
    }
    assert told["mistakes"] == []


def test_mistakes_for_programs(tmp_path: Path) -> None:
    """Both kinds come with file, line and column; a pack that does not compile is only told its own."""
    doubtful = write_pack(tmp_path / "doubtful", chat="steps.count -> steps.text")
    assert run_json(check, doubtful, code=1)["mistakes"] == [
        {
            "file": f"{doubtful}/chat.yaml",
            "line": 8,
            "column": 5,
            "message": "the step 'count' asks the worker, and nothing reads 'steps.count'",
        }
    ]
    broken = write_pack(tmp_path / "broken", chat="steps.count -> steps.cuont")
    told = run_json(check, broken, code=1)
    assert (inside(told, "mistakes", 0, "line"), inside(told, "mistakes", 0, "column")) == (17, 15)


def test_changes_of_a_backend_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a dialect: which operation, in which fields, by which line."""
    monkeypatch.chdir(tmp_path)
    write_calls(tmp_path / "packs")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "backend.yaml").write_text("extends: ../packs/backends/whole\n", encoding="utf-8")
    (mine / "say.yaml").write_text(
        "extends: generate\nrequest: {body: {fields: {heat: call.temperature}}}\n", encoding="utf-8"
    )
    result = run(check, "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(
        "whole (mine) extends packs/backends/whole\n"
        "  generate: mine/say.yaml over packs/backends/whole/generate.yaml\n"
        "    + request.body.fields.heat  line 2\n"
    )
    assert inside(run_json(check, "mine"), "changes", 1, "pack") == "whole"
