"""What all commands have in common."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from proxy.tools import commands
from proxy.tools.terminal import columns, json_text, near
from tests.tools.packs import run, run_json, write_pack, write_two_packs

ALL = [each for each in vars(commands).values() if isinstance(each, click.Command)]
# What has no other way to be said is said with arguments that the operating system allows.
ODD = os.fsdecode(b"/\xff")


def test_all_commands_are_here() -> None:
    """Each speaks to programs too, and says what it does in a line of its own."""
    assert sorted(str(command.name) for command in ALL) == [
        "check",
        "compat",
        "explain",
        "init",
        "replay",
        "schema",
        "test",
        "translate",
    ]
    for command in ALL:
        assert "--json" in {name for option in command.params for name in option.opts}
        assert str(command.short_help).endswith(".")


@pytest.mark.parametrize(
    ("command", "arguments", "error"),
    [
        (commands.check, ["--all"], "No such option '--all'"),
        (commands.test, ["--all"], "No such option '--all'"),
        (commands.explain, ["GET"], "Missing argument 'PATH'"),
        (commands.explain, ["GET", "chat"], "PATH: expected one that begins with /, got chat"),
        (commands.explain, ["GET", "/", "--body", "gone.json"], "gone.json: No such file or directory"),
        (commands.translate, ["chat", "x"], "there is no route 'chat'; known: "),
        (commands.translate, ["chat", "x", "--direction", "up"], "Invalid value for '--direction'"),
        (commands.compat, ["."], ".: expected one rule pack, got 2"),
        (commands.schema, ["route"], "Invalid value for"),
        (commands.init, ["one/pack.yaml"], "one/pack.yaml/"),
    ],
)
def test_a_command_that_cannot_be_done_says_so_to_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: click.Command, arguments: list[str], error: str
) -> None:
    """With --json a wrong argument or a file that cannot be had is a document too, and exit code 2."""
    write_two_packs(tmp_path)
    monkeypatch.chdir(tmp_path)
    told = run_json(command, *arguments, code=2)
    assert list(told) == ["error"]
    assert str(told["error"]).startswith(error)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (commands.check, [ODD]),
        (commands.test, [ODD]),
        (commands.explain, ["GET", ODD]),
        (commands.explain, ["GET", "/nowhere", "--header", f"a:{ODD}"]),
        (commands.translate, [ODD, "chat.yaml"]),
        (commands.compat, [ODD]),
        (commands.init, [ODD]),
        (commands.init, ["mine", "--extends", ODD]),
    ],
)
def test_names_that_are_not_utf8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: click.Command, arguments: list[str]
) -> None:
    """They are a mistake like another, for people and for programs."""
    write_pack(tmp_path)
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--json"]):
        assert run(command, *arguments, *more).exit_code in {1, 2}


@pytest.mark.parametrize("command", [commands.check, commands.test, commands.compat])
def test_a_broken_pack_is_told_as_check_tells_it(tmp_path: Path, command: click.Command) -> None:
    """With exit code 1, and the same list for programs."""
    pack = write_pack(tmp_path, chat="route: chat -> rout: chat")
    result = run(command, pack)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{pack}/chat.yaml:1:1: unknown key 'rout'; did you mean 'route'?" in result.stderr
    mistakes = run_json(command, pack, code=1)["mistakes"]
    assert isinstance(mistakes, list)
    assert len(mistakes) == 2


def test_colours_are_for_terminals(tmp_path: Path) -> None:
    """What is piped is plain."""
    pack = write_pack(tmp_path, chat="said: he} -> said: hi}")
    arguments = [sys.executable, "-c", "from proxy.tools.commands import test; test()", str(pack)]
    done = subprocess.run(arguments, capture_output=True, cwd=Path(__file__).parents[2], check=False, timeout=30)
    assert done.returncode == 1
    assert b"\x1b" not in done.stdout
    assert b'chunks[0].said: expected "hi", got "he"' in done.stdout


def test_columns_are_aligned_whatever_their_colour() -> None:
    """The codes of a colour take no room."""
    plain = columns([["a", "bb", "c"], ["dddd", "e"]])
    assert plain == ["a     bb  c", "dddd  e"]
    coloured = columns([[click.style("a", fg="red"), "bb", "c"], ["dddd", "e"]])
    assert [click.unstyle(line) for line in coloured] == plain


def test_small_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path below the working directory is short; a text that is not UTF-8 has escapes in JSON."""
    monkeypatch.chdir(tmp_path)
    assert near(str(tmp_path / "a" / "b")) == "a/b"
    assert near("/elsewhere") == "/elsewhere"
    assert json_text({"a": ODD}) == '{"a": "/\\udcff"}'
    assert json_text({"a": "é"}) == '{"a":"é"}'
