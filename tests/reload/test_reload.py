"""Settings and rules read again: all or nothing, one at a time, and every mistake told."""

from __future__ import annotations

import asyncio
import logging
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from proxy.reload import MISTAKES_MAX, Loaded, Reloader, keep_fixed, loaded, read
from proxy.settings import Settings
from proxy.source import Source
from tests.cli.process import ROOT
from tests.gateway.rig import shipped

FLEET = "fastchat: {workers: ['http://127.0.0.1:9']}\n"


def _settings(**given: object) -> Settings:
    return Settings.model_validate(given)


class Harness:
    """A reloader whose reading can be held up or made to fail."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.reads = 0
        self.applied: list[Loaded] = []
        self.events: Counter[str] = Counter()
        self.failure: Exception | None = None
        self.restart: tuple[str, ...] = ()
        self.reloader = Reloader(self._read, self._apply, self._count)
        self._loaded = loaded(_settings(), shipped())

    def _read(self) -> Loaded:
        self.reads += 1
        self.go.wait(5)
        if self.failure is not None:
            raise self.failure
        return self._loaded

    def _apply(self, found: Loaded) -> tuple[str, ...]:
        self.applied.append(found)
        return self.restart

    def _count(self, name: str, /, **labels: str) -> None:
        self.events[f"{name} {labels['result']}"] += 1


async def test_a_good_reload_is_applied_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """What was read is put in force once; what needs a restart is told by name."""
    harness = Harness()
    harness.restart = ("listen needs a restart",)
    result = await harness.reloader.reload("SIGHUP")
    assert result.ok
    assert (len(harness.applied), harness.events) == (1, Counter({"reload ok": 1}))
    assert harness.reloader.last == result
    document = result.document()
    assert (document["result"], document["needs_restart"], document["asked_by"]) == (
        "ok", ["listen needs a restart"], "SIGHUP",
    )  # fmt: skip
    assert "listen needs a restart" in caplog.text


async def test_a_bad_one_is_refused_with_each_mistake(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is applied; each mistake is a line of the log, and the result has all of them."""
    harness = Harness()
    harness.failure = ValueError("a.yaml:1:1: wrong\nb.yaml:2:2: wrong too")
    result = await harness.reloader.reload("POST /reload")
    assert (result.ok, harness.applied) == (False, [])
    assert result.mistakes == ("a.yaml:1:1: wrong", "b.yaml:2:2: wrong too")
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "reload refused: a.yaml:1:1: wrong",
        "reload refused: b.yaml:2:2: wrong too",
    ]
    assert harness.events == Counter({"reload refused": 1})


async def test_mistakes_are_bounded() -> None:
    """A file of the wrong kind does not flood the log."""
    harness = Harness()
    harness.failure = ValueError("\n".join(f"line {number}" for number in range(MISTAKES_MAX + 100)))
    result = await harness.reloader.reload("SIGHUP")
    assert len(result.mistakes) == MISTAKES_MAX + 1
    assert result.mistakes[-1] == "and 100 more"


async def test_a_fault_of_our_own_is_a_refusal() -> None:
    """An exception that nobody foresaw leaves everything as it is, and the next reload works."""
    harness = Harness()
    harness.failure = RuntimeError("unforeseen")
    result = await harness.reloader.reload("SIGHUP")
    assert not result.ok
    assert "unforeseen" in result.mistakes[0]
    harness.failure = None
    assert (await harness.reloader.reload("SIGHUP")).ok


async def test_a_storm_of_reloads_is_two() -> None:
    """Whoever asks while one is under way gets the next one, and all of them the same."""
    harness = Harness()
    harness.go.clear()
    first = asyncio.create_task(harness.reloader.reload("SIGHUP"))
    while not harness.reads:
        await asyncio.sleep(0.001)
    rest = [asyncio.create_task(harness.reloader.reload("SIGHUP")) for _ in range(100)]
    await asyncio.sleep(0)
    harness.go.set()
    results = await asyncio.gather(first, *rest)
    assert harness.reads == len(harness.applied) == 2
    assert all(result is results[1] for result in results[1:])


async def test_the_loop_goes_on_while_files_are_read() -> None:
    """Reading is off the event loop: others run meanwhile."""
    harness = Harness()
    harness.go.clear()
    task = asyncio.create_task(harness.reloader.reload("SIGHUP"))
    for _ in range(20):
        await asyncio.sleep(0.001)
    assert not task.done()
    harness.go.set()
    assert (await task).ok


async def test_whoever_stops_asking_does_not_stop_the_reload() -> None:
    """A client of POST /reload that leaves takes nothing from the others."""
    harness = Harness()
    harness.go.clear()
    leaving = asyncio.create_task(harness.reloader.reload("POST /reload"))
    staying = asyncio.create_task(harness.reloader.reload("POST /reload"))
    await asyncio.sleep(0.01)
    leaving.cancel()
    harness.go.set()
    assert (await staying).ok


async def test_a_reload_under_way_at_the_stop_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """It is neither waited for nor counted nor an error, nothing of it is applied, and whoever asked is told."""
    caplog.set_level(logging.INFO)
    harness = Harness()
    harness.go.clear()
    asked = [asyncio.create_task(harness.reloader.reload("SIGHUP"))]
    while not harness.reads:
        await asyncio.sleep(0.001)
    asked.append(asyncio.create_task(harness.reloader.reload("POST /reload")))
    await asyncio.sleep(0)
    began = time.monotonic()
    await harness.reloader.close()
    assert time.monotonic() - began < 0.2
    harness.go.set()
    asked.append(asyncio.create_task(harness.reloader.reload("a changed file")))
    for result in [await task for task in asked]:
        assert (result.ok, result.mistakes, result.document()["result"]) == (False, (), "dropped")
    assert (harness.applied, harness.events) == ([], Counter())
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert caplog.text.count("reload: dropped") == 3


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "rules" / "dbgpt-worker", tmp_path / "pack"))


def test_reading_takes_flags_over_the_file_each_time(tmp_path: Path, pack: Path) -> None:
    """What a flag said at the start holds for every reload."""
    file = tmp_path / "settings.yaml"
    source = Source(file, {"rules": [str(pack)], "fastchat": {"workers": ["http://flag:1"]}})
    for seconds in (1.0, 2.0):
        file.write_text(f"fastchat: {{workers: ['http://file:1'], probe_seconds: {seconds}}}\n", encoding="utf-8")
        found = read(source)
        assert found.settings.fastchat.workers == ["http://flag:1"]
        assert found.settings.fastchat.probe_seconds == seconds
        assert found.rules.packs == ("dbgpt-worker",)


def test_a_rule_pack_whose_tests_fail_is_not_read(tmp_path: Path, pack: Path) -> None:
    """A reload runs the rules' own tests; the failing one is named with its place."""
    file = pack / "count_token.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("{answer: 2}", "{answer: 3}"), encoding="utf-8")
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"{FLEET}rules: ['{pack}']\n", encoding="utf-8")
    with pytest.raises(Exception, match=r"count_token.yaml:24: test 'the worker's count is the answer'"):
        read(Source(settings, {}))


def test_a_file_that_vanished_is_a_mistake(tmp_path: Path) -> None:
    """A settings file that is gone in the moment of a reload is one sentence."""
    with pytest.raises(ValueError, match=r"--config .*gone.yaml: No such file or directory"):
        read(Source(tmp_path / "gone.yaml", {}))


def test_a_template_that_vanished_is_a_mistake(tmp_path: Path) -> None:
    """A chat template that was there when the settings were checked, and is gone when it is used, is one sentence."""
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}", encoding="utf-8")
    settings = _settings(models={"m": {"chat_template_file": str(template)}})
    template.unlink()
    with pytest.raises(ValueError, match=r"models.m: chat_template_file: .*: No such file"):
        loaded(settings, shipped())


def test_what_cannot_change_is_named_and_kept() -> None:
    """Each of the fixed settings stays as it is and is told by name; everything else is taken."""
    running = _settings(
        listen="127.0.0.1:1", fastchat={"accept": {"listen": "127.0.0.1:3", "allow": ["a"]}},
        dbgpt={"advertise": "a:1"},
    )  # fmt: skip
    wanted = _settings(
        listen="127.0.0.1:2", admin="127.0.0.1:9", model_ports={"first": 1, "last": 2}, demo={},
        fastchat={"accept": {"listen": "127.0.0.1:4", "allow": ["b"]}, "workers": ["http://w:1"]},
        dbgpt={"advertise": "b:1", "management": True}, shutdown_seconds=3.0,
    )  # fmt: skip
    kept, restart = keep_fixed(running, wanted)
    names = [sentence.split(" needs a restart: ")[0] for sentence in restart]
    assert names == ["listen", "admin", "model_ports", "demo", "fastchat.accept.listen", "dbgpt.advertise"]
    assert restart[0] == "listen needs a restart: it stays 127.0.0.1:1, the settings now say 127.0.0.1:2"
    assert (kept.listen, kept.admin, kept.model_ports, kept.demo) == ("127.0.0.1:1", running.admin, None, None)
    assert kept.fastchat.accept is not None
    assert (kept.fastchat.accept.listen, kept.fastchat.accept.allow) == ("127.0.0.1:3", ["b"])
    assert (kept.dbgpt.advertise, kept.dbgpt.management) == ("a:1", True)
    assert (kept.fastchat.workers, kept.shutdown_seconds) == (["http://w:1"], 3.0)


@pytest.mark.parametrize(("before", "after"), [(None, {}), ({}, None)])
def test_the_controller_role_does_not_come_or_go(before: object, after: object) -> None:
    """A listener for workers is opened at the start or not at all."""
    kept, restart = keep_fixed(_settings(fastchat={"accept": before}), _settings(fastchat={"accept": after}))
    assert (kept.fastchat.accept is None) == (before is None)
    assert len(restart) == 1
    assert restart[0].startswith("fastchat.accept.listen needs a restart: it stays ")


def test_the_same_settings_need_no_restart() -> None:
    """A file that says the same again changes nothing."""
    settings = _settings(fastchat={"accept": {}}, demo={})
    assert keep_fixed(settings, settings) == (settings, ())
