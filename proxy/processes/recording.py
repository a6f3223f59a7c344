"""A recording of what all processes serve: each notes its own requests, control writes the one file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, cast

from proxy.processes.channel import Channel
from proxy.processes.hub import Hub
from proxy.recording.recorder import Recording, Wanted
from proxy.recording.redaction import Blackout
from proxy.threads import in_thread
from proxy.types import Json

log = logging.getLogger(__name__)

# Bytes of lines that may wait on a channel, on which requests are waiting for workers too.
_WAITING_BYTES: Final = 4 * 1024 * 1024
_LOOK_SECONDS: Final = 0.02
# How long the others' last lines are waited for.
_END_SECONDS: Final = 5.0


class OtherRecordings:
    """Control's side. Implements `proxy.recording.recorder.Elsewhere`."""

    def __init__(self, hub: Callable[[], Hub]) -> None:
        self._the_hub = hub

    @property
    def _hub(self) -> Hub:
        return self._the_hub()

    async def begin(self, recording: Recording, words: Collection[str]) -> None:
        """All record from now on, and whoever joins them."""
        asked = recording.asked
        headers: list[Json] = [*recording.headers]
        told: list[Json] = [str(recording.file), recording.began, asked.seconds, asked.requests, asked.redact]
        self._hub.recording, self._hub.on_line = [told, headers, [*words]], recording.take
        await self._hub.ask("record", *self._hub.recording)

    async def end(self) -> int:
        """None does any more, and everything that was kept has come; how many requests were left out."""
        self._hub.recording = []
        answers = await self._hub.ask("end_record", seconds=_END_SECONDS)
        return sum(count for count in answers.values() if isinstance(count, int))


class RemoteRecorder:
    """A serving process's side. now: the recording under way."""

    def __init__(self, channel: Callable[[], Channel | None]) -> None:
        self._channel = channel
        self.now: Recording | None = None
        self._sending: asyncio.Future[None] | None = None

    def begin(self, told: list[Json], headers: list[Json], words: list[Json]) -> None:
        """Record from now on."""
        self.stop()
        file, began, seconds, requests, redact = cast("tuple[str, float, float, int, bool]", tuple(told))
        blackout = Blackout(cast("list[str]", words)) if redact else None
        asked = Wanted(seconds, requests, None, redact)
        recording = self.now = Recording(Path(file), began, asked, cast("list[str]", headers), blackout)
        loop = asyncio.get_running_loop()

        def send_all() -> None:
            for line in recording.lines():
                asyncio.run_coroutine_threadsafe(self._send(line.decode()), loop).result()

        self._sending = in_thread(send_all, "send recording")
        self._sending.add_done_callback(_log_loss)

    async def end(self) -> int:
        """Record no more; once all lines are sent, how many requests were left out."""
        recording, sending = self.now, self._sending
        self.stop()
        if recording is None or sending is None:
            return 0
        await asyncio.wait([sending], timeout=_END_SECONDS)
        return recording.left_out

    def stop(self) -> None:
        """Record no more."""
        if self.now is not None:
            self.now.stop("it was ended elsewhere")
            self.now = None

    async def _send(self, line: str) -> None:
        while (channel := self._channel()) is not None:
            if channel.waiting <= _WAITING_BYTES:
                channel.send("line", line)
                channel.flush()
                return
            await asyncio.sleep(_LOOK_SECONDS)
        raise ConnectionError("the process that writes it is gone")


def _log_loss(sending: asyncio.Future[None]) -> None:
    if not sending.cancelled() and (error := sending.exception()) is not None:
        log.warning("a part of a recording is lost: %s", error)
