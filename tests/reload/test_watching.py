"""Changed files are noticed, however they were changed, and nothing else is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxy.watching import FileWatch, Watched
from tests.backends.fakes import eventually


class Harness:
    """A watch over a settings file, a template and a folder of rules."""

    def __init__(self, folder: Path, settings: Path | None = None) -> None:
        self.file = settings or folder / "etc" / "settings.yaml"
        self.rules = folder / "rules"
        self.rule = self.rules / "pack" / "route.yaml"
        self.rule.parent.mkdir(parents=True)
        self.rule.write_text("a")
        if settings is None:
            self.file.parent.mkdir()
            self.file.write_text("a")
        self.told = 0
        self.watch = FileWatch(self.watched, self._changed)

    def watched(self) -> Watched:
        return Watched([self.file], [self.rules])

    async def _changed(self) -> None:
        self.told += 1

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.watch.run())
        await asyncio.sleep(0.2)
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def told_once(self, change: Callable[[], object], *, seconds: float = 5.0) -> None:
        """One change is told once."""
        before = self.told
        change()
        await eventually(lambda: self.told > before, seconds=seconds)
        await asyncio.sleep(0.5)
        assert self.told == before + 1


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    harness = Harness(tmp_path)
    async with harness.watching():
        yield harness


async def test_files_written_to(harness: Harness) -> None:
    """Text that is written into a settings file or a rule file."""
    await harness.told_once(lambda: harness.file.write_text("bb"))
    await harness.told_once(lambda: harness.rule.write_text("bb"))


async def test_an_editor_that_replaces_the_file(harness: Harness) -> None:
    """A new file with the old name, as most editors leave it; twice, because the first one is another file then."""

    def replace() -> None:
        new = harness.file.with_name(".settings.yaml.swp")
        new.write_text("b")
        os.replace(new, harness.file)

    await harness.told_once(replace)
    await harness.told_once(replace)


async def test_a_mounted_map_that_is_swapped(tmp_path: Path) -> None:
    """Kubernetes swaps a link to a folder; the file's own name is never touched."""
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.yaml").write_text(name)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "settings.yaml").symlink_to("..data/settings.yaml")
    harness = Harness(tmp_path, settings=tmp_path / "settings.yaml")

    def swap() -> None:
        (tmp_path / "..data_tmp").symlink_to("..2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    async with harness.watching():
        await harness.told_once(swap)


async def test_rule_files_come_and_go(harness: Harness) -> None:
    """A file more, a file less, and a file in a new folder."""
    await harness.told_once(lambda: (harness.rules / "pack" / "more.yaml").write_text("a"))
    await harness.told_once((harness.rules / "pack" / "more.yaml").unlink)

    def new_folder() -> None:
        (harness.rules / "second").mkdir()
        (harness.rules / "second" / "pack.yaml").write_text("a")

    await harness.told_once(new_folder)
    await harness.told_once(lambda: (harness.rules / "second" / "pack.yaml").write_text("bb"))


async def test_what_is_no_change(harness: Harness) -> None:
    """Temporary files, other files beside, and a file that was read meanwhile for another reason."""
    (harness.rules / "pack" / ".route.yaml.swp").write_text("x")
    (harness.rules / "pack" / "notes.txt").write_text("x")
    (harness.file.parent / "other.yaml").write_text("x")
    harness.file.write_text("bb")
    harness.watch.reading()
    harness.watch.read(harness.watched())
    await asyncio.sleep(0.8)
    assert harness.told == 0


async def test_a_folder_that_is_removed_and_comes_back(harness: Harness) -> None:
    """A checkout that replaces the whole folder is noticed within the time between two looks."""
    moved = harness.rules.with_name("old")

    def replace() -> None:
        os.replace(harness.rules, moved)
        (harness.rules / "pack").mkdir(parents=True)
        harness.rule.write_text("new")

    await harness.told_once(replace)
    await harness.told_once(lambda: harness.rule.write_text("newer"))


def test_a_change_before_watching_began_counts(tmp_path: Path) -> None:
    """What changes while the program starts is a difference to what was read then."""
    harness = Harness(tmp_path)
    harness.file.write_text("bb")
    assert Watched([harness.file], [harness.rules]).fingerprint() != harness.watch._known
