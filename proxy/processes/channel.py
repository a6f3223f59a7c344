"""One end of a connection between two processes of a gateway, on an event loop."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Final, cast

import orjson

from proxy.limits import CHANNEL_FRAME_MAX_BYTES, CHANNEL_WAITING_BYTES, END_SECONDS
from proxy.types import Json

log = logging.getLogger(__name__)

_HEAD: Final = struct.Struct(">I")

_INT_BITS: Final = 63
_FLOAT_BITS: Final = 1_024

Message = list[Json]


class Channel(asyncio.Protocol):
    """Messages both ways, in order. A frame is a length (4 bytes, big-endian) and a JSON array of messages: all that
    were sent in one turn of the event loop.

    received: called with each message; lost: once, when the connection has ended, whoever ended it. What does not
    follow the rules, and a peer that takes nothing, ends it.
    """

    def __init__(self, received: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._received, self._lost = received, lost
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._rest, self._needed = bytearray(), 0
        self._out: list[Message] = []
        self._ended: asyncio.Future[None] = self._loop.create_future()

    def send(self, *message: Json) -> None:
        """Say something; it is written at the end of this turn."""
        self._out.append([*message])
        if len(self._out) == 1:
            self._loop.call_soon(self.flush)

    @property
    def waiting(self) -> int:
        """Bytes that the other side has not read."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def flush(self) -> None:
        """Write what was said until now."""
        transport, messages = self._transport, self._out
        if transport is None or not messages:
            return
        self._out = []
        if transport.is_closing():
            return
        transport.write(frame(messages))
        if transport.get_write_buffer_size() > CHANNEL_WAITING_BYTES:
            log.error("a process of this gateway does not read what it is told; its connection is ended")
            transport.abort()

    def close(self) -> None:
        """Write the rest and end it."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    async def finish(self) -> None:
        """End it, and wait until the rest is written, for `END_SECONDS` at most: a process that ends takes with it what
        is not.
        """
        self.close()
        if self._transport is not None:
            await asyncio.wait({self._ended}, timeout=END_SECONDS)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, as the rest."""
        self._transport = cast("asyncio.Transport", transport)
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Perhaps a part of a frame, perhaps several."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data = bytes(self._rest)
        try:
            messages, rest = frames(data)
            self._rest, self._needed = bytearray(rest), needed(rest)
            for message in messages:
                self._received(message)
        except Exception:
            log.exception("a message between the processes of this gateway could not be handled")
            if self._transport is not None:
                self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits for an answer learns that there will be none."""
        self._out = []
        if not self._ended.done():
            self._ended.set_result(None)
        self._lost()


def frame(messages: list[Message]) -> bytes:
    """The bytes of some messages.

    What JSON cannot say comes as what is nearest to it: bytes of a caller that are no text, and numbers of more than 64
    bits.
    """
    try:
        body = orjson.dumps(messages)
    except orjson.JSONEncodeError:
        body = orjson.dumps([_plain(message) for message in messages])
    return _HEAD.pack(len(body)) + body


def frames(data: bytes) -> tuple[list[Message], bytes]:
    """The messages of all frames that are complete, and the bytes of the last one that is not.

    ValueError for what is none, and for a frame that is larger than any may be.
    """
    found: list[Message] = []
    at, end = 0, len(data)
    while end - at >= _HEAD.size:
        (size,) = _HEAD.unpack_from(data, at)
        if size > CHANNEL_FRAME_MAX_BYTES:
            raise ValueError(f"a frame of {size} bytes between processes, at most {CHANNEL_FRAME_MAX_BYTES} are taken")
        if end - at - _HEAD.size < size:
            break
        begin = at + _HEAD.size
        found += cast("list[Message]", orjson.loads(memoryview(data)[begin : begin + size]))
        at = begin + size
    return found, data[at:] if at else data


def needed(rest: bytes) -> int:
    """How many bytes the frame has whose beginning this is."""
    return _HEAD.size + (_HEAD.unpack_from(rest)[0] if len(rest) >= _HEAD.size else 0)


def _plain(value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and value.bit_length() > _INT_BITS:
        return float(value) if value.bit_length() < _FLOAT_BITS else None
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(_plain(name)): _plain(each) for name, each in value.items()}
    return value
