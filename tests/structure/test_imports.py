"""Which part of the program may import which: the pure core stays pure, edges do not know each other."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.structure.sources import ROOT, imported, module_name, part_of, python_files, tree

# What each part may import from the rest of the program, beside itself and the package's version.
ALLOWED: dict[str, set[str]] = {
    "types": set(),
    "limits": set(),
    "errors": {"types"},
    "address": set(),
    "cpus": set(),
    "threads": set(),
    "waiting": set(),
    "garbage": set(),
    "http_library": set(),
    "framing": {"errors", "types"},
    "expr": {"errors", "types"},
    "fleet": {"errors", "types"},
    "translate": {"errors", "expr", "framing", "limits", "types"},
    "documents": {"errors", "limits", "types"},
    "ruleset": {"documents", "errors", "expr", "framing", "limits", "translate", "types"},
    "upstream": {"errors", "limits", "types", "waiting"},
    "http": {"address", "limits"},
    "telemetry": {"errors", "limits", "types"},
    "recording": {"errors", "framing", "limits", "threads", "types"},
    "server": {
        *("address", "errors", "expr", "fleet", "framing", "http", "limits", "recording", "telemetry", "translate"),
        *("types", "upstream", "waiting"),
    },
    "backends": {"address", "documents", "errors", "expr", "fleet", "http", "limits", "threads", "translate", "types"},
    "demo": {"limits", "types"},
    "tools": {
        *("backends", "documents", "errors", "expr", "framing", "garbage", "limits", "recording"),
        *("ruleset", "settings", "translate", "types"),
    },
    "settings": {"address", "backends", "cpus", "documents", "fleet", "limits", "types"},
}
# These put the parts together and may import all of them.
WIRING = {
    *(
        "__main__",
        "app",
        "cli",
        "datapath",
        "lifecycle",
        "operations",
        "processes",
        "reload",
        "source",
        "state",
        "together",
        "tuning",
        "watching",
    ),
}

PURE = {"types", "limits", "errors", "address", "framing", "expr", "fleet", "translate"}
# Sockets, files, clocks, processes, configuration, and the libraries that bring them.
IMPURE = {
    *("aiohttp", "asyncio", "uvloop", "httptools", "prometheus_client", "pydantic", "yaml", "click", "jinja2", "rich"),
    *("datetime", "io", "logging", "os", "pathlib", "secrets", "select", "shutil", "signal", "socket", "ssl"),
    *("subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid"),
}
# The name under which a requirement is imported, where it is another one.
IMPORTED_AS = {"pyyaml": "yaml", "prometheus-client": "prometheus_client"}
# Comes with pydantic, which pins it.
WITH_OTHERS = {"pydantic_core"}

FILES = python_files("proxy")


def test_every_part_is_in_the_table() -> None:
    """A new package has its place among the others said here."""
    parts = {part_of(module_name(file)) for file in FILES} - {""}
    assert parts == ALLOWED.keys() | WIRING


def test_parts_import_only_what_they_may() -> None:
    """Translation knows no rule files, the server no product, upstream no other edge; only app and cli wire."""
    wrong = [
        f"{file}:{line}: {name}"
        for file in FILES
        if (part := part_of(module_name(file))) in ALLOWED
        for name, line in imported(file)
        if name.startswith("proxy.") and part_of(name) not in ALLOWED[part] | {part}
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_imports_nothing_that_acts() -> None:
    """Framing, expressions, translation and the fleet's table have no way to a socket, a file or a clock."""
    wrong = [
        f"{file}:{line}: {name}"
        for file in FILES
        if part_of(module_name(file)) in PURE
        for name, line in imported(file)
        if name in IMPURE or name.split(".")[0] in IMPURE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_takes_randomness_and_files_from_outside() -> None:
    """The core names `random.Random` only as a type, and calls none of the module's functions, nor open or print."""
    wrong = []
    for file in FILES:
        if part_of(module_name(file)) not in PURE:
            continue
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.ImportFrom) and node.module == "random":
                wrong += [f"{file}:{node.lineno}: {alias.name}" for alias in node.names if alias.name != "Random"]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
                wrong += [f"{file}:{node.lineno}: random.{node.attr}"] if node.attr != "Random" else []
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                wrong += [f"{file}:{node.lineno}: {called}()"] if called in {"open", "print", "random.Random"} else []
    assert not wrong, "\n".join(wrong)


def test_requirements_are_what_is_imported() -> None:
    """Every library that the program imports is required, and none is required for nothing."""
    own = {name.split(".")[0] for file in FILES for name, _ in imported(file)} - WITH_OTHERS
    third_party = {name for name in own if name not in sys.stdlib_module_names} - {"proxy"}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split("\n")
    required = {re.split(r"[ ;<>=!~]", line.strip().lower())[0] for line in lines if line.strip()}
    assert third_party == {IMPORTED_AS.get(name, name) for name in required}


_EACH_ALONE = """
import importlib, json, os, sys
import aiohttp.web, click, httptools, jinja2.sandbox, jmespath, orjson, prometheus_client, pydantic, yaml
failed = {}
running = {}
def finish():
    child, _ = os.wait()
    name, read = running.pop(child)
    if told := read.read():
        failed[name] = told
for name in json.loads(sys.argv[1]):
    if len(running) >= 2:
        finish()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            importlib.import_module(name)
        except BaseException as error:
            os.write(write, repr(error).encode()[:4000])
        os._exit(0)
    os.close(write)
    running[child] = name, open(read)
while running:
    finish()
print(json.dumps(failed))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process for each module would take too long")
def test_each_module_imports_alone(tmp_path: Path) -> None:
    """No module needs another one to have been imported before it, so that nothing depends on an accident of order."""
    names = [module_name(file) for file in FILES if file.name != "__main__.py"]
    command = [sys.executable, "-W", "error", "-c", _EACH_ALONE, json.dumps(names)]
    # Each file is compiled once, also where nothing is to be written beside the files.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


def test_packages_are_all_installed() -> None:
    """The list in setup.cfg holds every package, or an installed gateway would miss a part of itself."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    listed = set(config["options"]["packages"].split())
    folders = {".".join(file.parent.parts) for file in FILES}
    assert listed == folders | {"proxy.rule_packs"}
    without_init = [folder for folder in folders if not (ROOT / Path(*folder.split(".")) / "__init__.py").is_file()]
    assert without_init == []
