"""A frame with the whole text so far, rewritten without reading again what was read before.

A cumulative stream is quadratic in bytes: its two thousandth frame has two thousand words, of which one is new. When a
frame begins with the very bytes of the one before up to the end of its text, only what stands behind them is JSON to be
read, and the client's text is the bytes that were written for it before and those of the new words. What comes out is
what the quick way (`quick`) gives, which is taken for every frame that is not of this kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from proxy.framing import FramingError
from proxy.translate.mapping import OMIT, RULE_FAILURES, ChunkRead, Fields, Omit, OmitNull, RootRead, Scope, Value
from proxy.translate.text import HALF_CHARACTER
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from proxy.translate.plan import StreamSource, StreamTarget
    from proxy.translate.stream import StreamTranslator

# A shorter frame is read and written as fast; the time for these is the same at any length.
SPLICE_FROM: Final = 4_000

_BACKSLASH: Final = ord("\\")
_UNUSUAL: Final = (orjson.JSONDecodeError, orjson.JSONEncodeError, FramingError, *RULE_FAILURES)


class Spliced:
    """Where one stream stands. came: the worker's last frame, `end` bytes of which go up to the end of its text; told:
    the JSON of the text that the client was shown, without quotes.
    """

    __slots__ = ("came", "end", "told")

    def __init__(self, came: bytes, end: int, told: bytearray) -> None:
        self.came, self.end, self.told = came, end, told


class Splice:
    """The way for streams of one kind. finish_key: what a frame has that ends the answer; apart: the client's mapping
    sees another scope than the reading of the worker's frames.
    """

    __slots__ = (
        "_apart",
        "_around",
        "_chunk",
        "_code",
        "_cumulative",
        "_fields",
        "_heads",
        "_hold_back",
        "_key",
        "_logprobs",
        "_refusing",
        "_usage",
        "passes_on",
    )

    def __init__(
        self, source: StreamSource, target: StreamTarget, text_key: str, finish_key: str | None, *, apart: bool
    ) -> None:
        self._key = text_key
        quoted = orjson.dumps(text_key)
        self._heads = tuple(b"{" + quoted + colon for colon in (b': "', b':"'))  # as Python and as others write it
        self._code = source.error_code.key if isinstance(source.error_code, ChunkRead) else None
        thought = source.reasoning.key if isinstance(source.reasoning, ChunkRead) else None
        self._refusing = tuple(key for key in (finish_key, thought) if key is not None)
        self._usage, self._logprobs = source.usage, source.logprobs
        self._hold_back = target.hold_back
        self._cumulative = target.mode == "cumulative"
        self._around = target.framing.around or (b"", b"")
        self._chunk = never_null(target.usual or target.chunk)
        self._fields = self._chunk if isinstance(self._chunk, Fields) else None
        self._apart = apart
        self.passes_on = is_frame(self._chunk)

    def begin(self, translator: StreamTranslator, frame: bytes) -> Spliced | None:
        """From here on, where `frame` was the last one and went the quick way; None where it is no beginning."""
        flow = translator.reader.flow
        shown = flow._shown
        if not frame.startswith(self._heads) or not flow._longest.startswith(shown) or not shown:
            return None
        if translator._sent_length != len(shown):
            return None
        end = _end_of_string(frame, frame.index(b'"', len(self._heads[1]) - 1) + 1)
        if end < 0:
            return None
        return Spliced(frame, end, bytearray(orjson.dumps(shown)[1:-1] if self._cumulative else b""))

    def follow(self, translator: StreamTranslator, frame: bytes, spliced: Spliced) -> bytes | None:
        """The client's frame; None where this one does not go on from the one before, and nothing has changed."""
        start = spliced.end
        if not frame.startswith(memoryview(spliced.came)[:start]):
            return None
        end = _end_of_string(frame, start)
        if frame[end + 1 : end + 2] != b",":  # also where there is no end
            return None
        try:
            new = orjson.loads(b'"%b"' % frame[start:end])
            rest = orjson.loads(b"{%b" % frame[end + 2 :])
        except orjson.JSONDecodeError:
            return None
        if not self._is_usual(new, rest):
            return None
        data = self._taken(translator, new, rest, spliced)
        if data is not None:
            spliced.came, spliced.end = frame, end
        return data

    def _is_usual(self, new: str, rest: JsonObject) -> bool:
        if self._key in rest or new.endswith(HALF_CHARACTER):
            return False
        if self._code is not None and (code := rest.get(self._code)) is not None and code != 0:
            return False
        return all(rest.get(key) is None for key in self._refusing)

    def _taken(self, translator: StreamTranslator, new: str, rest: JsonObject, spliced: Spliced) -> bytes | None:
        """Where nobody else holds a text while it grows, Python need not copy all of it."""
        reader = translator.reader
        flow, scope = reader.flow, reader.scope
        seen = translator.scope if self._apart else scope
        scope["chunk"] = seen["text"] = reader.last_text = None
        text, flow._longest = flow._longest, ""
        shown, flow._shown = flow._shown, ""
        came, told = len(text), len(shown)
        text += new
        more = text[told : max(len(text) - self._hold_back, told)]
        shown += more
        scope["chunk"] = {self._key: text, **rest}
        usage, logprobs = reader.usage, reader.logprobs
        try:
            if self._usage is not None and (now := self._usage(scope)) is not None and now is not OMIT:
                usage = now
            if self._logprobs is not None:
                logprobs = found if (found := self._logprobs(scope)) is not None else logprobs
                seen["logprobs"] = logprobs
            seen["new_text"], seen["text"] = more, shown if self._cumulative else more
            seen["finish"], seen["usage"] = None, usage
            written = orjson.dumps(more) if self._cumulative else b""
            data = self._mapped(seen, rest, written, spliced.told)
        except _UNUSUAL:
            flow._longest = reader.last_text = text[:came]
            flow._shown = shown[:told]
            return None
        flow._longest = reader.last_text = text
        flow._shown = shown
        spliced.told += memoryview(written)[1:-1]
        reader.frames += 1
        reader._whole = None
        reader.usage, reader.logprobs = usage, logprobs
        translator._sent_length = len(shown)
        if data:
            translator.sent_frames += 1
        return data

    def _mapped(self, seen: Scope, rest: JsonObject, written: bytes, told: bytearray) -> bytes:
        """The client's frame. written: the new text as JSON, where the client gets all of it; told: what stands before
        it.
        """
        before, after = self._around
        if self._fields is None:
            made = self._chunk(seen)
            return b"" if made is OMIT else b"%b%b%b" % (before, orjson.dumps(made), after)
        mapped: dict[str, Json] = self._fields.constants.copy()
        front: list[bytes | bytearray | memoryview] = []
        for name, root, value, omits_null in self._fields.others:
            item: Json | Omit
            if value is None and root == "text" and self._cumulative and not front:
                front = [orjson.dumps(mapped)[:-1], b"," if mapped else b"", orjson.dumps(name), b':"']
                mapped = {}
                continue
            if value is None:
                item = seen.get(root)
            elif isinstance(value, ChunkRead) and value.key != self._key:
                item = rest.get(value.key)
            else:
                item = value(seen)
            if item is not OMIT and (item is not None or not omits_null):
                mapped[name] = item
        if not front:
            return b"%b%b%b" % (before, orjson.dumps(mapped), after)
        tail = b"," + orjson.dumps(mapped)[1:] if mapped else b"}"
        return b"".join((before, *front, told, memoryview(written)[1:-1], b'"', tail, after))


def splice_of(source: StreamSource, target: StreamTarget, finish_key: str | None, *, apart: bool) -> Splice | None:
    """The way for streams that have a quick one. None where the worker does not send the whole text each time, and
    where its frames go on as they came.
    """
    if source.mode != "cumulative" or not isinstance(source.text, ChunkRead):
        return None
    splice = Splice(source, target, source.text.key, finish_key, apart=apart)
    return None if splice.passes_on else splice


def is_frame(chunk: Value) -> bool:
    """Whether this mapping gives the worker's frame as it came."""
    return isinstance(chunk, RootRead) and chunk.name == "chunk"


def never_null(chunk: Value) -> Value:
    """The same mapping without asking for a null that cannot be: an object is none, and neither is a frame."""
    if isinstance(chunk, OmitNull) and (isinstance(chunk.inner, Fields) or is_frame(chunk.inner)):
        return chunk.inner
    return chunk


def _end_of_string(data: bytes, start: int) -> int:
    """Where the string ends that `start` is in, at its quote; -1 where it does not."""
    while True:
        end = data.find(b'"', start)
        if end < 0:
            return -1
        first = end
        while first > start and data[first - 1] == _BACKSLASH:
            first -= 1
        if (end - first) % 2 == 0:
            return end
        start = end + 1
