from __future__ import annotations

import pytest

from proxy.framing import FRAMINGS, FramingError
from tests.framing.feeding import assert_decodes, run

NUL = FRAMINGS["nul"]
NDJSON = FRAMINGS["ndjson"]


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (b"", []),
        (b'{"a":1}\0', [b'{"a":1}']),
        (b'{"a":1}\0{"a":2}\0', [b'{"a":1}', b'{"a":2}']),
        (b"\0", []),
        (b'\0\0{"a":1}\0\0\0{"a":2}\0\0', [b'{"a":1}', b'{"a":2}']),
        (b'{\r\n"a": 1\n}\0', [b'{\r\n"a": 1\n}']),
        (b" \0", [b" "]),
        ('{"a":"你好"}\0'.encode(), ['{"a":"你好"}'.encode()]),
    ],
)
def test_nul_frames_end_with_a_nul_byte_and_empty_ones_are_skipped(wire: bytes, frames: list[bytes]) -> None:
    """Each NUL closes a frame; a bare NUL is a keep-alive."""
    assert_decodes("nul", wire, frames)


@pytest.mark.parametrize("tail", [b"{", b'{"a":2}', b"\n", b" "])
def test_a_nul_stream_that_ends_without_nul_is_truncated(tail: bytes) -> None:
    """The frames before the unterminated one are kept, then the end is an error."""
    assert_decodes("nul", tail, [], error="truncated")
    assert_decodes("nul", b'{"a":1}\0' + tail, [b'{"a":1}'], error="truncated")


def test_a_truncated_nul_frame_is_named_with_its_number_and_length() -> None:
    """The message says which frame was cut, after how many bytes, and what was missing."""
    outcome = run("nul", [b"one\0\0two\0thr"])
    assert outcome.message == "nul frame 3 ends after 3 bytes, expected a NUL byte to close it"


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (b"", []),
        (b'{"a":1}\n', [b'{"a":1}']),
        (b'{"a":1}\n{"a":2}\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\r\n{"a":2}\r\n', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\n{"a":2}', [b'{"a":1}', b'{"a":2}']),
        (b'{"a":1}\r\n{"a":2}\r', [b'{"a":1}', b'{"a":2}']),
        (b'\n\r\n \t\n{"a":1}\n\n\r\n', [b'{"a":1}']),
        (b'{"a":1}\n   ', [b'{"a":1}']),
        (b"\r", []),
        (b'{"a":1}\r{"a":2}\n', [b'{"a":1}\r{"a":2}']),
        (b'{"a":1}\r\r\n', [b'{"a":1}\r']),
        (b' {"a":1} \n', [b' {"a":1} ']),
    ],
)
def test_ndjson_lines_end_with_lf_or_crlf_or_the_end_of_the_input(wire: bytes, frames: list[bytes]) -> None:
    """The last line needs no line feed, blank lines are skipped, and only one CR belongs to the line end."""
    assert_decodes("ndjson", wire, frames)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"", b"\r"])
def test_the_carriage_return_does_not_count_towards_the_limit_of_a_line(end: bytes) -> None:
    """A line of exactly the limit is a frame however it ends; one byte more is too large."""
    assert_decodes("ndjson", b"12345678" + end, [b"12345678"], limit=8)
    assert_decodes("ndjson", b"123456789" + end, [], error="too_large", limit=8)


@pytest.mark.parametrize("blanks", [9, 10, 100])
def test_a_blank_line_over_the_limit_is_too_large(blanks: int) -> None:
    """White space is bounded as everything else is, wherever the reads were cut."""
    assert_decodes("ndjson", b"one\n" + b" " * blanks + b"\n", [b"one"], error="too_large", limit=8)


def test_nul_encodes_a_payload_and_a_nul_byte() -> None:
    """An empty payload is the bare NUL that clients take for a keep-alive."""
    assert NUL.encode(b'{"a":1}') == b'{"a":1}\0'
    assert NUL.encode(b"") == b"\0"


def test_ndjson_encodes_a_payload_and_a_line_feed() -> None:
    """Each payload is one line."""
    assert NDJSON.encode(b'{"a":1}') == b'{"a":1}\n'


def test_a_payload_that_would_break_its_frame_is_refused() -> None:
    """A NUL in a nul payload and a line feed in an ndjson payload are malformed, and the message says where."""
    with pytest.raises(FramingError, match="nul payload has a NUL byte at offset 3, expected none") as nul:
        NUL.encode(b"abc\0d")
    with pytest.raises(FramingError, match="ndjson payload has a line feed at offset 1, expected none") as ndjson:
        NDJSON.encode(b"{\n}")
    assert (nul.value.kind, ndjson.value.kind) == ("malformed", "malformed")
