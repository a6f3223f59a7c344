"""Processes compare what they have read, to the last text."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.processes.reading import Reading, with_digest
from proxy.reload import Loaded, loaded, read, read_rules
from proxy.source import Source

PACK = {
    "pack.yaml": "pack: talk\ndescription: x\nbackend: fastchat\n",
    "errors.yaml": "kinds: {default: {status: 500}}\nbody: {fields: {detail: error.message}}\n",
    "hello.yaml": """\
route: hello
description: x
match: {method: GET, path: /hello}
answer: {body: {fields: {a: '`1`'}}}
""",
}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    pack = tmp_path / "talk"
    pack.mkdir()
    for name, text in PACK.items():
        (pack / name).write_text(text, encoding="utf-8")
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"demo: {{}}\nrules: [{pack}]\n", encoding="utf-8")
    return Source(settings, {})


def _found(source: Source) -> Loaded:
    settings = source.settings()
    return loaded(settings, read_rules(settings.rules))


def test_the_same_files_are_the_same(source: Source) -> None:
    """Two that read have one digest, and what was read is in force when somebody says so."""
    first, second = Reading(source, _found(source)), Reading(source, _found(source))
    before = first.found
    digest, mistake = first.prepare()
    assert mistake == ""
    assert second.prepare() == (digest, "")
    assert first.found is before
    assert first.commit(digest, 2)
    assert (first.generation, first.found is before) == (2, False)
    assert not first.commit(digest, 3), "it is in force already"


@pytest.mark.parametrize("name", ["talk/hello.yaml", "settings.yaml"])
def test_another_text_is_another_digest(source: Source, tmp_path: Path, name: str) -> None:
    """Also where it means the same; what was not agreed on is not put in force."""
    digest = with_digest(lambda: read(source))[1]
    file = tmp_path / name
    file.write_text(file.read_text(encoding="utf-8") + "# a comment\n", encoding="utf-8")
    reading = Reading(source, _found(source))
    assert reading.prepare()[0] != digest
    assert not reading.commit(digest, 2)
    assert reading.generation == 1


def test_a_mistake_is_told_and_nothing_is_kept(source: Source, tmp_path: Path) -> None:
    """The first line of it, as this process found it."""
    reading = Reading(source, _found(source))
    (tmp_path / "talk" / "hello.yaml").write_text("route: hello\n", encoding="utf-8")
    digest, mistake = reading.prepare()
    assert digest == ""
    assert "hello.yaml" in mistake
    assert not reading.commit("", 2)


def test_a_fault_is_told_too(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the process goes on with what it has."""
    reading = Reading(source, _found(source))

    def fails(_: Source) -> Loaded:
        raise RecursionError("too deep")

    monkeypatch.setattr("proxy.processes.reading.read", fails)
    assert reading.prepare() == ("", "a fault of the gateway: RecursionError('too deep')")
    assert not reading.commit("", 2)


def test_what_needs_a_restart_stays(source: Source, tmp_path: Path) -> None:
    """In every process alike."""
    reading = Reading(source, _found(source))
    file = tmp_path / "settings.yaml"
    file.write_text(file.read_text(encoding="utf-8") + "listen: 127.0.0.1:1\ndefault_model: x\n", encoding="utf-8")
    digest, _ = reading.prepare()
    assert reading.commit(digest, 2)
    assert (reading.found.settings.listen, reading.found.settings.default_model) == ("127.0.0.1:8090", "x")
