"""`replay`: recorded requests through a rule set, and where that makes another request or another answer of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Final, NamedTuple, TextIO

import click
import orjson

from proxy.framing import FRAMINGS, Framing, FramingError
from proxy.limits import FRAME_MAX_BYTES
from proxy.recording.lines import Exchange, Recorded
from proxy.recording.reading import Recording, RecordingError
from proxy.recording.redaction import BLACKED, Blackout
from proxy.ruleset.loader import RuleSet
from proxy.tools.replay_run import Replayed, Sent, Told, replay
from proxy.translate.mapping import Scope
from proxy.translate.routes import Miss, PathMatch, choose
from proxy.types import Json, JsonObject

# Of one request; the rest is counted.
DIFFERENCES_MAX: Final = 100
# What a place holds that there is not.
ABSENT: Final = "(absent)"

_INDEX: Final = re.compile(r"\[\d+\]")
_STREAMED: Final = {framing.content_type: framing for framing in FRAMINGS.values() if framing.name != "json"}


# Requests that are listed: for programs, and for people.
LISTED_MAX: Final = 1_000
SHOWN_MAX: Final = 20
# A recording of so many bytes takes longer than a moment.
_LONG: Final = 2_000_000


class Difference(NamedTuple):
    """One value that was another one when it was recorded. path: where, such as `upstream[0].body.temperature`; then,
    now: as JSON, `(absent)` where there is none.
    """

    path: str
    then: str
    now: str


class Compared(NamedTuple):
    """A request that was run again. more: differences beyond those that are told."""

    line: int
    recorded: Recorded
    differences: tuple[Difference, ...]
    more: int = 0


@dataclass
class Summary:
    """How many requests of each route were the same and how many not, and which places differed in how many."""

    same: Counter[str] = field(default_factory=Counter)
    different: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    def add(self, compared: Compared) -> None:
        """One more."""
        route = compared.recorded.route or "(none)"
        (self.different if compared.differences else self.same)[route] += 1
        self.places.update({_general(each.path) for each in compared.differences})


def replayed(recording: Recording, comparing: Comparing, told: TextIO) -> Iterator[Compared]:
    """Each request of a recording, compared. told: a terminal there sees how far it is, where it takes a while.
    RecordingError at the first line that is no request, or none that could be served.
    """
    show = told.isatty() and recording.size > _LONG
    bar = click.progressbar(length=recording.size, label="replaying", file=told) if show else nullcontext()
    with bar as progress:
        done = 0
        for line, read, request in recording.requests():
            try:
                yield comparing.run(line, request)
            except RecursionError:
                raise RecordingError(f"{recording.file}:{line}: nested too deep") from None
            if progress is not None:
                progress.update(read - done)
            done = read


class Comparing:
    """Compares requests with what they become by a rule set. words: those of a recording whose texts were replaced,
    None for one that has them.
    """

    def __init__(self, rules: RuleSet, words: list[str] | None) -> None:
        self._rules = rules
        self._blackout = None if words is None else Blackout(words)

    def run(self, line: int, recorded: Recorded) -> Compared:
        """One request. RecursionError where it is nested too deep."""
        found: list[Difference] = []
        more = 0
        for difference in self._differences(recorded):
            if len(found) < DIFFERENCES_MAX:
                found.append(difference)
            else:
                more += 1
        return Compared(line, recorded, tuple(found), more)

    def _differences(self, recorded: Recorded) -> Iterator[Difference]:
        scope: Scope = {"models": [], "worker": None, **recorded.scope, "body": recorded.body}
        match = self._match(recorded, scope)
        route = None if match is None else f"{match.route.pack}/{match.route.name}"
        if route != recorded.route:
            yield Difference("route", _shown(recorded.route), _shown(route))
        if match is None:
            return
        scope["path"] = dict(match.parameters)
        played = replay(match.route, scope, recorded, self._blackout)
        yield from self._questions(played)
        yield from self._upstream(played, recorded)
        yield from self._client(played.told, recorded)

    def _match(self, recorded: Recorded, scope: Scope) -> PathMatch | None:
        headers = scope.get("headers")
        names = {name: str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}
        found = self._rules.table.by_path(recorded.method, recorded.path, names.get("accept", ""))
        return None if isinstance(found, Miss) else choose(found, names, scope)

    def _questions(self, played: Replayed) -> Iterator[Difference]:
        for question, known in played.asked:
            path = f"asked.{question.step}"
            if known is None:
                yield Difference(path, ABSENT, f"{question.method} {question.path} {_shown(question.body)}")
            else:
                yield from self._compared(known.body, question.body, f"{path}.body")

    def _upstream(self, played: Replayed, recorded: Recorded) -> Iterator[Difference]:
        recorded_ones = [exchange for attempt in recorded.attempts for exchange in attempt.exchanges]
        used = [sent.exchange for sent in played.sent]
        for index, sent in enumerate(played.sent):
            yield from self._sent(sent, f"upstream[{index}]")
        left = [each for each in recorded_ones if not any(each is exchange for exchange in used)]
        for index, exchange in enumerate(left, len(played.sent)):
            yield Difference(f"upstream[{index}]", f"{exchange.method} {exchange.path}", ABSENT)

    def _sent(self, sent: Sent, path: str) -> Iterator[Difference]:
        then = sent.exchange
        if then is None:
            yield Difference(path, ABSENT, f"{sent.method} {sent.path} {_shown(sent.body)}")
            return
        yield from self._compared(then.method, sent.method, f"{path}.method")
        yield from self._compared(then.path, sent.path, f"{path}.path")
        yield from self._compared(*_headers(then, sent.headers), f"{path}.headers")
        yield from self._compared(then.body, sent.body, f"{path}.body")

    def _client(self, told: Told | None, recorded: Recorded) -> Iterator[Difference]:
        client = recorded.client
        if client.status is None:
            return  # it left before anything came
        if told is None:
            yield Difference("client", f"status {client.status}", "(only a worker can tell)")
            return
        yield from self._compared(client.status, told.status, "client.status")
        yield from self._compared(client.content_type, told.content_type, "client.content_type")
        said = b"" if client.said is None else client.said.data
        then, now = _read(client.content_type, said), _read(told.content_type, told.said)
        if not client.complete and isinstance(then, list) and isinstance(now, list):
            now = now[: len(then)]  # it left, so that it did not see the rest
        yield from self._compared(then, now, "client.frames" if isinstance(then, list) else "client.body")

    def _compared(self, then: Json, now: Json, path: str) -> Iterator[Difference]:
        if isinstance(then, dict) and isinstance(now, dict):
            for name in [*then, *(name for name in now if name not in then)]:
                if name not in now:
                    yield Difference(f"{path}.{name}", _shown(then[name]), ABSENT)
                elif name not in then:
                    yield Difference(f"{path}.{name}", ABSENT, _shown(now[name]))
                else:
                    yield from self._compared(then[name], now[name], f"{path}.{name}")
        elif isinstance(then, list) and isinstance(now, list):
            for index, (left, right) in enumerate(zip_longest(then, now, fillvalue=_NONE)):
                place = f"{path}[{index}]"
                if left is _NONE or right is _NONE:
                    yield Difference(place, *(ABSENT if each is _NONE else _shown(each) for each in (left, right)))
                else:
                    yield from self._compared(left, right, place)
        elif not self._same(then, now):
            yield Difference(path, _shown(then), _shown(now))

    def _same(self, then: Json, now: Json) -> bool:
        if self._blackout is not None:
            return self._blackout.same(then, now)
        return then == now and isinstance(then, bool) == isinstance(now, bool)


_NONE: Json = {"": "no element"}


def _headers(then: Exchange, now: Mapping[str, str]) -> tuple[JsonObject, JsonObject]:
    """What can be compared of the headers: of some only that they are there."""
    kept: JsonObject = {name.lower(): value for name, value in then.headers.items()}
    new: JsonObject = {
        name.lower(): BLACKED if kept.get(name.lower()) == BLACKED else value for name, value in now.items()
    }
    return kept, new


def _read(content_type: str | None, said: bytes) -> Json:
    """A body as JSON: the frames of a stream, one value, or the text where it is neither."""
    framing = _STREAMED.get(content_type or "")
    if framing is not None:
        return _frames(framing, said)
    return _value(said) if said else None


def _frames(framing: Framing, said: bytes) -> list[Json]:
    decoder = framing.new_decoder(FRAME_MAX_BYTES)
    frames: list[bytes] = []
    try:
        frames += decoder.feed(said)
        frames += decoder.finish()
    except FramingError:  # its client left within a frame
        pass
    return [_value(frame) for frame in frames]


def _value(data: bytes) -> Json:
    try:
        value: Json = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data.decode("utf-8", "replace")
    return value


def _shown(value: Json) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return "a value that JSON cannot write"


def _general(path: str) -> str:
    """The place without the numbers of elements."""
    return _INDEX.sub("[]", path)
