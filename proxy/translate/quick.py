"""The usual frame of a stream, rewritten by code that is written for its route.

Nearly every frame is like the one before: an object with a longer text, no error, no reason to end. For those the
general way (`StreamTranslator.feed`) decides again what is known since the rule was loaded. `quick_step` writes the one
function that is left once all of that is decided. It changes nothing and answers None wherever a frame is not of that
kind, and the general way takes it; what it gives is what the general way would give, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import orjson

from proxy.expr import Writer
from proxy.framing import FramingError
from proxy.translate.mapping import OMIT, RULE_FAILURES, ChunkRead, needed_key, omits, write
from proxy.translate.splice import SPLICE_FROM, is_frame, never_null, splice_of
from proxy.translate.text import HALF_CHARACTER

if TYPE_CHECKING:
    from proxy.translate.plan import StreamSource, StreamTarget
    from proxy.translate.stream import StreamTranslator

Step = Callable[["StreamTranslator", bytes], "bytes | None"]

_UNUSUAL: Final = (orjson.JSONDecodeError, orjson.JSONEncodeError, FramingError, *RULE_FAILURES)


def quick_step(source: StreamSource, target: StreamTarget, *, apart: bool = False) -> Quick | None:
    """The function for streams of this kind; None where only the general way will do: a text, thought, error or finish
    that is not one key of the frame, or a framing that puts more than two ends around a frame.

    It is for frames before the finish, of a stream without a prefix that no other worker went on with, as long as the
    client sees the text as it is. apart: the client's mapping sees another scope than the reading of the worker's
    frames.
    """
    finish = needed_key(source.finish)
    if not isinstance(source.text, ChunkRead) or target.framing.around is None:
        return None
    if not (source.error_code is None or isinstance(source.error_code, ChunkRead)):
        return None
    if source.finish is not None and finish is None:
        return None
    if source.logprobs is not None and source.mode == "incremental":
        return None  # they are put together
    if source.finish_at_end:
        return None  # a frame without text is told at the end only
    if not (source.reasoning is None or isinstance(source.reasoning, ChunkRead)):
        return None
    return Quick(source, target, source.text.key, finish, apart=apart)


class Quick:
    """`run` is the function, written when the first stream needs it."""

    def __init__(
        self, source: StreamSource, target: StreamTarget, text_key: str, finish_key: str | None, *, apart: bool
    ) -> None:
        self._source = source
        self._target = target
        self._text_key = text_key
        self._finish_key = finish_key
        self._apart = apart
        self._run: Step | None = None

    @property
    def run(self) -> Step:
        """Takes the translator and a frame; gives what is to be written, None where the general way has to do it."""
        if self._run is None:
            self._run = self._written()
        return self._run

    def _written(self) -> Step:
        writer = Writer("translator", "frame")
        splice = splice_of(self._source, self._target, self._finish_key, apart=self._apart)
        if splice is not None:
            writer.name("follow", splice.follow)
            with writer.block("if (spliced := translator.spliced) is not None"):
                writer.line("if (data := follow(translator, frame, spliced)) is not None: return data")
                writer.line("translator.spliced = None")
        with writer.block("try"):
            self._read(writer)
            self._text(writer)
            self._map(writer)
        writer.line(f"except {writer.constant(_UNUSUAL)}: return None")
        self._keep(writer)
        if splice is not None:
            writer.name("begin", splice.begin)
            writer.name("long", SPLICE_FROM)
            writer.line("if len(frame) >= long: translator.spliced = begin(translator, frame)")
        return writer.compiled("data")

    def _read(self, writer: Writer) -> None:
        """`chunk`, `came` and what else is read of the frame."""
        source = self._source
        writer.line(f"chunk = {writer.constant(orjson.loads)}(frame)")
        writer.line("if type(chunk) is not dict: return None")
        writer.getter("chunk", writer.set("chunk.get"))
        writer.line(f"came = {writer.field('chunk', self._text_key)}")
        wrong = ["type(came) is not str"]
        if isinstance(source.error_code, ChunkRead):
            code = writer.field("chunk", source.error_code.key)
            wrong.append(f"({code} is not None and {code} != 0)")
        if self._finish_key is not None:
            wrong.append(f"{writer.field('chunk', self._finish_key)} is not None")
        if isinstance(source.reasoning, ChunkRead):
            wrong.append(writer.field("chunk", source.reasoning.key))
        writer.line(f"if {' or '.join(wrong)}: return None")
        writer.line("reader = translator.reader")
        # The first is like none before; what is counted from it is set there.
        writer.line("if not reader.frames: return None")
        writer.line("flow, scope = reader.flow, reader.scope")
        writer.line("scope['chunk'] = chunk")
        writer.fields("scope")["chunk"] = "chunk"
        writer.line("usage = reader.usage")
        if source.usage is not None:
            now = write(writer, source.usage, "scope")
            writer.line(f"if {now} is not None and {now} is not {writer.constant(OMIT)}: usage = {now}")
        writer.line("seen = translator.scope" if self._apart else "seen = scope")
        if source.logprobs is not None:
            now = write(writer, source.logprobs, "scope")
            writer.line(f"seen['logprobs'] = logprobs = reader.logprobs if {now} is None else {now}")

    def _text(self, writer: Writer) -> None:
        """`text`: all that came; `shown`: as much of it as the client may see."""
        target = self._target
        if self._source.mode == "cumulative":
            writer.line("text = came")
            writer.line("if not text.startswith(flow._longest): return None")
        else:
            writer.line("text = flow._longest + came")
        writer.line(f"if text.endswith({HALF_CHARACTER!r}): return None")
        writer.line(f"shown = text[:-{target.hold_back}]" if target.hold_back else "shown = text")
        writer.line("if len(shown) <= len(flow._shown): shown = flow._shown")

    def _map(self, writer: Writer) -> None:
        """`data`: the frame for the client."""
        target = self._target
        chunk = never_null(target.usual or target.chunk)
        if is_frame(chunk):
            writer.line(f"data = {writer.constant(target.framing.encode)}(frame)")  # as it came
            return
        said = "new" if target.mode == "incremental" else "shown"
        told = {"text": said, "new_text": "new", "usage": "usage", "finish": "None"}
        known = writer.fields("seen")
        known.update(told)
        if not self._apart:
            known["chunk"] = "chunk"
        if self._source.logprobs is not None:
            known["logprobs"] = "logprobs"
        place = writer.place
        mapped = write(writer, chunk, "seen")
        before, after = target.framing.around or (b"", b"")
        around = [repr(before)] * bool(before) + [f"{writer.constant(orjson.dumps)}({mapped})"]
        around += [repr(after)] * bool(after)
        left_out = f"b'' if {mapped} is {writer.constant(OMIT)} else " if omits(chunk) else ""
        writer.line(f"data = {left_out}{' + '.join(around)}")
        if writer.needs_whole(place, "seen"):
            for name, value in reversed(told.items()):
                writer.insert(place, f"seen[{name!r}] = {value}")
        if writer.names(place, "new"):
            writer.insert(place, "new = shown[translator._sent_length:]")

    def _keep(self, writer: Writer) -> None:
        """From here on nothing fails."""
        writer.line("flow._longest = text")
        writer.line("flow._shown = shown")
        writer.line("reader.last_text = came")
        writer.line("reader.frames += 1")
        writer.line("reader._whole = None")
        if self._source.usage is not None:
            writer.line("reader.usage = usage")
        if self._source.logprobs is not None:
            writer.line("reader.logprobs = logprobs")
        writer.line("translator._sent_length = len(shown)")
        writer.line("if data: translator.sent_frames += 1")
