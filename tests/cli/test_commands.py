"""`check`, `test` and what is common to all commands, each as a process of its own."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import proxy
from proxy.address import Address
from proxy.cli import _cannot_call_back
from tests.cli.process import GATEWAY, ROOT, environment, mistakes_of, run

SHIPPED = ROOT / "rules" / "dbgpt-worker"


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """A copy of the shipped rule pack, to be spoilt."""
    return Path(shutil.copytree(SHIPPED, tmp_path / "pack"))


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def _spoil_test(pack: Path) -> None:
    _replace(pack / "count_token.yaml", "expect: {answer: 2}", "expect: {answer: 3}")


def test_version() -> None:
    """`--version` is the program's name and its version, whichever way it was called."""
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dbgpt-gateway {proxy.__version__}\n", "")


def test_help_names_every_command() -> None:
    """`--help` says in one line each what can be done; no line is cut off."""
    done = run("--help")
    assert done.returncode == 0
    assert "A gateway that makes a FastChat fleet a member of a DB-GPT cluster." in done.stdout
    for command in ("check", "serve", "test"):
        assert f"\n  {command} " in done.stdout
    assert "..." not in done.stdout.partition("Commands:")[2]


def test_help_of_serve_names_every_flag() -> None:
    """Each flag has a sentence; those that may be given several times say so."""
    text = " ".join(run("serve", "--help").stdout.split())
    for flag in ("--config FILE", "--rules PATH", "--listen HOST:PORT", "--admin HOST:PORT", "--advertise HOST:PORT"):
        assert f"{flag} " in text
    for flag in ("--fastchat-controller URL", "--fastchat-worker URL", "--dbgpt-controller URL"):
        assert "Repeatable." in text.partition(f"{flag} ")[2].partition(" --")[0]
    assert "--demo " in text


def test_an_unknown_command_is_one_sentence() -> None:
    """A command that does not exist is named, with exit code 2."""
    assert mistakes_of("sevre")[-1].startswith("Error: No such command 'sevre'")


def test_check_of_the_shipped_rules() -> None:
    """Without a path the packs that came with the program are checked; a line for each says what there was."""
    done = run("check")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^dbgpt-worker +\d+ routes +\d+ tests +\S+/dbgpt-worker$", done.stdout, re.MULTILINE)
    assert re.search(r"^backend fastchat +\d operations +\d+ tests +\S+/fastchat$", done.stdout, re.MULTILINE)
    assert done.stdout.endswith("\nno mistakes\n")
    assert done.stderr == ""


def test_check_tells_all_mistakes_with_their_places(pack: Path) -> None:
    """Several mistakes in several files come at once, each as FILE:LINE:COLUMN, and exit code 1."""
    _replace(pack / "apply.yaml", "\nmatch:", "\nmach:")
    _replace(pack / "count_token.yaml", "method: POST", "method: PST")
    _replace(pack / "embeddings.yaml", "body.model", "body.model ||")
    told = mistakes_of("check", str(pack), code=1)
    assert told[-1] == f"{len(told) - 1} mistakes"
    assert f"{pack}/apply.yaml:4:1: unknown key 'mach'; did you mean 'match'?" in told
    assert f"{pack}/count_token.yaml:6:17: unknown method 'PST'; did you mean 'POST'?" in told
    assert any(line.startswith(f"{pack}/embeddings.yaml:") for line in told)


def test_check_of_what_is_no_pack(tmp_path: Path, pack: Path) -> None:
    """A folder that is not there, one without a pack, and a file that is not text: a sentence each, exit code 1."""
    (tmp_path / "empty").mkdir()
    for route in set(pack.glob("*.yaml")) - {pack / name for name in ("pack.yaml", "errors.yaml", "apply.yaml")}:
        route.unlink()
    (pack / "apply.yaml").write_bytes(b"\xff\xfe")
    told = mistakes_of("check", "missing", "empty", str(pack), cwd=tmp_path, code=1)
    missing = told[-2]
    assert told == [
        f"{pack}/apply.yaml:1:1: not UTF-8 text: invalid start byte at byte 0",
        "empty: no pack.yaml here or one level below",
        missing,
        "3 mistakes",
    ]
    assert missing.startswith("missing: there is no such folder; expected a rule pack, a folder of packs, or one")


def test_test_passes() -> None:
    """`test` says for each test of the rule files that it passed, and how many there were."""
    done = run("test")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, last = done.stdout.splitlines()
    assert all(line.startswith("ok   ") for line in lines)
    assert last == f"{len(lines)} passed, 0 failed"


def test_test_fails_readably(pack: Path) -> None:
    """A failing test is named with its file and line, and what was expected stands beside what came; exit code 1."""
    _spoil_test(pack)
    done = run("test", str(pack))
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    failed = f"FAIL dbgpt-worker/count_token: the worker's count is the answer  ({pack}/count_token.yaml:"
    (place,) = [index for index, line in enumerate(lines) if line.startswith(failed)]
    assert lines[place + 1] == "     answer: expected 3, got 2"
    assert lines[-1].endswith(" passed, 1 failed")


def test_test_of_a_broken_pack_is_a_check(pack: Path) -> None:
    """Rules that do not compile are not run; their mistakes are told as `check` tells them."""
    _replace(pack / "apply.yaml", "\nmatch:", "\nmach:")
    assert mistakes_of("test", str(pack), code=1) == mistakes_of("check", str(pack), code=1)


def _on_terminal(*arguments: str, **env: str) -> str:
    """What a command writes to a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*GATEWAY, *arguments], env=environment(**env), stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65_536):
            written += part
    except OSError:  # how a terminal says that the other side has closed it
        pass
    os.close(ours)
    assert process.wait(20) in {0, 1}
    return written.decode()


def test_colours_are_for_terminals_only(pack: Path) -> None:
    """Colours on a terminal, none in a pipe, none where NO_COLOR is set."""
    _spoil_test(pack)
    assert "\x1b[" in _on_terminal("test", str(pack))
    assert "\x1b[" not in run("test", str(pack)).stdout
    assert "\x1b[" in _on_terminal("check", "/no/such/pack")
    assert "\x1b[" not in _on_terminal("check", "/no/such/pack", NO_COLOR="1")


@pytest.mark.parametrize(
    ("advertised", "cluster", "warned"),
    [
        (Address("127.0.0.1", 8090), "http://10.0.0.1:8000", True),
        (Address("127.0.0.1", 8090), "http://127.0.0.1:8000", False),
        (Address("::1", 8090), "http://localhost:8000", False),
        (Address("10.0.0.7", 8090), "http://10.0.0.1:8000", False),
    ],
)
def test_a_loopback_address_for_another_machine_is_warned_of(advertised: Address, cluster: str, warned: bool) -> None:
    """A cluster elsewhere that is given a loopback address would call itself."""
    warnings = _cannot_call_back(advertised, [cluster])
    assert [f"{cluster} is on another machine" in line for line in warnings] == [True] * warned
