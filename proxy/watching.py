"""Files that are read again when they change: the settings, the rules, and what the settings name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Final

from watchfiles import awatch

log = logging.getLogger(__name__)

# Without any news files are looked at this often, in milliseconds: a folder that was replaced as a whole, or lies on a
# network, tells nobody.
_LOOK_MS: Final = 2_000
# Changes within this time of each other count as one.
_DEBOUNCE_MS: Final = 200
# A file that is written to all the time is read at last after so many looks.
_LOOKS_MAX: Final = 20
# More folders and files than rule packs have; what is beyond is read again only when somebody asks for it.
_FOLDERS_MAX: Final = 500
_FILES_MAX: Final = 2_000

Look = tuple[str, int, int, int]
Print = dict[str, Look]


class Watched:
    """Which files are looked at: single ones, and everything that could be a rule file below some folders."""

    def __init__(self, files: Iterable[Path], folders: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._folders = tuple(folders)

    def fingerprint(self) -> Print:
        """By file, what changes when it does: where its name leads, inode, size and time. A missing one has none."""
        return {str(file): look for file in self._all() if (look := _look(file)) is not None}

    def places(self) -> tuple[str, ...]:
        """The folders in which something can change, those that exist; a name can be a link, or be replaced."""
        found: dict[str, None] = {}
        for file in self._files:
            for place in (file.absolute().parent, file.resolve().parent):
                found[str(place)] = None
        for folder in self._folders:
            found[str(folder.absolute().parent)] = None
            if folder.is_dir():
                inner = (path for path in folder.rglob("*") if path.is_dir())
                found.update(dict.fromkeys(map(str, (folder.resolve(), *inner))))
        return tuple(place for place in list(found)[:_FOLDERS_MAX] if Path(place).is_dir())

    def _all(self) -> Iterable[Path]:
        yield from self._files
        for folder in self._folders:
            if folder.is_dir():
                found = sorted(path for path in folder.rglob("*.y*ml") if not path.name.startswith("."))
                yield from found[:_FILES_MAX]


def _look(file: Path) -> Look | None:
    try:
        state = file.stat()
        return str(file.resolve()), state.st_ino, state.st_size, state.st_mtime_ns
    except OSError:
        return None


class FileWatch:
    """Awaits `changed` after each change of the files that `watched` says then.

    Never for files that are as they were when they were last read (`reading`), and not before they have stayed as they
    are for a moment. Notices a change at once where the system tells of it, else within two seconds.
    """

    def __init__(self, watched: Callable[[], Watched], changed: Callable[[], Awaitable[object]]) -> None:
        self._watched, self._changed = watched, changed
        self._known = watched().fingerprint()

    def reading(self) -> None:
        """The files are about to be read, so that their state until now is known."""
        self._known = self._watched().fingerprint()

    def read(self) -> None:
        """They were read; what has only now become watched is known as it is now."""
        self._known = {name: self._known.get(name, look) for name, look in self._watched().fingerprint().items()}

    async def run(self) -> None:
        """Work until cancelled."""
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it would tell of each editor's temporary file
        while True:
            try:
                await self._follow(await asyncio.to_thread(lambda: self._watched().places()))
            except (OSError, RuntimeError) as error:  # noqa: PERF203  once in two seconds at most
                # Too many watches on this machine, or a folder that vanished in this moment.
                log.warning("the files of the settings cannot be watched, looking at them now and then: %s", error)
                await asyncio.sleep(_LOOK_MS / 1000)
                await self._compare()

    async def _follow(self, places: tuple[str, ...]) -> None:
        """Until there are other folders to look at."""
        changes = awatch(
            *places,
            watch_filter=None,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        )
        async with aclosing(changes) as news:
            await self._compare()  # what changed before it was watched
            async for _ in news:
                await self._compare()
                if await asyncio.to_thread(lambda: self._watched().places()) != places:
                    return

    async def _compare(self) -> None:
        now = await self._fingerprint()
        for _ in range(_LOOKS_MAX):
            if now == self._known:
                return
            await asyncio.sleep(_DEBOUNCE_MS / 1000)
            before, now = now, await self._fingerprint()
            if now == before:
                break
        self._known = now  # also where nobody reads them
        await self._changed()

    async def _fingerprint(self) -> Print:
        return await asyncio.to_thread(lambda: self._watched().fingerprint())
