"""Whole HTTP responses in a route's dialect."""

from __future__ import annotations

import orjson

from proxy.errors import GatewayError, Kind
from proxy.http import Response
from proxy.translate.answer import ClientAnswer
from proxy.translate.errors import error_answer
from proxy.translate.plan import Route
from proxy.types import Json

JSON = "application/json"


def json_response(status: int, body: Json, headers: dict[str, str] | None = None) -> Response:
    """A JSON body of any type, also a bare integer."""
    return Response(status, orjson.dumps(body), JSON, headers)


def answer_response(route: Route, answer: ClientAnswer) -> Response:
    """A route's answer. GatewayError where it holds what cannot be written, such as a value nested 255 deep."""
    try:
        return json_response(answer.status, answer.body, answer.headers)
    except orjson.JSONEncodeError as problem:
        kind: Kind = "invalid_request" if route.upstream is None else "upstream_protocol"
        raise GatewayError(kind, f"the answer cannot be written as JSON: {problem}") from None


def error_response(route: Route, error: GatewayError) -> Response:
    """An error before anything was sent, as this route's client expects it: a frame of its stream, or a body."""
    answer = error_answer(route.errors, error, as_frame=route.errors_as_frame)
    headers = {"WWW-Authenticate": "Bearer"} if error.kind == "unauthorized" else None
    if route.target is None or not route.errors_as_frame:
        return json_response(answer.status, answer.body, headers)
    framing = route.target.framing
    body = framing.encode(orjson.dumps(answer.body)) + framing.terminator
    return Response(answer.status, body, framing.content_type, headers)
