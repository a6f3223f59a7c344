"""One request while it goes through the gateway: what was asked, said and told is noted here, and becomes its line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import orjson

from proxy.errors import GatewayError
from proxy.framing import Framing, FramingError
from proxy.limits import FRAME_MAX_BYTES, RECORDED_REQUEST_MAX_BYTES
from proxy.recording.lines import Raw
from proxy.recording.redaction import BLACKED, Blackout, kept_headers, without_secrets
from proxy.types import Json, JsonObject

# What rules see of a request beside its body and its worker.
_SCOPE = ("query", "headers", "path", "listener", "gateway", "models", "now", "request_id", "elapsed")


class Held:
    """Bytes that all requests under way hold together, of which there may be so many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.size = 0

    def take(self, size: int) -> bool:
        """Whether there was room for them."""
        if self.size + size > self.most:
            return False
        self.size += size
        return True

    def give(self, size: int) -> None:
        """They are held no more."""
        self.size -= size


class Said:
    """Bytes of one body as they came or went; size: how many, also those that are not kept because they are too many.
    framing: None for one whole JSON text. take: whether there is room for so many more; None: for any.
    """

    def __init__(self, framing: Framing | None, take: Callable[[int], bool] | None = None) -> None:
        self.framing = framing
        self.size = 0
        self._take = take
        self._parts: list[bytes] = []

    def add(self, data: bytes) -> None:
        """More of it."""
        self.size += len(data)
        if self._take is None or self._take(len(data)):
            self._parts.append(data)
        else:
            self._parts.clear()

    def document(self, blackout: Blackout | None) -> Json:
        """As `Raw`, null where nothing came."""
        if not self.size:
            return None
        data = b"".join(self._parts)
        return Raw.of(data if blackout is None else _blacked(data, self.framing, blackout)).model_dump(
            exclude_none=True
        )


@dataclass
class TapedExchange:
    """One request to a worker, and its answer. size: bytes of its body, which is null where there was no room."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Json
    size: int
    said: Said
    status: int | None = None
    complete: bool = False

    def line(self, blackout: Blackout | None) -> JsonObject:
        return {
            "method": self.method,
            "path": self.path,
            "headers": {**kept_headers(self.headers)},
            "body": _told(self.body, blackout),
            "status": self.status,
            "said": self.said.document(blackout),
            "complete": self.complete,
        }


@dataclass
class _Question:
    step: str
    path: str
    body: Json
    answer: Json

    def line(self, blackout: Blackout | None) -> JsonObject:
        body, answer = _told(self.body, blackout), _told(self.answer, blackout)
        return {"step": self.step, "path": self.path, "body": body, "answer": answer}


@dataclass
class _Attempt:
    worker: JsonObject
    asked: list[_Question] = field(default_factory=list)
    exchanges: list[TapedExchange] = field(default_factory=list)
    failure: GatewayError | None = None
    resumed: bool = False

    def line(self, blackout: Blackout | None) -> JsonObject:
        key = self.worker.get("key")
        return {
            "worker": {**self.worker, **({"key": BLACKED} if key is not None else {})},
            "asked": [each.line(blackout) for each in self.asked],
            "exchanges": [each.line(blackout) for each in self.exchanges],
            "failure": _failure(self.failure, blackout),
            "resumed": self.resumed,
        }


class TapedPart:
    """What becomes of a request, or of one of several that its rule makes of it: on which workers it was tried."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._attempts: list[_Attempt] = []
        self._elapsed: Json = None

    def part(self, index: int) -> TapedPart:
        """The one at this place among those of the same request."""
        return self._tape.part(index)

    def tried(self, worker: JsonObject) -> None:
        """It goes to this worker."""
        self._attempts.append(_Attempt(worker))

    def resumed(self) -> None:
        """The worker goes on with the stream of the one before."""
        self._attempts[-1].resumed = True

    def asked(self, step: str, path: str, body: Json, answer: Json) -> None:
        """A step asked the worker something."""
        self._attempts[-1].asked.append(_Question(step, path, body, answer))

    def sent(
        self, method: str, path: str, headers: Mapping[str, str], body: Json, size: int, framing: Framing | None
    ) -> TapedExchange:
        """The request itself goes to the worker. size: bytes of its body."""
        kept = body if self._tape.take(size) else None
        exchange = TapedExchange(method, path, headers, kept, size, self._tape.said(framing))
        self._attempts[-1].exchanges.append(exchange)
        return exchange

    def gave_back(self, failure: GatewayError | None) -> None:
        """The worker is done with."""
        self._attempts[-1].failure = failure

    def timed(self, elapsed: Json) -> None:
        """With which `elapsed` the last frames of its stream were written."""
        self._elapsed = elapsed

    @property
    def size(self) -> int:
        """Bytes that went to workers, and that they said."""
        return sum(each.size + each.said.size for attempt in self._attempts for each in attempt.exchanges)

    def lines(self, index: int, blackout: Blackout | None) -> list[Json]:
        """Its attempts; index: its place among those of the request."""
        return [{**attempt.line(blackout), "part": index, "elapsed": self._elapsed} for attempt in self._attempts]


class Tape:
    """One request. at: when it came; size: bytes of its body; headers: names whose values may be known although they
    are not on the list; held: what all such requests hold. lost: it holds less than there was, for want of room.
    """

    def __init__(
        self,
        at: str,
        method: str,
        path: str,
        scope: JsonObject,
        size: int,
        route: str,
        headers: Collection[str],
        held: Held,
    ) -> None:
        self._at, self._method, self._path, self._size, self._route = at, method, path, size, route
        # What rules see changes while they are followed.
        self._scope = {name: scope.get(name) for name in _SCOPE}
        self._body = scope.get("body")
        self._headers = headers
        self._parts: dict[int, TapedPart] = {}
        self._held, self._kept, self.lost = held, 0, False
        self._told = Said(None)
        self._status: int | None = None
        self._content_type: str | None = None
        self._complete = False
        self._failure: GatewayError | None = None
        self._outcome = ""
        self._seconds = 0.0

    def part(self, index: int) -> TapedPart:
        """The request itself, or the one at this place of several that its rule makes of it."""
        return self._parts.setdefault(index, TapedPart(self))

    def said(self, framing: Framing | None) -> Said:
        """A body that comes or goes."""
        return Said(framing, self.take)

    def answered(self, status: int, content_type: str, told: Said) -> None:
        """The response to the client is begun; its body is `told`, as far as it comes."""
        self._status, self._content_type, self._told = status, content_type, told

    def saw(self, scope: JsonObject) -> None:
        """What rules see that is known late: `models`, `gateway`, `elapsed`."""
        self._scope.update({name: scope[name] for name in _SCOPE if name in scope})

    def over(self, outcome: str, failure: GatewayError | None, seconds: float, *, complete: bool) -> None:
        """The request has ended. complete: the client got all of its answer."""
        self._outcome, self._failure, self._seconds, self._complete = outcome, failure, seconds, complete

    def let_go(self) -> None:
        """It is under way no more."""
        self._held.give(self._kept)
        self._kept = 0

    def take(self, size: int) -> bool:
        """Whether there is room for so many more bytes."""
        fits = not self.lost and self._kept + size <= RECORDED_REQUEST_MAX_BYTES and self._held.take(size)
        self._kept += size if fits else 0
        self.lost = not fits
        return fits

    # --- what is kept

    @property
    def size(self) -> int:
        """Bytes that it holds, about: what a body is turned into is larger, and so is what is made of it."""
        return self._size + self._told.size + sum(part.size for part in self._parts.values())

    def line(self, blackout: Blackout | None) -> JsonObject:
        """Its line of a recording."""
        headers = self._scope["headers"]
        strings = {name: str(value) for name, value in headers.items()} if isinstance(headers, dict) else {}
        query = _told(self._scope["query"], blackout)
        return {
            "at": self._at,
            "seconds": round(self._seconds, 6),
            "method": self._method,
            "path": self._path,
            "scope": {**self._scope, "query": query, "headers": {**kept_headers(strings, self._headers)}},
            "body": _told(self._body, blackout),
            "route": self._route,
            "outcome": self._outcome,
            "attempts": [line for index, part in sorted(self._parts.items()) for line in part.lines(index, blackout)],
            "client": {
                "status": self._status,
                "content_type": self._content_type,
                "said": self._told.document(blackout),
                "complete": self._complete,
                "failure": _failure(self._failure, blackout),
            },
        }


def _told(value: Json, blackout: Blackout | None) -> Json:
    clean = without_secrets(value)
    return clean if blackout is None else blackout.value(clean)


def _failure(error: GatewayError | None, blackout: Blackout | None) -> Json:
    if error is None:
        return None
    message = error.message if blackout is None else blackout.text(error.message)
    return {
        "kind": error.kind,
        "message": message,
        "field": error.field,
        "upstream_code": error.upstream_code,
        "upstream_status": error.upstream_status,
    }


def _blacked(data: bytes, framing: Framing | None, blackout: Blackout) -> bytes:
    """A body with its texts replaced, framed anew."""
    if framing is None:
        return _blacked_frame(data, blackout)
    decoder = framing.new_decoder(FRAME_MAX_BYTES)
    frames: list[bytes] = []
    end = b""
    try:
        frames += decoder.feed(data)
        frames += decoder.finish()
        end = framing.terminator if decoder.done else b""
    except FramingError:
        end = b"..."  # it was cut off or broken, and so is this
    return b"".join(framing.encode(_blacked_frame(frame, blackout)) for frame in frames) + end


def _blacked_frame(frame: bytes, blackout: Blackout) -> bytes:
    try:
        return orjson.dumps(blackout.value(orjson.loads(frame)))
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
        return b"x" * len(frame)  # no JSON either
