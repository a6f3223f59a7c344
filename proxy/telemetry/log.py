"""Log records on standard error, one line each, that no caller can forge or flood.

A value that a caller chose (a model's name, a path) may hold line breaks, terminal sequences or text that looks like
another field. Here every character that does not print is written as an escape, every field value that is not one plain
word is quoted, the fields stand before the message, and every part has a greatest length.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from typing import Final, Literal, TextIO

# Fields that most records have, in the order in which a reader looks for them; other fields follow by name.
FIELD_ORDER: Final = ("by", "request_id", "route", "model", "worker", "outcome", "seconds", "span")
# More fields than any record of the gateway has.
FIELDS_MAX: Final = 24
FORMATS: Final = ("text", "json")
# The name under which the handler finds its predecessor.
HANDLER: Final = "gateway"
LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_ORDERED: Final = frozenset(FIELD_ORDER)
_PLAIN: Final = re.compile(r"[\w.:/@+%,-]+", re.ASCII)
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def escape(text: str, limit: int) -> str:
    """The text, cut to `limit` characters (the rest is counted), each character that does not print as an escape."""
    more = len(text) - limit
    if more > 0:
        text = text[:limit]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _escaped(character) for character in text)
    return f"{text}...({more} more)" if more > 0 else text


def _escaped(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What was given as `extra`, without the empty values."""
    extra = {name: value for name, value in record.__dict__.items() if name not in _STANDARD and value is not None}
    names = [name for name in FIELD_ORDER if name in extra] + sorted(extra.keys() - _ORDERED)
    for name in names[:FIELDS_MAX]:
        yield name, extra[name]


class _Formatter(logging.Formatter):
    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self._second = -1
        self._told = ""

    def moment(self, record: logging.LogRecord) -> str:
        second, milliseconds = divmod(int(record.created * 1000), 1000)
        if second != self._second:  # a second has many records
            self._second, self._told = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._told}.{milliseconds:03d}Z"

    def trace(self, record: logging.LogRecord) -> str:
        """The traceback, if there is one; its last lines say the most, so a long one loses its beginning."""
        if not record.exc_info:
            return ""
        text = self.formatException(record.exc_info)
        return text if len(text) <= self.limit * 4 else f"...{text[-self.limit * 4 :]}"


class TextFormatter(_Formatter):
    """`TIME LEVEL LOGGER [field=value ...] message`, or `-` where there are no fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{name}={self._value(value)}" for name, value in _fields(record))
        message = escape(record.getMessage(), self.limit)
        trace = self.trace(record)
        tail = f" {escape(trace, len(trace))}" if trace else ""
        head = f"{self.moment(record)} {record.levelname} {record.name}"
        return f"{head} {f'[{fields}]' if fields else '-'} {message}{tail}"

    def _value(self, value: object) -> str:
        if isinstance(value, float):
            return f"{value:.6g}"
        text = str(value)
        if len(text) <= self.limit and _PLAIN.fullmatch(text):
            return text
        # The backslash too, or a value that ends in one would swallow the closing quote.
        quoted = text[: self.limit + 1].replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escape(quoted, self.limit)}"'


class JsonFormatter(_Formatter):
    """One JSON object in ASCII: time, level, logger, message, the fields, and `exception` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": self.moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": self._cut(record.getMessage()),
        }
        trace = self.trace(record)
        if trace:
            document["exception"] = trace
        for name, value in _fields(record):
            plain = isinstance(value, (bool, int, float))
            document.setdefault(name, value if plain else self._cut(str(value)))
        return json.dumps(document)

    def _cut(self, text: str) -> str:
        more = len(text) - self.limit
        return f"{text[: self.limit]}...({more} more)" if more > 0 else text


def configure_logging(
    level: str,
    format: Literal["text", "json"] = "text",  # noqa: A002  the name of the setting
    *,
    stream: TextIO | None = None,
    text_limit: int = 2_000,
) -> logging.Handler:
    """Send every record of at least `level` to `stream` (None: standard error); called again, it replaces itself.

    level: one of `LEVELS`, any case; text_limit: characters of a message and of each field value. ValueError otherwise.
    """
    if level.lower() not in LEVELS:
        raise ValueError(f"log level is {level!r}, expected one of {', '.join(LEVELS)}")
    if format not in FORMATS:
        raise ValueError(f"log format is {format!r}, expected one of {', '.join(FORMATS)}")
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.set_name(HANDLER)
    handler.setFormatter(TextFormatter(text_limit) if format == "text" else JsonFormatter(text_limit))
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.get_name() == HANDLER]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Nothing of this is written, and each record would look for it; see "Optimization" in the library's own manual.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    return handler
