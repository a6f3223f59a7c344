from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.accept import preferred

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", SSE),
        ("*/*", SSE),
        ("text/event-stream", SSE),
        ("application/x-ndjson", NDJSON),
        ("Application/X-NDJSON", NDJSON),
        ("application/x-ndjson, text/event-stream", SSE),
        ("application/x-ndjson, */*", SSE),
        ("application/x-ndjson, */*;q=0.1", NDJSON),
        ("text/event-stream;q=0.5, application/x-ndjson", NDJSON),
        ("text/event-stream; q=0.5, application/x-ndjson; q=0.4", SSE),
        ("application/*", NDJSON),
        ("application/*, application/x-ndjson;q=0.1, text/*;q=0.2", SSE),
        ("text/event-stream;q=0, */*", NDJSON),
        ("application/json", SSE),
        ("application/json, text/plain, */*", SSE),
        ("application/json;q=0.9, application/x-ndjson;q=0", SSE),
        ("application/x-ndjson;charset=utf-8;q=1", NDJSON),
        ("application/x-ndjson;q=high", SSE),
        ("application/x-ndjson;q=nan, text/event-stream", SSE),
        ("ndjson, ,;q=1", SSE),
    ],
)
def test_the_framing_that_a_client_wants(accept: str, chosen: str) -> None:
    """The better quality, the first of equals, and the first where none is accepted."""
    assert (SSE, NDJSON)[preferred(accept, (SSE, NDJSON))] == chosen


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.text("*/aq=;,.01 ", max_size=60)))
def test_any_header_has_an_answer(accept: str) -> None:
    """However broken it is."""
    assert preferred(accept, (SSE, NDJSON)) in (0, 1)
