"""The supervisor's end of its line to another process. Without an event loop: the supervisor has none."""

from __future__ import annotations

import socket

from proxy.limits import CHANNEL_WAITING_BYTES
from proxy.processes.channel import Message, frame, frames, needed
from proxy.types import Json

_READ = 256 * 1024


class Line:
    """Messages both ways, never waiting for the other side. `is_open` is false once it is gone, or reads nothing."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(0.0)
        self._end = end
        self._in, self._needed = bytearray(), 0
        self._out = bytearray()
        self.is_open = True

    def fileno(self) -> int:
        """To wait for it."""
        return self._end.fileno()

    @property
    def has_more(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._out)

    def send(self, *message: Json) -> None:
        """Say something, as far as that goes now; `write` goes on."""
        self._out += frame([[*message]])
        self.write()

    def write(self) -> None:
        """Go on."""
        try:
            while self._out and self.is_open:
                del self._out[: self._end.send(self._out)]
        except BlockingIOError:
            if len(self._out) > CHANNEL_WAITING_BYTES:
                self.close()
        except OSError:
            self.close()

    def read(self) -> list[Message]:
        """What has come. ValueError for what follows no rules."""
        try:
            while self.is_open:
                data = self._end.recv(_READ)
                if not data:
                    self.close()
                self._in += data
        except BlockingIOError:
            pass
        except OSError:
            self.close()
        if len(self._in) < self._needed:
            return []
        messages, rest = frames(bytes(self._in))
        self._in, self._needed = bytearray(rest), needed(rest)
        return messages

    def close(self) -> None:
        """The other side learns of it."""
        self.is_open = False
        self._out.clear()
        self._end.close()
