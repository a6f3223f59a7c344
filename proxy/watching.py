"""Files that are read again when they change: the settings, the rules, and what the settings name."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from proxy.backends.control import end_tasks
from proxy.ruleset import RuleSet, found_pack
from proxy.settings import Settings
from proxy.threads import in_thread

log = logging.getLogger(__name__)

# Without any news files are looked at this often, in milliseconds: a folder that was replaced as a whole, or lies on a
# network, tells nobody.
_LOOK_MS: Final = 2_000
# Changes within this time of each other count as one.
_DEBOUNCE_MS: Final = 200
# A file that is written to all the time is read at last after so many looks.
_LOOKS_MAX: Final = 20
# How long the end waits for the thread that watches; it looks whether it should end twenty times a second.
_STOP_SECONDS: Final = 0.5
# More folders and files than rule packs have; what is beyond is read again only when somebody asks for it.
_FOLDERS_MAX: Final = 500
_FILES_MAX: Final = 2_000

# A name that begins with a dot is an editor's own file.
_RULE_FILE: Final = re.compile(r"(?:^|/)[^./][^/]*\.y[^/]*ml$")

Look = tuple[int, int, int]
Print = dict[str, Look]


class Watched:
    """Which files are looked at: single ones, and everything that could be a rule file below some folders."""

    def __init__(self, files: Iterable[Path], folders: Iterable[Path]) -> None:
        self._files = tuple(files)
        self._folders = tuple(folders)

    def fingerprint(self) -> Print:
        """By file, what changes when it does: inode, size and time. A missing one has none."""
        return {str(file): look for file in self._all() if (look := _look(file)) is not None}

    def places(self) -> tuple[str, ...]:
        """The folders in which something can change, those that exist; a name can be a link, or be replaced."""
        found: dict[str, None] = {}
        for file in self._files:
            for place in (file.absolute().parent, file.resolve().parent):
                found[str(place)] = None
        for folder in self._folders:
            found[str(folder.absolute().parent)] = None
            found.update(dict.fromkeys(place for place, _, _ in os.walk(folder.resolve())))
        return tuple(place for place in list(found)[:_FOLDERS_MAX] if os.path.isdir(place))

    def _all(self) -> Iterable[str | Path]:
        yield from self._files
        for folder in self._folders:
            # Not pathlib, which asks the system ten times for each file: this runs as long as the gateway does, beside
            # its streams.
            inside = (os.path.join(place, name) for place, _, names in os.walk(folder) for name in names)
            found = sorted(path for path in inside if _RULE_FILE.search(path) is not None)
            yield from found[:_FILES_MAX]


def _look(file: str | Path) -> Look | None:
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


def watched_files(file: Path | None, each: Iterable[Settings], rules: RuleSet) -> Watched:
    """What is read again where it changes. file: of the settings; each: settings that name further ones; rules: those
    in force, whose packs can extend others.
    """
    settings = [*each]
    models = [model for one in settings for model in one.models.values()]
    templates = {model.chat_template_file for model in models if model.chat_template_file}
    keys = {worker.key_file for one in settings for worker in one.backends if worker.key_file}
    folders = {str(found_pack(Path(folder))) for one in settings for folder in one.rules}
    if folders:  # the packs that come with the program change with the program
        folders |= {str(pack.base) for pack in rules.sources if pack.base is not None}
    own = [file] if file is not None else []
    return Watched([*own, *map(Path, sorted(templates | keys))], map(Path, sorted(folders)))


class FileWatch:
    """Awaits `changed` after each change of the files that `watched` says then.

    Never for files that are as they were when they were last read (`reading`), and not before they have stayed as they
    are for a moment. Notices a change at once where the system tells of it, else within two seconds.
    """

    def __init__(self, watched: Callable[[], Watched], changed: Callable[[], Awaitable[object]]) -> None:
        self._watched, self._changed = watched, changed
        self._known = watched().fingerprint()
        self._working: asyncio.Task[None] | None = None

    def want(self, *, wanted: bool) -> None:
        """Watch from now on, or not any more."""
        if wanted and self._working is None:
            self._working = asyncio.create_task(self.run(), name="watch files")
        elif not wanted and self._working is not None:
            self._working.cancel()
            self._working = None

    async def stop(self) -> None:
        """Watch no more, and wait until that has ended."""
        await end_tasks([self._working] if self._working is not None else [])

    def reading(self) -> None:
        """The files are about to be read, so that their state until now is known."""
        self._known = self._watched().fingerprint()

    def read(self, watched: Watched) -> None:
        """They were read, and these are watched from now on; those that were not before are known as they are now."""
        self._known = {name: self._known.get(name, look) for name, look in watched.fingerprint().items()}

    async def run(self) -> None:
        """Work until cancelled."""
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it would tell of each editor's temporary file
        while True:
            try:
                await self._follow(await self._places())
            except (OSError, RuntimeError) as error:  # noqa: PERF203  once in two seconds at most
                # Too many watches on this machine, or a folder that vanished in this moment.
                log.warning("the files of the settings cannot be watched, looking at them now and then: %s", error)
                await asyncio.sleep(_LOOK_MS / 1000)
                await self._compare()

    async def _follow(self, places: tuple[str, ...]) -> None:
        """Until there are other folders to look at."""
        news, stop = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()
        telling = in_thread(lambda: _tell(places, loop, news, stop), "watch files")
        telling.add_done_callback(lambda _: news.set())
        try:
            await self._compare()  # what changed before it was watched
            while True:
                await news.wait()
                if telling.done():
                    return telling.result()
                news.clear()
                await self._compare()
                if await self._places() != places:
                    return None
        finally:
            stop.set()
            await asyncio.wait([telling], timeout=_STOP_SECONDS)

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
        return await in_thread(lambda: self._watched().fingerprint(), "look at files")

    async def _places(self) -> tuple[str, ...]:
        return await in_thread(lambda: self._watched().places(), "look at folders")


def _tell(places: tuple[str, ...], loop: asyncio.AbstractEventLoop, news: asyncio.Event, stop: threading.Event) -> None:
    """Set `news` whenever something changes in these folders, and every two seconds, until `stop`."""
    from watchfiles import watch  # late: it loads a second event loop's library, and nobody waits for it here

    looks = watch(
        *places,
        watch_filter=None,
        debounce=_DEBOUNCE_MS,
        rust_timeout=_LOOK_MS,
        yield_on_timeout=True,
        recursive=False,
        raise_interrupt=False,
        ignore_permission_denied=True,
        stop_event=stop,
    )
    for _ in looks:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(news.set)
