"""What a command loads before it does its work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.process import ROOT, environment

OWN_SERVER = {"proxy.app", "proxy.demo", "proxy.telemetry", "proxy.upstream"}
SERVER = {"aiohttp", "asyncio", "jinja2", "prometheus_client", "rich", "ssl", "uvloop", "watchfiles", *OWN_SERVER}
CHECKER = {"pydantic", "yaml", "jmespath", "proxy.ruleset"}


@pytest.mark.parametrize(
    ("command", "code", "unused"),
    [
        (["--version"], 0, SERVER | CHECKER),
        (["serve", "--help"], 0, SERVER | CHECKER),
        (["key", "somebody"], 0, SERVER | CHECKER),
        (["check", "rules"], 0, SERVER),
        (["test", "benchmarks/rules"], 0, SERVER),
        (["serve", "--config", "gone.yaml"], 2, SERVER),
        (["serve", "--demo", "--listen", "nonsense"], 2, SERVER),
        (["serve", "--fastchat-worker", "nonsense"], 2, SERVER),
        (["serve", "--fastchat-worker", "http://127.0.0.1:9", "--rules", "gone"], 2, {"jinja2", "rich", "watchfiles"}),
    ],
    ids=["version", "help", "key", "check", "test", "no settings", "a wrong flag", "no address", "no rules"],
)
def test_a_command_loads_what_it_uses(command: list[str], code: int, unused: set[str], tmp_path: Path) -> None:
    """A version, a check and a mistake are told without waiting for a server, a template engine or a client library."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "proxy", *command],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == code, done
    loaded = set(re.findall(r"^import time:.*\| +((?:proxy\.)?[a-z_0-9]+)$", done.stderr, re.MULTILINE))
    assert "click" in loaded
    assert loaded & unused == set()
