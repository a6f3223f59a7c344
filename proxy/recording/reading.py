"""A recording read from its file, line by line; what is wrong with it is told with its line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import orjson
from pydantic import ValidationError

from proxy.limits import RECORDING_LINE_MAX_BYTES, RECORDING_REQUESTS_MAX
from proxy.recording.lines import VERSION, End, Head, Recorded, Strict
from proxy.types import Json

Line = TypeVar("Line", bound=Strict)


class RecordingError(ValueError):
    """The file is no recording; one sentence that begins with its name and the line."""


class Numbered(NamedTuple):
    """A request with its line in the file, from 1, and how many bytes of the file had been read after it."""

    line: int
    read: int
    request: Recorded


class Recording:
    """A recording that is read once. end: its last line, once that was read; None for one that was cut off."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.end: End | None = None
        self._stream: BinaryIO = file.open("rb")
        try:
            self.size = file.stat().st_size
            self.head = self._head()
        except BaseException:
            self._stream.close()
            raise

    def requests(self) -> Iterator[Numbered]:
        """Each request. RecordingError at the first line that is none."""
        with self._stream:
            number = 1
            while raw := self._line(number + 1):
                number += 1
                if self.end is not None:
                    raise self._wrong(number, "a line behind the end of the recording")
                if number > RECORDING_REQUESTS_MAX + 2:
                    raise self._wrong(number, f"more than {RECORDING_REQUESTS_MAX} requests")
                document = self._document(number, raw)
                if isinstance(document, dict) and "ended" in document:
                    self.end = self._as(End, number, document)
                else:
                    yield Numbered(number, self._stream.tell(), self._as(Recorded, number, document))

    def _head(self) -> Head:
        raw = self._line(1)
        if not raw:
            raise self._wrong(1, "the file is empty; expected a recording")
        document = self._document(1, raw)
        version = document.get("recording") if isinstance(document, dict) else None
        if version is None:
            raise self._wrong(1, "this is no recording: its first line has no key 'recording'")
        if version != VERSION:
            raise self._wrong(1, f"a recording of version {str(version)[:20]}; this program reads version {VERSION}")
        return self._as(Head, 1, document)

    def _line(self, number: int) -> bytes:
        raw = self._stream.readline(RECORDING_LINE_MAX_BYTES + 1)
        if len(raw) > RECORDING_LINE_MAX_BYTES:
            raise self._wrong(number, f"longer than {RECORDING_LINE_MAX_BYTES} bytes")
        return raw

    def _document(self, number: int, raw: bytes) -> Json:
        try:
            document: Json = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise self._wrong(number, f"not JSON: {error}") from None
        return document

    def _as(self, model: type[Line], number: int, document: Json) -> Line:
        try:
            return model.model_validate(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise self._wrong(number, f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
        except RecursionError:
            raise self._wrong(number, "nested too deep") from None

    def _wrong(self, number: int, problem: str) -> RecordingError:
        return RecordingError(f"{self.file}:{number}: {problem}")
