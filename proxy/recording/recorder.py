"""Recordings are switched on by an operator, bounded in time, requests and bytes, and written by a thread."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

import orjson

from proxy.limits import (
    RECORDED_REQUEST_MAX_BYTES,
    RECORDING_MAX_BYTES,
    RECORDING_REQUESTS_MAX,
    RECORDING_SECONDS_MAX,
    RECORDING_UNDER_WAY_BYTES,
    RECORDING_WAITING_BYTES,
)
from proxy.recording.lines import VERSION
from proxy.recording.redaction import Blackout
from proxy.recording.tape import Held, Tape
from proxy.threads import in_thread
from proxy.types import Json, JsonObject

log = logging.getLogger(__name__)

# What is recorded where the operator does not say how much.
_SECONDS: Final = 60.0
_REQUESTS: Final = 200
# How long whoever ends one waits for the disk.
_END_SECONDS: Final = 5.0
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\.jsonl")


class RecordingRefused(Exception):
    """Nothing is recorded; one sentence says why. mistake: what was asked for was wrong, whatever the time."""

    def __init__(self, message: str, *, mistake: bool = False) -> None:
        super().__init__(message)
        self.mistake = mistake


class Wanted(NamedTuple):
    """What an operator asked for. file: a name without a folder, None: made of the time; redact: replace every text."""

    seconds: float
    requests: int
    file: str | None
    redact: bool


def wanted(document: Json) -> Wanted:
    """What a question says that is read as JSON. RecordingRefused with one sentence for a mistake in it."""
    if not isinstance(document, dict):
        raise RecordingRefused("expected a JSON object, perhaps an empty one", mistake=True)
    unknown = sorted(document.keys() - set(Wanted._fields))
    if unknown:
        known = ", ".join(Wanted._fields)
        raise RecordingRefused(f"{unknown[0][:40]}: unknown; expected some of {known}", mistake=True)
    seconds, requests = document.get("seconds", _SECONDS), document.get("requests", _REQUESTS)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= RECORDING_SECONDS_MAX:
        raise RecordingRefused(f"seconds: expected a number above 0, at most {RECORDING_SECONDS_MAX:g}", mistake=True)
    if isinstance(requests, bool) or not isinstance(requests, int) or not 0 < requests <= RECORDING_REQUESTS_MAX:
        raise RecordingRefused(f"requests: expected a number from 1 to {RECORDING_REQUESTS_MAX}", mistake=True)
    file, redact = document.get("file"), document.get("redact", False)
    if file is not None and (not isinstance(file, str) or not _FILE_NAME.fullmatch(file)):
        raise RecordingRefused("file: expected a name that ends with .jsonl, without a folder", mistake=True)
    if not isinstance(redact, bool):
        raise RecordingRefused("redact: expected true or false", mistake=True)
    return Wanted(float(seconds), requests, file, redact)


class Recording:
    """One recording while it is made. `begin` and `keep` are for the event loop's thread.

    began: in seconds since the epoch; headers: those whose values are kept; on_stop: called when it is stopped, and
    calls `finish` once the rest has come, None: there is none. why: what ended it, "" while it goes on.
    """

    def __init__(
        self,
        file: Path,
        began: float,
        asked: Wanted,
        headers: Collection[str],
        blackout: Blackout | None,
        on_stop: Callable[[], None] | None = None,
    ) -> None:
        self.file, self.began, self.asked, self.headers = file, began, asked, headers
        self.why = ""
        self._blackout, self._on_stop = blackout, on_stop
        self._lines: queue.SimpleQueue[Tape | bytes | None] = queue.SimpleQueue()
        self._others_kept = self._others_left_out = 0
        self._held = Held(RECORDING_UNDER_WAY_BYTES)
        self._begun = 0
        self._kept = 0
        self._dropped = 0
        self._queued = 0
        # These are the writing thread's.
        self._taken = 0
        self._size = 0
        self._unwritten = 0

    def begin(self, method: str, path: str, scope: JsonObject, size: int, route: str) -> Tape | None:
        """Of the request that begins now, to be kept when it is over; None where it is not recorded any more. size:
        bytes of its body.
        """
        if self.why or self._begun - self._dropped >= self.asked.requests:
            return None
        self._begun += 1
        return Tape(utc(time.time()), method, path, scope, size, route, self.headers, self._held)

    def keep(self, record: Tape) -> None:
        """A request is over. One that is too large, or that the disk is too slow for, is left out."""
        record.let_go()
        if self.why:
            return
        size = record.size
        too_large = record.lost or size > RECORDED_REQUEST_MAX_BYTES
        if too_large or self._queued - self._taken + size > RECORDING_WAITING_BYTES:
            self._dropped += 1
            return
        self._queued += size
        self._kept += 1
        self._lines.put(record)
        self._stop_when_full()

    def take(self, line: bytes) -> None:
        """A request that another process recorded is over, as the line that is to be written."""
        is_full = self._kept + self._others_kept >= self.asked.requests
        if is_full or self._queued - self._taken + len(line) > RECORDING_WAITING_BYTES:
            self._others_left_out += 1
            return
        self._queued += len(line)
        self._others_kept += 1
        self._lines.put(line)
        self._stop_when_full()

    def stop(self, why: str) -> None:
        """Nothing more is kept; requests under way are left out."""
        if not self.why:
            self.why = why
            self._held.most = 0
            if self._on_stop is not None:
                self._on_stop()
            else:
                self.finish()

    def finish(self, left_out: int = 0) -> None:
        """It was stopped, and nothing comes any more. left_out: by other processes."""
        self._others_left_out += left_out
        self._lines.put(None)

    @property
    def left_out(self) -> int:
        """Requests that were not kept, as far as is known."""
        own = self._begun - self._kept if self.why else self._dropped
        return self._unwritten + self._others_left_out + own

    def _stop_when_full(self) -> None:
        if self._size >= RECORDING_MAX_BYTES:
            self.stop(f"it has {RECORDING_MAX_BYTES} bytes, as many as a recording may have")
        elif self._kept + self._others_kept >= self.asked.requests:
            self.stop("it has as many requests as were wanted")

    def document(self) -> JsonObject:
        """For people and programs."""
        return {
            "file": str(self.file),
            "began": utc(self.began),
            "seconds": self.asked.seconds,
            "requests": self.asked.requests,
            "kept": self._kept + self._others_kept - self._unwritten,
            "left_out": self.left_out,
            "bytes": self._size,
            "redacted": self.asked.redact,
            "ended": self.why or None,
        }

    def write(self, stream: BinaryIO, head: JsonObject) -> None:
        """Write until it is stopped, in a thread of its own. OSError where that fails."""
        with stream:
            self._write(stream, head)
            for line in self.lines():
                self._written(stream, line)
            told = self.document()
            end: JsonObject = {"ended": utc(time.time()), "why": self.why}
            self._write(stream, {**end, "requests": told["kept"], "left_out": told["left_out"]})

    def lines(self) -> Iterator[bytes]:
        """Each request as it is written, until it is stopped; for the thread that writes."""
        while (record := self._lines.get()) is not None:
            self._taken += len(record) if isinstance(record, bytes) else record.size
            if isinstance(record, bytes):
                yield record
                continue
            try:
                line = _line(record.line(self._blackout))
            except (orjson.JSONEncodeError, RecursionError):  # nested so deep that it can be read and not written
                self._unwritten += 1
                continue
            yield line

    def _write(self, stream: BinaryIO, document: JsonObject) -> None:
        self._written(stream, _line(document))

    def _written(self, stream: BinaryIO, line: bytes) -> None:
        stream.write(line)
        self._size += len(line)


def _line(document: JsonObject) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


class Elsewhere(Protocol):
    """Other processes that record what they serve, for the same file."""

    async def begin(self, recording: Recording, words: Collection[str]) -> None:
        """Have them record from now on, and give what they have to `recording.take`."""

    async def end(self) -> int:
        """Have them end, once everything was given; how many requests they left out."""


class Recorder:
    """Makes recordings, one at a time, as files in a folder. All methods are for the event loop's thread.

    folder: None where the operator wants none; words: texts that a blackout leaves as they are; headers: those whose
    values are kept; version: of the gateway; elsewhere: where further requests are served. now: the recording that
    is under way.
    """

    def __init__(
        self,
        folder: Callable[[], Path | None],
        words: Callable[[], Collection[str]],
        headers: Callable[[], Collection[str]],
        version: str,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._folder, self._words, self._headers, self._version = folder, words, headers, version
        self._elsewhere = elsewhere
        self._ending: asyncio.Task[None] | None = None
        self.now: Recording | None = None
        self._opening = False
        self._writing: asyncio.Future[None] | None = None
        self._last: JsonObject | None = None

    async def begin(self, asked: Wanted) -> JsonObject:
        """Record from now on. RecordingRefused where that cannot be done."""
        folder = self._folder()
        if folder is None:
            raise RecordingRefused("no recordings are made here: 'recordings' in the settings names no folder for them")
        if self._opening or self._writing is not None:
            raise RecordingRefused("a recording is being made; DELETE /record ends it")
        began, redact = time.time(), asked.redact
        path = folder / (asked.file or time.strftime("recording-%Y%m%dT%H%M%SZ.jsonl", time.gmtime(began)))
        words = sorted(self._words()) if redact else []
        blackout = Blackout(words) if redact else None
        on_stop = None if self._elsewhere is None else self._end_elsewhere
        recording = Recording(path, began, asked, self._headers(), blackout, on_stop)
        head: JsonObject = {"recording": VERSION, "gateway": self._version, "began": utc(began)}
        head.update({"redacted": redact, "words": [*words]})
        self._opening = True
        try:
            stream = await in_thread(lambda: _opened(path), "open recording")
        except OSError as error:
            raise RecordingRefused(f"{path}: {error.strerror}") from None
        finally:
            self._opening = False
        self._writing = in_thread(lambda: recording.write(stream, head), "write recording")
        self._writing.add_done_callback(lambda _: self._over(recording))
        asyncio.get_running_loop().call_later(asked.seconds, recording.stop, "its time is over")
        self.now = recording
        if self._elsewhere is not None:
            await self._elsewhere.begin(recording, words)
        return recording.document()

    async def end(self, why: str) -> JsonObject | None:
        """End the recording under way and wait until it is written; None where there is none."""
        writing = self._writing
        if self.now is None or writing is None:
            return None
        self.now.stop(why)
        recording = self.now
        await asyncio.wait([writing], timeout=_END_SECONDS)
        return recording.document()

    def state(self) -> JsonObject:
        """The recording under way, and the last one that ended."""
        return {"now": None if self.now is None else self.now.document(), "last": self._last}

    def _end_elsewhere(self) -> None:
        self._ending = asyncio.create_task(self._ended_elsewhere(), name="end recording")

    async def _ended_elsewhere(self) -> None:
        recording, left_out = self.now, 0
        try:
            if self._elsewhere is not None:
                left_out = await self._elsewhere.end()
        finally:
            if recording is not None:
                recording.finish(left_out)

    def _over(self, recording: Recording) -> None:
        writing, self._writing, self.now = self._writing, None, None
        problem = writing.exception() if writing is not None and not writing.cancelled() else None
        recording.stop(f"it could not be written: {problem}")
        self._last = recording.document()
        level = logging.INFO if problem is None else logging.ERROR
        log.log(level, "recording %s: %s", recording.file.name, recording.why)


def _opened(path: Path) -> BinaryIO:
    """A new file that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def utc(seconds: float) -> str:
    """A moment, in seconds since the epoch, as ISO 8601 with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"
