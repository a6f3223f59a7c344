"""An error in the caller's dialect: as a whole answer or as a frame of a stream."""

from __future__ import annotations

from typing import NamedTuple

from proxy.errors import GatewayError
from proxy.limits import ERROR_TEXT_MAX
from proxy.translate.mapping import OMIT, Value
from proxy.translate.plan import ErrorTable
from proxy.types import Json, JsonObject


class ErrorAnswer(NamedTuple):
    """An error that is a whole answer: HTTP status and JSON body."""

    status: int
    body: Json


def error_answer(table: ErrorTable, error: GatewayError, *, as_frame: bool = False) -> ErrorAnswer:
    """The error as a whole answer.

    as_frame: for a route whose client expects the shape and the status of its stream's frames.
    """
    if as_frame and table.frame is not None and table.stream_status is not None:
        return ErrorAnswer(table.stream_status, _render(table, table.frame, error, ""))
    return ErrorAnswer(table.entry(error.kind).status, _render(table, table.body, error, ""))


def error_frame(table: ErrorTable, error: GatewayError, text: str) -> Json:
    """The error as a frame of a stream in which the client already has `text`; falls back to the body's shape."""
    return _render(table, table.frame or table.body, error, text)


def _render(table: ErrorTable, mapping: Value, error: GatewayError, text: str) -> Json:
    described: JsonObject = {
        "kind": error.kind,
        "message": error.message[:ERROR_TEXT_MAX],
        "field": error.field,
        "code": table.entry(error.kind).code,
        "status": table.entry(error.kind).status,
        "upstream_code": error.upstream_code,
    }
    body = mapping({"error": described, "text": text})
    return None if body is OMIT else body
