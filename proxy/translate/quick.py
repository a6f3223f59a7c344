"""The usual frame of a stream, rewritten by code that is written for its route.

Nearly every frame is like the one before: an object with a longer text, no error, no reason to end. For those the
general way (`StreamTranslator.feed`) decides again what is known since the rule was loaded. `quick_step` writes the one
function that is left once all of that is decided. It changes nothing and answers None wherever a frame is not of that
kind, and the general way takes it; what it gives is what the general way would give, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

import orjson

from proxy.framing import FramingError
from proxy.translate.mapping import OMIT, RULE_FAILURES, ChunkRead, Fields, OmitNull, RootRead, needed_key
from proxy.translate.splice import SPLICE_FROM, splice_of
from proxy.translate.text import HALF_CHARACTER

if TYPE_CHECKING:
    from proxy.translate.plan import StreamSource, StreamTarget
    from proxy.translate.stream import StreamTranslator

Step = Callable[["StreamTranslator", bytes], "bytes | None"]

# What the mapping of a frame reads most, which need not go through the scope.
_LOCALS: Final = {"text": "said", "new_text": "new", "usage": "usage"}


def quick_step(source: StreamSource, target: StreamTarget, *, apart: bool = False) -> Step | None:
    """The function for streams of this kind; None where only the general way will do: a text, thought, error or finish
    that is not one key of the frame, or a framing that puts more than two ends around a frame.

    It is for frames before the finish, of a stream without a prefix that no other worker went on with, as long as the
    client sees the text as it is. apart: the
    client's mapping sees another scope than the reading of the worker's frames.
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
    writer = _Writer(source, target, source.text.key, finish, apart=apart)
    names: dict[str, object] = writer.names
    exec(compile("\n".join(writer.lines), "<stream rule>", "exec"), names)  # noqa: S102  keys of rules go in quoted only
    return cast("Step", names["step"])


def _is_known(value: object, root: str) -> bool:
    """Whether a field can be read without the scope."""
    return isinstance(value, ChunkRead) or (value is None and root in _LOCALS)


class _Writer:
    """Puts the lines of the function together; `names` is what they refer to."""

    def __init__(
        self, source: StreamSource, target: StreamTarget, text_key: str, finish_key: str | None, *, apart: bool
    ) -> None:
        self._seen = "seen" if apart else "scope"
        self.names: dict[str, object] = {
            "loads": orjson.loads,
            "dumps": orjson.dumps,
            "unusual": (orjson.JSONDecodeError, orjson.JSONEncodeError, FramingError, *RULE_FAILURES),
            "OMIT": OMIT,
        }
        self.lines: list[str] = []
        self._splice = splice_of(source, target, finish_key, apart=apart)
        self._read(source, text_key, finish_key)
        self._text(source, target)
        self._map(target)
        self._keep(source)

    def _line(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    def _name(self, value: object) -> str:
        name = f"v{len(self.names)}"
        self.names[name] = value
        return name

    def _read(self, source: StreamSource, text_key: str, finish_key: str | None) -> None:
        self._line(0, "def step(translator, frame):")
        if self._splice is not None:
            self.names["follow"], self.names["begin"] = self._splice.follow, self._splice.begin
            self._line(1, "if (spliced := translator.spliced) is not None:")
            self._line(2, "data = follow(translator, frame, spliced)")
            self._line(2, "if data is not None:")
            self._line(3, "return data")
            self._line(2, "translator.spliced = None")
        self._line(1, "try:")
        self._line(2, "chunk = loads(frame)")
        self._line(2, "if type(chunk) is not dict:")
        self._line(3, "return None")
        self._line(2, "get = chunk.get")
        self._line(2, f"came = get({text_key!r})")
        wrong = ["type(came) is not str"]
        if isinstance(source.error_code, ChunkRead):
            self._line(2, f"code = get({source.error_code.key!r})")
            wrong.append("(code is not None and code != 0)")
        if finish_key is not None:
            wrong.append(f"get({finish_key!r}) is not None")
        if isinstance(source.reasoning, ChunkRead):
            wrong.append(f"get({source.reasoning.key!r})")
        self._line(2, f"if {' or '.join(wrong)}:")
        self._line(3, "return None")
        self._line(2, "reader = translator.reader")
        self._line(2, "if not reader.frames:")  # the first is like none before; what is counted from it is set there
        self._line(3, "return None")
        self._line(2, "flow = reader.flow")
        self._line(2, "scope = reader.scope")
        self._line(2, "scope['chunk'] = chunk")
        self._line(2, "usage = reader.usage")
        if source.usage is not None:
            self._line(2, f"now = {self._name(source.usage)}(scope)")
            self._line(2, "if now is not None and now is not OMIT:")
            self._line(3, "usage = now")
        if self._seen != "scope":
            self._line(2, f"{self._seen} = translator.scope")
        if source.logprobs is not None:
            self._line(2, f"now = {self._name(source.logprobs)}(scope)")
            self._line(2, "logprobs = reader.logprobs if now is None else now")
            self._line(2, f"{self._seen}['logprobs'] = logprobs")

    def _text(self, source: StreamSource, target: StreamTarget) -> None:
        """`text`: all that came; `shown`: as much of it as the client may see."""
        if source.mode == "cumulative":
            self._line(2, "text = came")
            self._line(2, "if not text.startswith(flow._longest):")
            self._line(3, "return None")
        else:
            self._line(2, "text = flow._longest + came")
        self._line(2, f"if text.endswith({HALF_CHARACTER!r}):")
        self._line(3, "return None")
        self._line(2, f"shown = text[:-{target.hold_back}]" if target.hold_back else "shown = text")
        self._line(2, "if len(shown) <= len(flow._shown):")
        self._line(3, "shown = flow._shown")

    def _map(self, target: StreamTarget) -> None:
        """`data`: the frame for the client."""
        before, after = target.framing.around or (b"", b"")
        around = "".join([f"{before!r} + " if before else "", "{}", f" + {after!r}" if after else ""])
        # An object is never null, and neither is a frame.
        chunk = target.usual or target.chunk
        chunk = chunk.inner if isinstance(chunk, OmitNull) else chunk
        if isinstance(chunk, RootRead) and chunk.name == "chunk":
            self._line(2, f"data = {self._name(target.framing.encode)}(frame)")  # as it came
            return
        fields = chunk if isinstance(chunk, Fields) else None
        if target.mode == "incremental":
            self._line(2, "new = said = shown[translator._sent_length:]")
        else:
            self._line(2, "said = shown")
            if fields is None or not all(
                _is_known(value, root) and root != "new_text" for _, root, value, _ in fields.others
            ):
                self._line(2, "new = shown[translator._sent_length:]")
        if fields is None or not all(_is_known(value, root) for _, root, value, _ in fields.others):
            self._line(2, f"{self._seen}['new_text'] = new")
            self._line(2, f"{self._seen}['text'] = said")
            self._line(2, f"{self._seen}['finish'] = None")
            self._line(2, f"{self._seen}['usage'] = usage")
        if fields is None:
            self._line(2, f"mapped = {self._name(target.usual or target.chunk)}({self._seen})")
            self._line(2, f"data = b'' if mapped is OMIT else {around.format('dumps(mapped)')}")
        else:
            self._fields(fields)
            self._line(2, f"data = {around.format('dumps(mapped)')}")

    def _fields(self, fields: Fields) -> None:
        known = [f"{name!r}: {self._name(value)}" for name, value in fields.constants.items()]
        others = list(fields.others)
        while others and others[0][2] is None and others[0][1] in ("text", "new_text"):
            name, root, _, _ = others.pop(0)
            known.append(f"{name!r}: {_LOCALS[root]}")
        self._line(2, f"mapped = {{{', '.join(known)}}}")
        for name, root, value, omits_null in others:
            depth = 2
            item = _LOCALS.get(root, "item") if value is None else "item"
            if value is None and item == "item":
                self._line(2, f"item = {self._seen}.get({root!r})")
            elif isinstance(value, ChunkRead):
                self._line(2, f"item = get({value.key!r})")
            elif value is not None:
                self._line(2, f"item = {self._name(value)}({self._seen})")
                self._line(2, "if item is not OMIT:")
                depth = 3
            if omits_null:
                self._line(depth, f"if {item} is not None:")
                depth += 1
            self._line(depth, f"mapped[{name!r}] = {item}")

    def _keep(self, source: StreamSource) -> None:
        """From here on nothing fails."""
        self._line(1, "except unusual:")
        self._line(2, "return None")
        self._line(1, "flow._longest = text")
        self._line(1, "flow._shown = shown")
        self._line(1, "reader.last_text = came")
        self._line(1, "reader.frames += 1")
        self._line(1, "reader._whole = None")
        if source.usage is not None:
            self._line(1, "reader.usage = usage")
        if source.logprobs is not None:
            self._line(1, "reader.logprobs = logprobs")
        self._line(1, "translator._sent_length = len(shown)")
        self._line(1, "if data:")
        self._line(2, "translator.sent_frames += 1")
        if self._splice is not None:
            self.names["long"] = SPLICE_FROM
            self._line(1, "if len(frame) >= long:")
            self._line(2, "translator.spliced = begin(translator, frame)")
        self._line(1, "return data")
