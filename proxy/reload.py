"""Settings and rules: read and checked as one thing, and put in force again when somebody asks for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from proxy.backends.control import EventHook
from proxy.backends.fixed import keep_fixed_parts, needs_restart
from proxy.backends.functions import rule_functions
from proxy.backends.overrides import ModelOverrides
from proxy.backends.sources import check
from proxy.documents import DocumentError
from proxy.ruleset import RuleSet, load_rules, run_tests, shipped_rules
from proxy.ruleset.tested import were_tested
from proxy.settings import Settings
from proxy.source import Source
from proxy.threads import in_thread
from proxy.tuning import Tuning, tune
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

# A file of the wrong kind can have thousands.
MISTAKES_MAX: Final = 200
# What is bound, opened or started once. Further ones are those of `keep_fixed_parts`.
FIXED: Final = ("workers", "listen", "admin", "model_ports", "demo")


class StartError(Exception):
    """The gateway cannot start; the message is for the operator, a line for each mistake."""


class Loaded(NamedTuple):
    """Settings and rules that fit together, and what was made of them; models: what the settings say of each."""

    settings: Settings
    rules: RuleSet
    tuning: Tuning
    models: ModelOverrides


class ReloadResult(NamedTuple):
    """How one reload ended. at: seconds since the epoch; why: who asked; restart: a sentence for each setting that only
    a restart can change; dropped: it came to nothing, because the gateway stops.
    """

    at: float
    why: str
    mistakes: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    dropped: bool = False

    @property
    def ok(self) -> bool:
        """Whether the new settings and rules are in force."""
        return not self.mistakes and not self.dropped

    def document(self) -> JsonObject:
        """For people and programs."""
        mistakes: list[Json] = [*self.mistakes]
        restart: list[Json] = [*self.restart]
        return {
            "at": utc(self.at),
            "asked_by": self.why,
            "result": "dropped" if self.dropped else "ok" if self.ok else "refused",
            "mistakes": mistakes,
            "needs_restart": restart,
        }


def utc(seconds: float) -> str:
    """A moment, in seconds since the epoch, as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def read_rules(paths: Sequence[str]) -> RuleSet:
    """The rule set to serve. DocumentError with every mistake; StartError when a rule file's own tests fail.

    Rules that come with the program, and are as they were when they were released, are not tested again.
    """
    folders = [Path(path) for path in paths] or [shipped_rules()]
    if were_tested(folders):
        return load_rules(folders, rule_functions(), with_tests=False)
    rules = load_rules(folders, rule_functions())
    if failed := [line for outcome in run_tests(rules.tests) for line in outcome.told]:
        raise StartError("\n".join(failed))
    return rules


def read(source: Source) -> Loaded:
    """Everything anew. DocumentError, StartError or ValueError with every mistake of the first part that has any.

    Takes up to a second of CPU: not for the event loop's thread.
    """
    settings = source.settings()
    return loaded(settings, read_rules(settings.rules))


def loaded(settings: Settings, rules: RuleSet) -> Loaded:
    """What follows from settings and rules. ValueError with one sentence for a setting that cannot be used."""
    check(settings, rules.backends)
    return Loaded(settings, rules, tune(settings), ModelOverrides(settings.models, settings.defaults))


class Others(Protocol):
    """Further processes in which the same has to be in force."""

    async def agree(self) -> tuple[str, ...]:
        """What was just read is asked of them; why it cannot be put in force, nothing where it can."""

    async def follow(self) -> None:
        """It is in force here; wait until it is there."""


class Reloader:
    """Reloads one at a time. However many ask while one is under way, one more follows and answers them all.

    read: as the function of that name, called in another thread; apply: puts the result in force in one step and says
    what needs a restart; on_event: "reload" (result: ok or refused); others: that have to do the same.
    """

    def __init__(
        self,
        read: Callable[[], Loaded],
        apply: Callable[[Loaded], tuple[str, ...]],
        on_event: EventHook,
        others: Others | None = None,
    ) -> None:
        self._read, self._apply, self._on_event, self._others = read, apply, on_event, others
        self._running: asyncio.Task[ReloadResult] | None = None
        self._next: asyncio.Task[ReloadResult] | None = None
        self._reading: asyncio.Future[Loaded] | None = None
        self._closed = False
        self.last: ReloadResult | None = None

    async def reload(self, why: str) -> ReloadResult:
        """Read everything and put it in force; what is refused leaves everything as it is."""
        return await asyncio.shield(self.soon(why))

    def soon(self, why: str) -> asyncio.Task[ReloadResult]:
        """The reload that begins after now."""
        if self._next is None:
            self._next = asyncio.create_task(self._after(self._running, why), name="reload")
        return self._next

    async def close(self) -> None:
        """Nothing is put in force any more, and what is being read is not waited for."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        tasks = [task for task in (self._running, self._next) if task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def _after(self, before: asyncio.Task[ReloadResult] | None, why: str) -> ReloadResult:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        result = await self._once(why)
        self.last = result
        if result.dropped:
            log.info("reload: dropped, because the gateway is stopping (asked by: %s)", why)
            return result
        self._on_event("reload", result="ok" if result.ok else "refused")
        for mistake in result.mistakes:
            log.error("reload refused: %s", mistake)
        for sentence in result.restart:
            log.warning("reload: %s", sentence)
        if result.ok:
            log.info("reload: new settings and rules are in force (asked by: %s)", why)
        return result

    async def _once(self, why: str) -> ReloadResult:
        now = time.time()
        dropped = ReloadResult(now, why, dropped=True)
        if self._closed:
            return dropped
        try:
            self._reading = in_thread(self._read, "reload")
            found = await self._reading
            if self._others is not None and not self._closed and (mistakes := await self._others.agree()):
                return ReloadResult(now, why, mistakes)
            if self._closed:
                return dropped
            restart = self._apply(found)
            if self._others is not None:
                await self._others.follow()
            return ReloadResult(now, why, (), restart)
        except asyncio.CancelledError:
            if self._closed:
                return dropped
            raise
        except (DocumentError, StartError, ValueError) as error:
            return ReloadResult(now, why, _first(str(error).splitlines() or [type(error).__name__]))
        except Exception as error:
            log.exception("reload: unexpected fault, the old settings and rules stay")
            return ReloadResult(now, why, (f"a fault of the gateway: {error!r}",))


def _first(mistakes: list[str]) -> tuple[str, ...]:
    more = len(mistakes) - MISTAKES_MAX
    return (*mistakes[:MISTAKES_MAX], *([f"and {more} more"] if more > 0 else []))


def keep_fixed(running: Settings, wanted: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The wanted settings as far as they can be put in force, and a sentence for each that needs a restart."""
    restart: list[str] = []
    for name in FIXED:
        now, then = getattr(running, name), getattr(wanted, name)
        if now != then:
            restart.append(needs_restart(name, now, then))
    kept = wanted.model_copy(update={name: getattr(running, name) for name in FIXED})
    kept, more = keep_fixed_parts(running, kept)
    return kept, (*restart, *more)
