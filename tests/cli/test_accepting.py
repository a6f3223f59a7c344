"""`serve` as the controller with which workers register."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.settings import parse_address
from proxy.types import JsonObject
from tests.cli.process import free_port, mistakes_of
from tests.cli.serving import HELLO, serving, worker, written
from tests.gateway.client import call


async def test_a_worker_joins_and_is_used(tmp_path: Path) -> None:
    """With one flag workers can register; the start says where and how, and a registered worker answers soon.

    The address of registration serves the gateway's own paths too.
    """
    flag = f"127.0.0.1:{free_port()}"
    async with worker("m") as joining:
        file = written(tmp_path / "s.yaml", {"fastchat": {"probe_seconds": 0.2}})
        async with serving(file, "--accept-workers", flag) as gateway:
            line = next(line for line in gateway.process.out if line.startswith("accepts "))
            assert line.split(maxsplit=1)[1] == (
                f"workers at http://{flag}; start FastChat workers with --controller-address http://{flag}"
            )
            assert any(re.match(r"worker +none yet", line) for line in gateway.process.out)
            body: JsonObject = {"worker_name": joining.address, "check_heart_beat": True, "worker_status": None}
            reply = await call(parse_address(flag), "POST", "/register_worker", body, connection="close")
            assert reply.status == 200, reply
            await gateway.ready()
            assert "text" in (await gateway.ask("/api/worker/generate", HELLO)).object
            there = await call(parse_address(flag), "POST", "/api/worker/generate", HELLO, connection="close")
            assert "text" in there.object
            (row,) = await gateway.rows("/workers")
            assert row["sources"] == ["registration"]


async def test_the_token_is_not_printed(tmp_path: Path) -> None:
    """A secret of the settings is shown as a place to put it."""
    secret = "a-secret-of-sixteen"
    accept: JsonObject = {"listen": "127.0.0.1:0", "token": secret}
    file = written(tmp_path / "s.yaml", {"fastchat": {"accept": accept}})
    async with serving(file) as gateway:
        printed = "\n".join([*gateway.process.out, *gateway.process.err])
        assert "/TOKEN" in printed
        assert secret not in printed
        pages = [(await gateway.get(page)).body.decode() for page in ("/status", "/workers", "/rules", "/metrics")]
        assert secret not in "".join(pages)


async def test_the_rules_of_registration_change_at_run_time(tmp_path: Path) -> None:
    """After a reload a token is wanted that was not, and the address of registration stays."""
    flag = f"127.0.0.1:{free_port()}"
    file = written(tmp_path / "s.yaml", {"fastchat": {"accept": {"listen": flag}}, "watch_files": False})
    body: JsonObject = {"worker_name": "http://127.0.0.1:9", "check_heart_beat": True, "worker_status": None}
    async with serving(file) as gateway:
        assert (await call(parse_address(flag), "POST", "/register_worker", body)).status == 200
        other: JsonObject = {"listen": "127.0.0.1:1", "token": "a-secret-of-sixteen"}
        written(file, {"fastchat": {"accept": other}, "watch_files": False})
        reply = await gateway.post("/reload")
        assert reply.status == 200
        assert str(reply.object["needs_restart"]).startswith("['fastchat.accept.listen needs a restart: ")
        assert (await call(parse_address(flag), "POST", "/register_worker", body)).status == 401
        bad: JsonObject = {"listen": flag, "allow": ["10.0.0.0/99"]}
        written(file, {"fastchat": {"accept": bad}, "watch_files": False})
        assert (await gateway.post("/reload")).status == 409


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (
            ["--accept-workers", "here"],
            "Error: --accept-workers: expected HOST:PORT such as 127.0.0.1:8090, got 'here'",
        ),
        (["--accept-workers", "192.0.2.1:1"], "Error: cannot listen on 192.0.2.1:1 (--accept-workers): "),
    ],
)
def test_an_address_that_cannot_be_used(arguments: list[str], start: str) -> None:
    """One sentence that names the flag."""
    (told,) = mistakes_of("serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", *arguments)
    assert told.startswith(start)


def test_the_flag_without_a_value(tmp_path: Path) -> None:
    """It stands for the port that workers expect, also before another flag."""
    (told,) = mistakes_of("serve", "--accept-workers", "--listen", "nowhere", cwd=tmp_path)
    assert told == "Error: --listen: expected HOST:PORT such as 127.0.0.1:8090, got 'nowhere'"
