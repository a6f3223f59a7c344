from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from proxy.documents import parse_yaml
from proxy.ruleset import shipped_rules
from proxy.settings import load_settings
from proxy.tools import commands
from proxy.tools.schemas import schemas
from proxy.types import Json
from tests.tools.json_schema import problems
from tests.tools.packs import inside, run, run_json

PACKS = sorted(path.name for path in shipped_rules().iterdir() if (path / "pack.yaml").is_file())


def extended(folder: Path, name: str) -> Json:
    return parse_yaml((folder / "rules" / name / "pack.yaml").read_text(encoding="utf-8"), "x").value


def test_what_is_written_works(tmp_path: Path) -> None:
    """check, test and the settings accept it, and the route does what the example says."""
    result = run(commands.init, tmp_path / "mine")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("wrote ") == 9
    rules = tmp_path / "mine" / "rules"
    assert run(commands.check, rules).exit_code == 0
    tested = run(commands.test, rules)
    assert tested.exit_code == 0
    assert len(re.findall("^ok .*: best_of (?:goes along|is a whole number)", tested.stdout, re.MULTILINE)) == 2
    settings = load_settings(tmp_path / "mine" / "settings.yaml", {})
    assert settings.rules == [str(rules)]
    assert settings.demo is not None


@pytest.mark.parametrize("pack", PACKS)
def test_each_shipped_pack_can_be_the_beginning(tmp_path: Path, pack: str) -> None:
    """Or it is said why not."""
    result = run(commands.init, tmp_path, "--extends", pack)
    if result.exit_code == 2:
        assert result.stderr == f"Error: no route of '{pack}' has a test from which an example could be made\n"
        return
    assert extended(tmp_path, pack) == {"extends": pack}
    for command in (commands.check, commands.test):
        assert run(command, tmp_path / "rules").exit_code == 0
    for file in (tmp_path / "rules" / pack).iterdir():
        chosen = schemas()["pack" if file.name == "pack.yaml" else "rule"]
        assert problems(chosen, parse_yaml(file.read_text(encoding="utf-8"), "x").value) == []


def test_the_written_comments_are_right_too(tmp_path: Path) -> None:
    """Each commented setting is one, so that taking the # away is all that is needed."""
    run(commands.init, tmp_path)
    file = tmp_path / "settings.yaml"
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("demo:"))
    live = [
        line.removeprefix("# ").removeprefix("#").replace("HOST:PORT", "10.0.0.5:21001").replace("KIND", "other")
        for line in lines[start:]
    ]
    file.write_text("\n".join([*lines[:start], *live]) + "\n", encoding="utf-8")
    schema = schemas()["settings"]
    assert problems(schema, parse_yaml(file.read_text(encoding="utf-8"), "x").value) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """A single file that is there stops it before anything is written."""
    (tmp_path / "settings.yaml").write_text("mine", encoding="utf-8")
    result = run(commands.init, tmp_path)
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path}/settings.yaml: there already; nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["settings.yaml"]
    assert (tmp_path / "settings.yaml").read_text(encoding="utf-8") == "mine"


def test_what_cannot_be_done_is_one_sentence(tmp_path: Path) -> None:
    """An unknown pack, and a folder that cannot be made."""
    result = run(commands.init, tmp_path, "--extends", "nobody")
    assert (result.exit_code, result.stderr.partition(";")[0]) == (2, "Error: no pack 'nobody' comes with the program")
    (tmp_path / "file").touch()
    result = run(commands.init, tmp_path / "file" / "inner")
    assert (result.exit_code, result.stderr.rpartition(": ")[2]) == (2, "Not a directory\n")


def test_for_programs(tmp_path: Path) -> None:
    """The files, and what the example changes."""
    told = run_json(commands.init, tmp_path)
    assert isinstance(told["written"], list)
    assert all(Path(str(file)).is_file() for file in told["written"])
    assert extended(tmp_path, str(told["extends"])) == {"extends": told["extends"]}
    assert (inside(told, "field"), Path(str(told["written"][1])).stem) == ("best_of", told["route"])


@pytest.mark.parametrize(
    ("arguments", "packs", "backends"),
    [
        (["--dialect", "mine"], ["mine"], []),
        (["--backend", "theirs"], PACKS, ["theirs"]),
        (["--dialect", "mine", "--backend", "theirs"], ["mine"], ["theirs"]),
        (["--dialect", "mine", "--extends", "dbgpt-worker"], ["dbgpt-worker", "mine"], []),
    ],
)
def test_packs_of_ones_own(tmp_path: Path, arguments: list[str], packs: list[str], backends: list[str]) -> None:
    """They work as they are: no mistake, no failing test, no loss without a reason, and settings that are right."""
    told = run_json(commands.init, tmp_path, *arguments)
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert (told["dialect"], told["backend"], told["extends"]) == tuple(
        given.get(flag) for flag in ("--dialect", "--backend", "--extends")
    )
    rules = tmp_path / "rules"
    checked = run_json(commands.check, rules)
    assert (checked["packs"], checked["backends"], checked["mistakes"]) == (packs, backends, [])
    tested = run_json(commands.test, rules)
    assert (tested["failed"], tested["passed"] != 0) == (0, True)
    for folder in (rules / "mine", rules / "backends" / "theirs"):
        if folder.is_dir():
            found = run_json(commands.compat, folder, "--rules", rules)
            assert (found["lost"], found["stale"]) == (0, [])
    settings = load_settings(tmp_path / "settings.yaml", {})
    assert [each.kind for each in settings.backends] == backends


def test_what_is_written_names_its_schema(tmp_path: Path) -> None:
    """The first line of each file leads to a schema that accepts the file."""
    run_json(commands.init, tmp_path, "--dialect", "mine", "--backend", "theirs", "--extends", "dbgpt-worker")
    files = sorted(tmp_path.rglob("*.yaml"))
    assert len(files) == 8
    for file in files:
        first, _, rest = file.read_text(encoding="utf-8").partition("\n")
        chosen = (file.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
        assert chosen.parent == tmp_path / "schemas"
        assert problems(json.loads(chosen.read_bytes()), parse_yaml(rest, "x").value) == []


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--dialect", "My dialect"], "--dialect My dialect: expected lower-case letters, digits and -"),
        (["--dialect", "../up"], "--dialect ../up: expected lower-case letters"),
        (["--dialect", "openai"], "--dialect openai: one of this name comes with the program"),
        (["--backend", "fastchat"], "--backend fastchat: one of this name comes with the program"),
        (["--extends", "nobody"], "no pack 'nobody' comes with the program; known: "),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, arguments: list[str], error: str) -> None:
    """Nothing is written then."""
    told = run_json(commands.init, tmp_path / "new", *arguments, code=2)
    assert str(told["error"]).startswith(error)
    assert not (tmp_path / "new").exists()
