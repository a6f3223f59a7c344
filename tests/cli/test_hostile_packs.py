"""Rule packs that are made to do harm are refused soon, and in little memory: by a process with limits of its own."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.limits import PACK_MAX_ENTRIES, RULES_MAX_BYTES, YAML_MAX_VALUES
from tests.cli.process import GATEWAY, environment

PACK = "pack: evil\ndescription: x\n"
ERRORS = "kinds: {default: {status: 500, code: 1}}\nbody: {fields: {e: error.message}}\n"
ROUTE = "route: r\ndescription: x\nmatch: {method: POST, path: /r}\nanswer: {body: body.a}\n"

MEMORY = 1_000_000_000
CPU_SECONDS = 20


def pack(folder: Path, **files: str | bytes) -> Path:
    """A pack that is good but for these files."""
    folder.mkdir()
    for name, text in {"pack": PACK, "errors": ERRORS, "route": ROUTE, **files}.items():
        (folder / f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def answering(expression: str) -> str:
    """A route with this expression."""
    return ROUTE.replace("body.a", "'" + expression.replace("'", "''") + "'")


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def told(command: str, folder: Path) -> list[str]:
    """What the command says of a pack that it refuses, in time."""
    done = subprocess.run(
        [*GATEWAY, command, str(folder)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=_limited,
    )
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert all(len(line) < 2_000 + len(str(folder)) for line in lines)
    return lines


DOUBLING = "body.a" + "|[@, @][]" * 40
FILES: dict[str, tuple[dict[str, str | bytes], str]] = {
    "deep lists": ({"route": "a: " + "[" * 400_000}, "nested deeper than 40 levels"),
    "deep blocks": ({"route": "\n".join(" " * level + "a:" for level in range(1_000))}, "nested deeper than 40 levels"),
    "deep lists of dashes": ({"route": "- " * 400_000}, "nested deeper than 40 levels"),
    "many keys": ({"route": "".join(f"k{n}: 1\n" for n in range(90_000))}, f"more than {YAML_MAX_VALUES:,} values"),
    "many values, read slowly": (
        {"route": "# \t\na: [" + "1," * 450_000 + "1]"},
        f"more than {YAML_MAX_VALUES:,} values",
    ),
    "a long file": ({"route": "#" * 2_000_000}, "the file is over the limit of"),
    "a thousand million laughs": (
        {"route": "a: &a [1, 1]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(100))},
        "anchors and aliases are not used",
    ),
    "an object of Python": ({"route": "a: !!python/object/apply:os.system ['exit']\n"}, "tags such as"),
    "a huge number": ({"route": ROUTE + "tests: " + "9" * 900_000}, "means different things"),
    "a number with a huge exponent": ({"route": ROUTE.replace("body.a", "{value: 1e999999999}")}, "means different"),
    "a huge number in an expression": ({"route": answering(f"`{'9' * 4_000}`")}, "does not fit 64 bits"),
    "a huge key": ({"route": ROUTE + "? " + "d" * 900_000 + "\n: 1\n"}, "unknown key"),
    "bytes of nought": ({"route": b"\0" * 900_000}, "the character U+0000 cannot stand"),
    "another encoding": ({"route": ROUTE.encode("utf-16")}, "not UTF-8 text"),
    "a deep expression": ({"route": answering("(" * 2_000 + "a" + ")" * 2_000)}, "nests more than 64 levels deep"),
    "a long expression": ({"route": answering("a" * 500_000)}, "at most 4096 are allowed"),
    "negations": ({"route": answering("!" * 4_000 + "a")}, "nests more than 64 levels deep"),
    "an expression that doubles": ({"route": answering(DOUBLING)}, "more than 1,000 times over"),
    "a condition that doubles": ({"route": ROUTE.replace("/r}", f"/r, when: '{DOUBLING}'}}")}, "1,000 times over"),
    "an error that doubles": ({"errors": ERRORS.replace("error.message", f"'{DOUBLING}'")}, "1,000 times over"),
    "steps that double": (
        {
            "route": ROUTE.partition("answer")[0]
            + "steps:\n  - {set: s0, value: body.a}\n"
            + "".join(f"  - {{set: s{n}, value: {{items: [steps.s{n - 1}, steps.s{n - 1}]}}}}\n" for n in range(1, 40))
            + "answer: {body: steps.s39}\ntests: [{name: t, given: {request: {a: x}}, expect: {answer: 1}}]\n"
        },
        "steps.s20 could hold what is read more than 1,000,000 times over",
    ),
    "a path that takes long to compare": (
        {"route": ROUTE.replace("/r}", '"/' + "".join(f"{{p{n}}}-" for n in range(30)) + '"}')},
        "one segment of a path has one parameter at most",
    ),
    "many steps that read what is not there": (
        {
            "route": ROUTE.partition("answer")[0]
            + "steps:\n"
            + "".join(f"  - {{set: s{n}, value: steps.t{n}}}\n" for n in range(8_000))
            + "answer: {body: body.a}\n"
        },
        "which no step before it sets",
    ),
    "a template that reads a file": ({"route": ROUTE, "x": "{% include '/etc/passwd' %}"}, "not YAML"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file(tmp_path: Path, name: str) -> None:
    """Whatever stands in it, the mistake is told, short, in seconds and without gigabytes."""
    files, message = FILES[name]
    lines = told("check", pack(tmp_path / "evil", **files))
    assert any(message in line for line in lines), lines[:5]
    assert lines[-1].endswith(("mistake", "mistakes"))


def test_a_mark_at_the_beginning_is_no_harm(tmp_path: Path) -> None:
    """Some editors write one before UTF-8."""
    folder = pack(tmp_path / "mild", route=b"\xef\xbb\xbf" + ROUTE.encode())
    assert subprocess.run([*GATEWAY, "check", folder], env=environment(), check=False).returncode == 0


def _pipe(file: Path) -> None:
    os.mkfifo(file)


def _socket(file: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(file))


MAKERS: dict[str, Callable[[Path], object]] = {
    "a pipe": _pipe,
    "a socket": _socket,
    "a device": lambda file: file.symlink_to("/dev/zero"),
    "a terminal": lambda file: file.symlink_to("/dev/tty"),
    "a link to itself": lambda file: file.symlink_to(file),
    "a folder": Path.mkdir,
}


@pytest.mark.parametrize("place", ["errors.yaml", "more.yaml"])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str) -> None:
    """It is not waited for, and not read for ever."""
    folder = pack(tmp_path / "evil")
    file = folder / place
    file.unlink(missing_ok=True)
    monkeypatch.chdir(folder)  # a socket's name is short
    MAKERS[name](Path(place) if name == "a socket" else file)
    assert any(line.startswith(f"{file}:") and "cannot be read" in line for line in told("check", folder))


@pytest.mark.parametrize("name", ["a pipe", "a device", "a link to itself", "a folder"])
def test_a_pack_whose_own_file_is_none(tmp_path: Path, name: str) -> None:
    """There is no pack then."""
    folder = pack(tmp_path / "evil")
    (folder / "pack.yaml").unlink()
    MAKERS[name](folder / "pack.yaml")
    assert told("check", folder)[0].startswith(f"{folder}: no pack.yaml here")


def test_links_around_in_a_circle(tmp_path: Path) -> None:
    """Links to folders are not followed, wherever they lead."""
    folder = pack(tmp_path / "evil", route=ROUTE + "x: 1\n")
    (folder / "again").symlink_to(".")
    (folder / "all").symlink_to("/")
    mistake, count = told("check", folder)
    assert mistake.startswith(f"{folder}/route.yaml:5:1: unknown key 'x'")
    assert count == "1 mistake"


def test_folders_without_end(tmp_path: Path) -> None:
    """They are not gone down."""
    folder = pack(tmp_path / "evil")
    here = os.open(folder, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("a", dir_fd=here)
        inner = os.open("a", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    try:
        assert any("nested more than 5 deep" in line for line in told("check", folder))
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)


def test_files_without_end(tmp_path: Path) -> None:
    """So many are not listed, whatever they are."""
    folder = pack(tmp_path / "evil")
    for number in range(PACK_MAX_ENTRIES):
        (folder / f"{number}.txt").touch()
    assert f"more than {PACK_MAX_ENTRIES:,} files in one pack" in told("check", folder)[0]


def test_many_large_files(tmp_path: Path) -> None:
    """Each by itself could be read; together they are too much, also where packs extend each other."""
    folder = pack(tmp_path / "evil")
    for number in range(100):
        (folder / f"r{number}.yaml").write_text("a: [" + "1," * 40_000 + "1]", encoding="utf-8")
    lines = told("check", folder)
    assert any(f"are over the limit of {RULES_MAX_BYTES} bytes together" in line for line in lines)
