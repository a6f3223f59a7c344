"""What is built is whole: the wheel and the source distribution, and a gateway that was installed from them."""

from __future__ import annotations

import configparser
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import proxy
from tests.cli.process import ANY_PORTS, ROOT, Started

# Made by tools, not by people; some of it would even change what is built.
NOT_SOURCE = shutil.ignore_patterns(
    *(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis", ".benchmarks", "out")
)


class Built(NamedTuple):
    """direct: the wheel made from the checkout; wheel: the one made from the source distribution."""

    direct: Path
    source: Path
    wheel: Path


def _python(*arguments: str, cwd: Path, python: str = sys.executable) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Built from a copy, with the build backend of this environment, so that nothing is fetched or left behind."""
    folder = tmp_path_factory.mktemp("built")
    checkout = folder / "checkout"
    shutil.copytree(ROOT, checkout, ignore=NOT_SOURCE)
    _python("-m", "build", "--no-isolation", "--outdir", "both", "checkout", cwd=folder)
    _python("-m", "build", "--no-isolation", "--wheel", "--outdir", "direct", "checkout", cwd=folder)
    (source,) = (folder / "both").glob("*.tar.gz")
    (wheel,) = (folder / "both").glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    return Built(direct, source, wheel)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel, and sees only the dependencies of this one.

    A path in a .pth file is searched for packages and not for further .pth files, so the checkout, which is installed
    here in editable form, is not found through it.
    """
    folder = tmp_path_factory.mktemp("installed") / "env"
    _python("-m", "venv", "--without-pip", str(folder), cwd=folder.parent)
    programs = folder / "bin"
    pip = ("-m", "pip", "--disable-pip-version-check", "--python", str(programs / "python"))
    _python(*pip, "install", "--quiet", "--no-deps", "--no-index", str(built.wheel), cwd=folder.parent)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return programs


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_program_and_nothing_else(built: Built) -> None:
    """Every module, every rule file and the marker for type checkers; no tests, no benchmarks."""
    names = {name for name in _names(built.wheel) if ".dist-info/" not in name and ".data/" not in name}
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "proxy").rglob("*.py")}
    files = [file for end in ("yaml", "json") for file in (ROOT / "rules").rglob(f"*.{end}")]
    rules = {f"proxy/rule_packs/{file.relative_to(ROOT / 'rules')}" for file in files}
    assert len(rules) > 5
    assert names == modules | rules | {"proxy/py.typed"}


def test_the_wheel_tells_what_it_is(built: Built) -> None:
    """Its metadata has the version of the program, the licence, the command and the example of the settings."""
    with zipfile.ZipFile(built.wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{info}/METADATA").decode()
        commands = configparser.ConfigParser()
        commands.read_string(archive.read(f"{info}/entry_points.txt").decode())
        names = archive.namelist()
    assert f"\nName: dbgpt-fastchat-gateway\nVersion: {proxy.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert dict(commands["console_scripts"]) == {"dbgpt-gateway": "proxy.cli:main"}
    assert any(name.endswith("/LICENSE") for name in names)
    assert any(name.endswith("share/doc/dbgpt-fastchat-gateway/settings.example.yaml") for name in names)


def test_both_ways_to_a_wheel_give_the_same(built: Built) -> None:
    """A wheel made from the source distribution misses nothing that one from the checkout has."""
    assert _names(built.wheel) == _names(built.direct)


def test_the_source_distribution_holds_what_is_needed_to_work_on_it(built: Built) -> None:
    """Documents, tests, rules and the Makefile are in it, and nothing that tools made."""
    with tarfile.open(built.source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        *("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "Makefile", "setup.cfg", "pyproject.toml"),
        *("settings.example.yaml", "docs/rules.md", "docs/flow.svg", ".ci/run", "rules/dbgpt-worker/pack.yaml"),
        *("benchmarks/run.py", "tests/packaging/test_distribution.py", "tests/recordings/worker_api.jsonl"),
    }
    assert wanted <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "build/", ".git/"))]


def test_the_installed_gateway_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    """The tests below run what was installed, not the checkout."""
    where = _python("-c", "import proxy; print(proxy.__file__)", cwd=tmp_path, python=str(installed / "python"))
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_installed_gateway_finds_its_rules(installed: Path, tmp_path: Path) -> None:
    """`check` and `test` without a path work in any folder, on the rule packs that came with the wheel."""
    for command, answer in (("check", "\nno mistakes\n"), ("test", " 0 failed")):
        done = subprocess.run(
            [installed / "dbgpt-gateway", command],
            cwd=tmp_path,
            env=_clean(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert answer in done.stdout


def test_the_installed_gateway_serves(installed: Path, tmp_path: Path) -> None:
    """`serve --demo` answers a request, and ends cleanly."""
    command = [str(installed / "dbgpt-gateway")]
    with Started("serve", "--demo", *ANY_PORTS, command=command, cwd=tmp_path, env=_clean()) as gateway:
        url = gateway.until(r"^clients +(http://\S+)")[1]
        body = {"model": "demo-chat", "messages": [{"role": "human", "content": "Hello"}], "max_new_tokens": 4}
        question = urllib.request.Request(f"{url}/api/worker/generate", json.dumps(body).encode())
        with urllib.request.urlopen(question, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["error_code"] == 0
        assert answer["text"]
        gateway.send(signal.SIGTERM)
        assert gateway.wait() == 0


def _clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
