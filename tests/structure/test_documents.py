"""What the documents name exists: files, headings, make targets, flags, settings, metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic import BaseModel

from proxy.cli import main
from proxy.settings import Settings
from tests.structure.sources import ROOT
from tests.telemetry.everything import several

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "settings.example.yaml", ".ci/run")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "docs").glob("*.yaml")),
]
# Flags of other programs, and by which word the line tells so.
FOREIGN_FLAGS = {
    "--strict": "mypy",
    "--controller-address": "orker",
    "--limit-worker-concurrency": "FastChat",
    **dict.fromkeys(("--enable-optimizations", "--with-lto"), "PYTHON_CONFIGURE_OPTS"),
}
# Folders of the project whose names begin a path in the documents.
TOP = ("proxy", "rules", "tests", "benchmarks", "docs", ".ci")

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_MAKE = re.compile(r"(?:^|`)make ([a-z]+)", re.MULTILINE)
_METRIC = re.compile(r"\bgateway_[a-z_]+")
# Outcomes of requests that look like metrics.
_OUTCOMES = ("gateway_error",)
_DOTTED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)+)(?:: [^`]*)?`")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _anchors(file: Path) -> set[str]:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", _text(file), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(params=DOCUMENTS, ids=lambda file: file.name)
def document(request: pytest.FixtureRequest) -> Path:
    file = request.param
    assert isinstance(file, Path)
    return file


def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file that is there, and a heading in it."""
    broken = []
    for link in _LINK.findall(_text(document)):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken, f"{document.name}: {broken}"


def test_paths_exist(document: Path) -> None:
    """A path of the project that a document names is there."""
    named = {match.rstrip("./") for match in _PATH.findall(re.sub(r"https?://\S+", "", _text(document)))}
    gone = sorted(path for path in named if not (ROOT / path).exists())
    assert not gone, f"{document.name}: {gone}"


def test_flags_exist(document: Path) -> None:
    """A flag that a document names is one of the command's."""
    assert isinstance(main, click.Group)
    known = {flag for command in [main, *main.commands.values()] for option in command.params for flag in option.opts}
    unknown = [
        flag
        for line in _text(document).splitlines()
        for flag in _FLAG.findall(line)
        if flag not in known and FOREIGN_FLAGS.get(flag, "\n") not in line
    ]
    assert not unknown, f"{document.name}: {unknown}"


def test_targets_exist(document: Path) -> None:
    """`make X` in a document is a target, and has a line in `make help`."""
    helped = set(re.findall(r"^([a-z-]+):.*## ", _text(ROOT / "Makefile"), re.MULTILINE))
    unknown = sorted(set(_MAKE.findall(_text(document))) - helped)
    assert not unknown, f"{document.name}: {unknown}"


def test_every_target_is_helped() -> None:
    """`make help` shows every target that a person can call."""
    makefile = _text(ROOT / "Makefile")
    phony = set(re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE))
    assert phony == set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))


def test_settings_exist(document: Path) -> None:
    """A dotted name in backticks whose first part is a section of the settings is a setting."""
    unknown = [
        name
        for name in _DOTTED.findall(_text(document))
        if name.split(".")[0] in Settings.model_fields and not _is_setting(Settings, name.split("."))
    ]
    assert not unknown, f"{document.name}: {unknown}"


def test_metrics_exist(document: Path) -> None:
    """A metric that a document names is one that the gateway has."""
    known = set(re.findall("^# TYPE (gateway_[a-z_]+)", several().decode(), re.MULTILINE))
    known |= set(_OUTCOMES)
    named = {re.sub("_(bucket|sum|count)$", "", name) for name in _METRIC.findall(_text(document))}
    assert len(known) > 15
    assert not named - known, f"{document.name}: {sorted(named - known)}"


def _is_setting(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None:
        return False
    inner = [each for each in [field.annotation, *get_args(field.annotation)] if isinstance(each, type)]
    models = [each for each in inner if issubclass(each, BaseModel)]
    if path[1:] and models and field.annotation is not models[0] and path[0] == "models":
        path = path[1:]  # models.NAME.key
    return not path[1:] or any(_is_setting(each, path[1:]) for each in models)
