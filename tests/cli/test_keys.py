"""`key`, and what becomes of its key in a gateway that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from proxy.documents import parse_yaml
from proxy.server.keys import key_digest
from proxy.types import JsonObject
from tests.cli.process import run
from tests.cli.serving import HELLO, serving, worker, written
from tests.gateway.client import call

PACK = "pack: guarded\ndescription: x\nextends: dbgpt-worker\nkeys: bearer\n"


def test_a_key_is_shown_once_with_its_line_for_the_settings() -> None:
    """The line can be put under `api_keys` as it is, and has the digest of the key above it."""
    done = run("key", 'team "a"')
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(r"key +(sk-\S+)\napi_keys +(- \{.*\})\n", done.stdout)
    assert found, done.stdout
    line = parse_yaml(found[2], "settings").value
    assert line == [{"name": 'team "a"', "sha256": key_digest(found[1])}]


def test_a_key_for_programs() -> None:
    """The same as JSON."""
    document = json.loads(run("key", "a", "--json").stdout)
    assert document["api_keys"] == [{"name": "a", "sha256": key_digest(document["key"])}]


async def test_keys_come_and_go_with_a_reload(tmp_path: Path) -> None:
    """The start says what is guarded; a key that is taken out of the settings lets nobody in any more."""
    first, second = (json.loads(run("key", name, "--json").stdout) for name in ("first", "second"))
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "pack.yaml").write_text(PACK, encoding="utf-8")
    async with worker() as fleet:
        settings: JsonObject = {
            "fastchat": {"workers": [fleet.address]}, "rules": [str(pack)], "watch_files": False,
            "api_keys": first["api_keys"],
        }  # fmt: skip
        file = written(tmp_path / "s.yaml", settings)
        async with serving(file) as gateway:
            assert "keys        1 for guarded" in gateway.process.out

            async def status(key: str) -> int:
                headers = {"authorization": f"Bearer {key}", "connection": "close"}
                return (await call(gateway.clients, "POST", "/api/worker/embeddings", HELLO, **headers)).status

            assert (await status(first["key"]), await status(second["key"])) == (400, 401)
            written(file, {**settings, "api_keys": second["api_keys"]})
            assert (await gateway.post("/reload")).status == 200
            assert (await status(first["key"]), await status(second["key"])) == (401, 400)
            pages = [(await gateway.get(page)).body.decode() for page in ("/status", "/workers", "/rules", "/metrics")]
    printed = "\n".join([*gateway.process.out, *gateway.process.err, *pages])
    for made in (first, second):
        assert made["key"] not in printed
        assert made["api_keys"][0]["sha256"] not in printed
    assert "key=second" in printed


async def test_keys_that_guard_nothing_are_told(tmp_path: Path) -> None:
    """Nobody should believe in a door that is not there; the packs that stay open are named."""
    made = json.loads(run("key", "a", "--json").stdout)
    file = written(tmp_path / "s.yaml", {"demo": {}, "rules": [], "api_keys": made["api_keys"]})
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "pack.yaml").write_text(
        "pack: open\ndescription: x\nextends: dbgpt-worker\n", encoding="utf-8"
    )
    async with serving(file, "--rules", str(tmp_path / "open")) as gateway:
        (line,) = [line for line in gateway.process.out if line.startswith("keys ")]
        assert line == "keys        1 in api_keys, but no rule pack wants one (pack.yaml: keys)"
    (tmp_path / "guarded").mkdir()
    guarded = PACK.replace("dbgpt-worker", "fastchat-worker")
    (tmp_path / "guarded" / "pack.yaml").write_text(guarded, encoding="utf-8")
    async with serving(file, "--rules", str(tmp_path / "open"), "--rules", str(tmp_path / "guarded")) as gateway:
        (line,) = [line for line in gateway.process.out if line.startswith("keys ")]
        assert line == "keys        1 for guarded; without a key: open"
