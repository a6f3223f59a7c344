"""What makes `serve` not start: one clear sentence, or the list of mistakes, exit code 2 and nothing started."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest

from tests.cli.process import ANY_PORTS, ROOT, free_port, mistakes_of

WORKER = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--listen", "8090"], "--listen: expected HOST:PORT such as 127.0.0.1:8090, got '8090'"),
        (
            ["--admin", "http://a:1"],
            "--admin: expected HOST:PORT such as 127.0.0.1:8090, got 'http://a:1'; it is no URL",
        ),
        (
            ["--fastchat-worker", "ftp://a"],
            '--fastchat-worker: "ftp://a" is not an address: expected http://HOST:PORT or https://HOST:PORT',
        ),
        (
            ["--fastchat-worker", f"{WORKER},http://u:p@b:1"],
            "--fastchat-worker: the address of b holds credentials: expected http://HOST:PORT without them",
        ),
        (
            ["--fastchat-controller", "http://a?x"],
            '--fastchat-controller: "http://a?x" is not a base address: expected nothing after the path, and no spaces',
        ),
        (
            ["--dbgpt-controller", "http://a:99999"],
            '--dbgpt-controller: "http://a:99999" is not an address: Port out of range 0-65535',
        ),
        (
            ["--dbgpt-controller", "a:8000"],
            '--dbgpt-controller: "a:8000" is not an address: expected http://HOST:PORT or https://HOST:PORT',
        ),
        (["--workers", "0"], "--workers: Input should be greater than or equal to 1"),
        (["--workers", "-2"], "--workers: Input should be greater than or equal to 1"),
        (
            ["--advertise", "here"],
            "--advertise: expected HOST:PORT such as 127.0.0.1:8090, got 'here'",
        ),
        (
            ["--listen", "0.0.0.0:0", "--dbgpt-controller", "http://127.0.0.1:9"],
            "--listen 0.0.0.0:0 is all addresses of this machine, and DB-GPT needs one that it can call: "
            "give --advertise HOST:PORT (dbgpt.advertise in the settings file)",
        ),
        (["--config", "missing.yaml"], "--config missing.yaml: No such file or directory"),
    ],
)
def test_a_wrong_flag_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    """The sentence names the flag as it was typed, what was given and what was expected."""
    flags = [*ANY_PORTS, *arguments]
    if "--fastchat-worker" not in arguments:
        flags += ["--fastchat-worker", WORKER]
    assert mistakes_of("serve", *flags, cwd=tmp_path) == [f"Error: {sentence}"]


def test_an_unknown_flag() -> None:
    """The command's own usage, and which flag there is not."""
    told = mistakes_of("serve", "--lisen", "a:1")
    assert told[0].startswith("Usage: ")
    assert told[-1].startswith("Error: No such option '--lisen'") or told[-1].startswith(
        "Error: No such option: --lisen"
    )


def test_no_fleet() -> None:
    """A gateway that could never answer says how to give it a fleet, or how to try it without one."""
    (told,) = mistakes_of("serve", *ANY_PORTS)
    assert told.startswith(
        "Error: there is no fleet to serve: give --fastchat-worker URL, --fastchat-controller URL, --accept-workers "
        "or --backend KIND=URL "
    )
    assert told.endswith("or --demo to try it without one")


@pytest.mark.parametrize("flag", ["--listen", "--admin"])
def test_a_port_in_use(flag: str) -> None:
    """The address, the flag that sets it, and that somebody else listens there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        told = mistakes_of("serve", "--fastchat-worker", WORKER, *ANY_PORTS, flag, address)
    assert told == [f"Error: cannot listen on {address} ({flag}): the port is in use"]


def test_one_port_for_both() -> None:
    """Clients and operators cannot share an address."""
    address = f"127.0.0.1:{free_port()}"
    told = mistakes_of("serve", "--fastchat-worker", WORKER, "--listen", address, "--admin", address)
    assert told == [f"Error: cannot listen on {address} (--admin): the port is in use"]


def test_an_address_of_another_machine() -> None:
    """An address that this machine does not have cannot be listened on, and the sentence says which it was."""
    (told,) = mistakes_of("serve", "--fastchat-worker", WORKER, *ANY_PORTS, "--listen", "192.0.2.1:8090")
    assert told.startswith("Error: cannot listen on 192.0.2.1:8090 (--listen): ")


def test_a_settings_file_with_mistakes(tmp_path: Path) -> None:
    """All mistakes are listed with file, line and column; a flag does not hide them."""
    (tmp_path / "broken.jinja").write_text("{% for message in messages %}\n{{ message.content }\n", encoding="utf-8")
    (tmp_path / "settings.yaml").write_text(
        "listen: nowhere\n"
        "admn: 127.0.0.1:8091\n"
        "fastchat: {workers: ['http://127.0.0.1:9', 'ftp://a'], probe_seconds: 0}\n"
        "models:\n"
        "  first: {chat_template: '{% if %}'}\n"
        "  second: {chat_template_file: broken.jinja}\n"
        "  third: {template_style: CHATLM}\n"
        "log: {level: loud}\n",
        encoding="utf-8",
    )
    told = mistakes_of("serve", *ANY_PORTS, "--config", "settings.yaml", cwd=tmp_path)
    places = [line.partition(": ")[0] for line in told[:-1]]
    assert places == [
        f"settings.yaml:{place}" for place in ("1:9", "2:1", "3:44", "3:71", "5:26", "6:32", "7:27", "8:14")
    ]
    assert told[-1] == "8 mistakes"
    assert "did you mean 'admin'?" in told[1]
    assert "broken.jinja: chat template, line 2: " in told[5]


def test_a_settings_file_that_is_no_text(tmp_path: Path) -> None:
    """A file in another encoding is named."""
    (tmp_path / "settings.yaml").write_bytes("listen: läuft:1\n".encode("latin-1"))
    told = mistakes_of("serve", *ANY_PORTS, "--config", "settings.yaml", cwd=tmp_path)
    assert told == ["Error: --config settings.yaml: not UTF-8 text"]


def test_a_rule_pack_with_mistakes(tmp_path: Path) -> None:
    """Rules that do not compile are listed as `check` lists them, and nothing is served with them."""
    pack = Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))
    file = pack / "apply.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("\nmatch:", "\nmach:"), encoding="utf-8")
    told = mistakes_of("serve", *ANY_PORTS, "--demo", "--rules", "pack", cwd=tmp_path)
    assert "pack/apply.yaml:4:1: unknown key 'mach'; did you mean 'match'?" in told
    assert told[-1] == f"{len(told) - 1} mistakes"


def test_a_rule_pack_whose_tests_fail(tmp_path: Path) -> None:
    """Rules that do not do what their own tests say are not served."""
    pack = Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))
    file = pack / "count_token.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("{answer: 2}", "{answer: 3}"), encoding="utf-8")
    assert mistakes_of("serve", *ANY_PORTS, "--demo", "--rules", "pack", cwd=tmp_path) == [
        "Error: pack/count_token.yaml:24: test 'the worker's count is the answer': answer: expected 3, got 2"
    ]


def test_more_processes_than_do_any_good() -> None:
    """The most that this machine may have is said."""
    (told,) = mistakes_of("serve", "--fastchat-worker", WORKER, *ANY_PORTS, "--workers", "100000")
    assert re.fullmatch(r"Error: --workers 100000: at most \d+, 4 for .* the gateway may use", told)
