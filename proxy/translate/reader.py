"""What the frames of one worker's stream mean: text, finish, usage, error. Nothing here waits or writes."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from proxy.errors import Fault, GatewayError
from proxy.limits import ERROR_TEXT_MAX
from proxy.translate.answer import refusal_kind
from proxy.translate.mapping import OMIT, RULE_FAILURES, ChunkRead, Omit, Read, Scope, needed_key, shown
from proxy.translate.plan import StreamSource
from proxy.translate.reasoning import Parts
from proxy.translate.reasoning_view import reasoning_view
from proxy.translate.seam import Seam
from proxy.translate.text import HALF_CHARACTER, TextFlow
from proxy.types import Json, JsonObject

# The finish of a stream that was lost when all its tokens had come.
SPENT: Final = "length"
# The finish of a stream whose worker overlooked a stop string.
STOPPED: Final = "stop"
# What a mapping sees where nothing of the kind came.
NO_RESULTS: Final[JsonObject] = {"reasoning": None, "new_reasoning": None, "logprobs": None}


class Received(NamedTuple):
    """What had come of a stream when its worker was lost. text: without a half character at its end; tokens: of the
    completion, as the worker counted them (one more where it counts from nought), else its frames; prompt_tokens: None
    where no worker said.
    """

    text: str
    tokens: int
    prompt_tokens: int | None = None

    def merged(self, usage: Json) -> Json:
        """The usage of the worker that went on, as if one worker had done all: the first one's prompt, the completions
        together.
        """
        if not isinstance(usage, dict):
            return usage
        prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens") or 0
        if self.prompt_tokens is not None:
            prompt = self.prompt_tokens
        elif prompt is not None:
            prompt = max(0, prompt - self.tokens)
        total = (prompt or 0) + self.tokens + completion
        return {**usage, "prompt_tokens": prompt, "completion_tokens": self.tokens + completion, "total_tokens": total}


class StreamReader:
    """What the frames of one worker's stream mean: text, finish, usage, error.

    `view` is what the client is to see where that is not just the text: a thought apart from it, or put into it. After
    each `read` the frame is `chunk` in `scope`, and `finish` is set once the worker said why it ended.
    GatewayError where the frame is broken or says that the worker failed. `notes` names what was repaired, for the
    metrics. first, ending: the first frame, and the one that said why the answer ended; null before.
    """

    __slots__ = (
        "_announced",
        "_code_key",
        "_earlier",
        "_finish_key",
        "_from_nought",
        "_said",
        "_seam",
        "_source",
        "_text_key",
        "_thought",
        "_tracks",
        "_whole",
        "ending",
        "finish",
        "first",
        "flow",
        "frames",
        "last_text",
        "logprobs",
        "notes",
        "scope",
        "usage",
        "view",
    )

    def __init__(self, source: StreamSource, scope: Scope, hold_back: int = 0, *, resumable: bool = False) -> None:
        self._source = source
        self._tracks = resumable
        self._whole: tuple[Json, int] | None = None  # usage and frames before a half character at the end
        self._earlier: Received | None = None
        self._seam: Seam | None = None
        self._from_nought = False  # the worker's first frame has one token and says that there is none
        self._code_key = source.error_code.key if isinstance(source.error_code, ChunkRead) else None
        self._finish_key = needed_key(source.finish)
        self._text_key = source.text.key if isinstance(source.text, ChunkRead) else None
        self.scope: Scope = dict(scope)
        ends = self._stops() if source.keeps_stops else ()
        self.flow = TextFlow(source.mode, hold_back, _rule_text(source.prefix, scope, "prefix", ""), ends)
        self.notes: list[str] = self.flow.notes
        self._thought = None if source.reasoning is None else TextFlow(source.mode)
        self.view = reasoning_view(scope.get("worker"))
        self._announced: Json = None  # the finish that is told at the end
        self.finish: Json = None
        self.usage: Json = None
        self._said: Json = None  # the usage as this worker told it, where another one's came before
        self.logprobs: Json = None
        self.last_text: str | None = None
        self.first: Json = None
        self.ending: Json = None
        self.frames = 0

    @property
    def complete(self) -> bool:
        """Whether the worker has said why it ended."""
        return self.finish is not None or self._announced is not None

    @property
    def announced(self) -> bool:
        """Whether the worker has said why it ended, and the client is not told yet."""
        return self.finish is None and self._announced is not None

    def read(self, frame: bytes) -> bool:
        """Take one frame. False where it changes nothing for the client: the answer has ended already, or its end is
        told later.
        """
        if self.finish is not None:
            return False
        try:
            chunk = orjson.loads(frame)
        except orjson.JSONDecodeError as error:
            raise GatewayError("upstream_protocol", f"the worker sent a frame that is not JSON ({error})") from None
        if not isinstance(chunk, dict):
            raise GatewayError("upstream_protocol", f"the worker sent a frame that is not an object but {shown(chunk)}")
        self.scope["chunk"] = chunk
        try:
            told = self._taken(chunk)
        except RULE_FAILURES as problem:
            raise GatewayError(
                "upstream_protocol",
                f"the worker sent a frame that the rule cannot read: {problem}",
                fault=Fault("answer"),
            ) from None
        self.first = self.first or chunk
        self.frames += 1
        return told

    def _taken(self, chunk: JsonObject) -> bool:
        scope, source = self.scope, self._source
        if source.error_code is not None:
            code = chunk.get(self._code_key) if self._code_key is not None else source.error_code(scope)
            if code is not None and code != 0:
                self._raise_reported(code)
        text = chunk.get(self._text_key) if self._text_key is not None else source.text(scope)
        if self._seam is not None and text is not None:
            text = self._behind(self._seam, text)
        if text is not None:
            if not isinstance(text, str):
                problem = f"the worker's text is not a string but {shown(text)}"
                raise GatewayError("upstream_protocol", problem, fault=Fault("answer"))
            self.flow.add(text)
            self.last_text = text
            if self._tracks:
                self._track(text)
        thought = None if self._thought is None else self._take_thought(self._thought)
        if source.usage is not None:
            self._take_usage(source.usage(scope))
        if source.logprobs is not None and (logprobs := source.logprobs(scope)) is not None:
            self.logprobs = _extended(self.logprobs, logprobs) if source.mode == "incremental" else logprobs
        if source.finish is not None and (self._finish_key is None or chunk.get(self._finish_key) is not None):
            self._take_finish(source.finish(scope))
        if self._seam is not None:
            self._look_at_seam(self._seam)
        return bool(text or thought) or not source.finish_at_end

    def end(self) -> bool:
        """The worker's stream ended as HTTP says it should. True where its last frame did not say so, and the client is
        told now.
        """
        if self.finish is not None:
            return False
        if self._announced is not None:
            self.finish = self._announced
            return True
        if not self.frames:
            raise GatewayError("upstream_empty", "the worker ended its answer without sending anything")
        if self._seam is not None:
            self._seam.require()
        if self._source.missing_finish is None:
            raise GatewayError("upstream_protocol", "the worker ended its answer without saying that it was complete")
        self.finish = self._source.missing_finish
        self.notes.append("finish_synthesized")
        return True

    def received(self) -> Received:
        """What there is for another worker to go on from."""
        earlier = self._earlier or Received("", 0, None)
        usage, frames = self._whole or (self.usage, self.frames)
        counted, prompt = _count(usage, "completion_tokens"), _count(self.usage, "prompt_tokens")
        tokens = earlier.tokens + frames if counted is None else counted + self._from_nought
        text = self.flow.received
        # Where there is no text, its tokens are made anew.
        return Received(text, tokens if text else 0, earlier.prompt_tokens if prompt is None else prompt)

    def own_tokens(self) -> tuple[int, int]:
        """The tokens that this worker said it had read and made, apart from those of an earlier one."""
        usage = self.usage if self._earlier is None else self._said
        return _count(usage, "prompt_tokens") or 0, _count(usage, "completion_tokens") or 0

    def continued(self, scope: Scope, received: Received | None = None) -> StreamReader:
        """The reader of the worker that goes on; `scope` is that of its request. received: what there is to go on from,
        where it did not come to this reader.
        """
        earlier = received or self.received()
        reader = StreamReader(self._source, scope, resumable=True)
        reader.scope.setdefault("chunk", self.scope.get("chunk"))
        reader.flow, reader.notes = self.flow.continued(earlier.text), self.notes
        reader._thought = None if self._thought is None else self._thought.continued()
        reader.view = self.view
        reader._earlier = earlier
        if earlier.text and self._source.echoed is not None:
            reader._seam = Seam(
                _rule_text(self._source.echoed, {**scope, "text": earlier.text}, "echoed text"), reader._stops()
            )
        return reader

    def final_text(self) -> str:
        """The whole text, once `finish` is set."""
        return self.flow.finish(self.last_text, self._stops())

    @property
    def seen_text(self) -> str:
        """All the text that there is, as far as it stands, without a thought that is apart from it."""
        return self.flow.whole if self.view is None else self.flow.prefix + self.view.text

    def viewed(self, text: str, *, final: bool) -> Parts:
        """What is new in the `view`, given the text so far and the thought that came apart from it."""
        if self.view is None:
            return Parts("", "")
        thought = "" if self._thought is None else self._thought.finish() if final else self._thought.advance()
        new = self.view.take(text[len(self.flow.prefix) :], thought, final=final)
        if final and self.view.unopened:
            self.notes.append("reasoning_unopened")
        return new

    def _stops(self) -> list[str]:
        try:
            stops = self._source.stops(self.scope) if self._source.stops is not None else None
        except RULE_FAILURES as problem:
            text = f"the rule's stop strings cannot be read: {problem}"
            raise GatewayError("upstream_protocol", text, fault=Fault("answer")) from None
        return [stop for stop in stops if isinstance(stop, str)] if isinstance(stops, list) else []

    def _take_finish(self, finish: Json | Omit) -> None:
        if finish is OMIT or finish is None:
            return
        self.ending = self.scope["chunk"]
        if self._source.finish_at_end:
            self._announced = finish
        else:
            self.finish = finish

    def _take_thought(self, flow: TextFlow) -> Json:
        found = self._source.reasoning(self.scope) if self._source.reasoning is not None else None
        if not found:
            return None
        if not isinstance(found, str):
            raise GatewayError("upstream_protocol", f"the worker's reasoning is not a string but {shown(found)}")
        flow.add(found)
        if self.view is None and (view := reasoning_view(self.scope.get("worker"), comes_apart=True)) is not None:
            view.take(self.flow.shown[len(self.flow.prefix) :], "")
            self.view = view
        return found

    def _take_usage(self, usage: Json | Omit) -> None:
        if usage is OMIT or usage is None:
            return
        if self._tracks and not self.frames:
            self._from_nought = _count(usage, "completion_tokens") == 0
        self._said = usage
        self.usage = usage if self._earlier is None else self._earlier.merged(usage)

    def _behind(self, seam: Seam, said: Json) -> str | None:
        text = seam.behind(said)
        if text is None and isinstance(said, str):
            self._track(said)
        return text

    def _look_at_seam(self, seam: Seam) -> None:
        if seam.stopped:
            self.finish = STOPPED
        elif self.finish is not None:
            seam.require()

    def _track(self, text: str) -> None:
        """The tokens of half a character do not count, because another worker makes the whole one of new ones."""
        if not text.endswith(HALF_CHARACTER):
            self._whole = None
        elif self._whole is None:
            self._whole = (self.usage, self.frames)

    def _raise_reported(self, code: Json) -> None:
        message = self._source.error_message(self.scope) if self._source.error_message is not None else None
        text = message if isinstance(message, str) and message else f"the worker reported error {shown(code)}"
        number = code if isinstance(code, int) and not isinstance(code, bool) else None
        status = self._source.error_status(self.scope) if self._source.error_status is not None else None
        if isinstance(status, int) and not isinstance(status, bool):
            kind = refusal_kind(self._source.refusal, status, self.scope.get("chunk"))
            raise GatewayError(kind, text[:ERROR_TEXT_MAX], upstream_code=number, upstream_status=status)
        raise GatewayError("upstream_error", text[:ERROR_TEXT_MAX], upstream_code=number)


def _extended(known: Json, more: Json) -> Json:
    """Probabilities of the tokens so far and of the new ones: `{name: list}` each, of which `known` is changed."""
    if not isinstance(more, dict):
        return more
    if not isinstance(known, dict):
        return {name: [*values] if isinstance(values, list) else values for name, values in more.items()}
    for name, values in more.items():
        before = known.get(name)
        if isinstance(before, list) and isinstance(values, list):
            before += values
        else:
            known[name] = values
    return known


def _count(usage: Json, name: str) -> int | None:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None


def _rule_text(read: Read | None, scope: Scope, what: str, default: str | None = None) -> str:
    """A text of the rule; null is the default, where there is one."""
    try:
        found = read(scope) if read is not None else None
    except RULE_FAILURES as problem:
        text = f"the rule's {what} cannot be read: {problem}"
        raise GatewayError("invalid_request", text, fault=Fault("call")) from None
    found = default if found is None else found
    if not isinstance(found, str):
        text = f"the rule's {what} is not a string but {shown(found)}"
        raise GatewayError("invalid_request", text, fault=Fault("call"))
    return found


def collected(reader: StreamReader) -> JsonObject:
    """What a collected stream gives to the answer mapping: `text`, `reasoning`, `finish`, `usage`, `logprobs` and the
    last frame as `chunk`.
    """
    text = reader.final_text()
    thought, _ = reader.viewed(text, final=True)
    return {
        **NO_RESULTS,
        "text": text if reader.view is None else reader.seen_text,
        "reasoning": thought or None,
        "finish": reader.finish,
        "usage": reader.usage,
        "logprobs": reader.logprobs,
        "chunk": reader.scope.get("chunk"),
    }
