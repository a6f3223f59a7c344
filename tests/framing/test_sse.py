from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.framing import FRAMINGS, FramingError
from proxy.framing.sse import TERMINATOR
from tests.framing.feeding import assert_decodes, run

SSE = FRAMINGS["sse"]
BOM = b"\xef\xbb\xbf"
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize(
    ("lines", "frames"),
    [
        ([b'data: {"a":1}', b""], [b'{"a":1}']),
        ([b'data:{"a":1}', b""], [b'{"a":1}']),
        ([b"data:  x ", b""], [b" x "]),
        ([b"data: a", b"data: b", b"data:c", b""], [b"a\nb\nc"]),
        ([b"data", b""], [b""]),
        ([b"data:", b""], [b""]),
        ([b"data: ", b""], [b""]),
        ([b"data", b"data", b""], [b"\n"]),
        ([b"data: a", b"data", b"data:", b"data: b", b""], [b"a\n\n\nb"]),
        ([b": a comment", b""], []),
        ([b":", b"", b":data: x", b""], []),
        ([b"data: a", b": between", b"data: b", b""], [b"a\nb"]),
        ([b"event: message", b"id: 7", b"retry: 3000", b"data: a", b""], [b"a"]),
        ([b"data: a", b"event: done", b"id", b""], [b"a"]),
        ([b"event: ping", b""], []),
        ([b"data: a", b"", b"", b"", b"data: b", b""], [b"a", b"b"]),
        ([b"data: a: b", b""], [b"a: b"]),
        ([b"Data: x", b"DATA: x", b" data: x", b"data : x", b"database: x", b"dat: x", b"d", b""], []),
        ([b"data: a\0b", b""], [b"a\0b"]),
        ([b"data: \xff\xfe", b""], [b"\xff\xfe"]),
        ([b"data: " + BOM, b""], [BOM]),
        ([b"", b""], []),
    ],
)
def test_events_follow_the_standard_with_each_line_end(end: bytes, lines: list[bytes], frames: list[bytes]) -> None:
    """CR, LF and CR LF mean the same, also when a read ends between CR and LF."""
    assert_decodes("sse", b"".join(line + end for line in lines), frames)


def test_line_ends_may_be_mixed_in_one_stream() -> None:
    """LF CR is two line ends, CR LF is one."""
    assert_decodes(
        "sse", b"data: a\n\rdata: b\r\n\ndata: c\r\r\ndata: d\r\rdata: e\n\n", [b"a", b"b", b"c", b"d", b"e"]
    )


def test_a_cr_closes_a_line_without_waiting_for_the_next_read() -> None:
    """The event is given out at once, and an LF that comes later is not a second line end."""
    decoder = SSE.new_decoder(100)
    assert decoder.feed(b"data: a\r\n\r") == [b"a"]
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\ndata: b\r") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\r\n") == [b"b"]
    assert decoder.feed(b"data: c\r") == []
    assert decoder.feed(b"data: d\r\n") == []
    assert decoder.feed(b"\n") == [b"c\nd"]
    assert decoder.finish() == []


@pytest.mark.parametrize(
    ("wire", "frames"),
    [
        (BOM + b"data: a\n\n", [b"a"]),
        (BOM + b"\n\ndata: a\n\n", [b"a"]),
        (BOM + BOM + b"data: a\n\n", []),
        (b"\n" + BOM + b"data: a\n\n", []),
        (b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n", [b"a", b"c"]),
        (b"\xef\xbbdata: a\n\ndata: b\n\n", [b"b"]),
        (BOM, []),
    ],
)
def test_one_byte_order_mark_is_taken_off_the_start_only(wire: bytes, frames: list[bytes]) -> None:
    """Anywhere else its bytes are part of a line."""
    assert_decodes("sse", wire, frames)


@pytest.mark.parametrize("rest", [b"", b"data: more\n\n", b"data: open", b"data: " + b"x" * 200 + b"\n\n", b"\xff\0"])
def test_everything_after_done_is_ignored(rest: bytes) -> None:
    """`[DONE]` sets done and is no frame; what follows it is neither a frame nor an error."""
    assert_decodes("sse", b"data: a\n\ndata: [DONE]\n\n" + rest, [b"a"], done=True, limit=100)
    assert_decodes("sse", b"data:[DONE]\r\n\r\n" + rest, [], done=True, limit=100)


@pytest.mark.parametrize("data", [b"data: [DONE] ", b"data:  [DONE]", b"data: [done]", b"data: [DONE]\ndata: x"])
def test_only_the_exact_mark_ends_a_stream(data: bytes) -> None:
    """An event whose data is something else is a frame."""
    outcome = run("sse", [data + b"\n\ndata: b\n\n"])
    assert outcome.done is False
    assert outcome.frames[1:] == [b"b"]


@pytest.mark.parametrize(
    "tail",
    [
        b"data: b",
        b"data: b\n",
        b"data: b\r",
        b"d",
        b"dat",
        b"event: x",
        b"event: x\n",
        b"data: b\n: comment\n",
        b"\xef",
    ],
)
def test_an_event_that_no_blank_line_closes_is_truncated(tail: bytes) -> None:
    """The events before it are kept; it is not given out."""
    assert_decodes("sse", tail, [], error="truncated")
    assert_decodes("sse", b"data: a\n\n" + tail, [b"a"], error="truncated")
    assert run("sse", [tail]).message == "sse frame 1 is not closed, expected a blank line after it"


@pytest.mark.parametrize("tail", [b": bye", b": bye\n", b":", b"\n", b"\r"])
def test_a_comment_at_the_end_is_not_an_event(tail: bytes) -> None:
    """Nothing is lost with it, so the stream is whole."""
    assert_decodes("sse", b"data: a\n\n" + tail, [b"a"])


@pytest.mark.parametrize("prefix", [b"data: ", b"data:"])
def test_the_limit_is_on_the_data_of_an_event(prefix: bytes) -> None:
    """Field names and the lines that are ignored do not count; the line feeds that join the values do."""
    assert_decodes("sse", prefix + b"12345678\n\n", [b"12345678"], limit=8)
    assert_decodes("sse", prefix + b"123456789\n\n", [], error="too_large", limit=8)
    assert_decodes("sse", prefix + b"123\n" + prefix + b"5678\nid: 0123456789\n\n", [b"123\n5678"], limit=8)
    assert_decodes("sse", prefix + b"123\n" + prefix + b"56789\n\n", [], error="too_large", limit=8)
    assert_decodes("sse", b": " + b"x" * 100 + b"\nevent: " + b"y" * 100 + b"\ndata: a\n\n", [b"a"], limit=8)


def test_many_small_data_lines_are_one_frame_that_is_bounded() -> None:
    """The data adds up over the lines of one event, and starts again with the next event."""
    lines = b"data: x\n" * 4 + b"\n"
    assert_decodes("sse", lines * 3, [b"x\nx\nx\nx"] * 3, limit=7)
    assert_decodes("sse", lines + b"data: x\n" * 5 + b"\n", [b"x\nx\nx\nx"], error="too_large", limit=7)
    assert_decodes("sse", b"data\n" * 9 + b"\n", [b"\n" * 8], limit=8)
    assert_decodes("sse", b"data\n" * 10 + b"\n", [], error="too_large", limit=8)


def by_the_standard(wire: bytes) -> tuple[list[bytes], bool]:
    """Events and the done mark, read off the standard's own steps, on the whole input at once."""
    frames: list[bytes] = []
    data = b""
    lines = re.split(rb"\r\n|\r|\n", wire.removeprefix(BOM))
    for line in lines[:-1]:
        field, _, value = line.partition(b":")
        if not line and data == b"[DONE]\n":
            return frames, True
        if not line and data:
            frames.append(data[:-1])
        if not line:
            data = b""
        elif field == b"data":
            data += value.removeprefix(b" ") + b"\n"
    return frames, False


FRAGMENTS = [b"data", b"data:", b":", b" ", b"\n", b"\n\n", b"\r", b"\r\n", b"x", b"[DONE]", BOM, b"id: 1"]
FRAGMENTS += [b"data: ", b"data: x", b"data: x\n\n", b"data: x\r\r"]
READS = st.lists(st.lists(st.sampled_from(FRAGMENTS), max_size=4).map(b"".join), max_size=15)


@settings(deadline=None, max_examples=300)
@given(READS)
def test_any_text_is_read_as_the_standard_says(reads: list[bytes]) -> None:
    """The events of any stream, in any reads, equal those of the standard's steps, done literally."""
    outcome = run("sse", reads)
    assert (outcome.frames, outcome.done) == by_the_standard(b"".join(reads))


@pytest.mark.parametrize(
    ("reads", "frames"),
    [
        ([b"data: a\n\n", b"data: b\r\r", b"data: c", b"\n\n"], [b"a", b"b", b"c"]),
        ([b"data: a\n\n", b"data: b\r\r", b"\ndata: c", b"\n\n"], [b"a", b"b", b"c"]),
        ([b"data: a\ndata: b\r\r", b"data: c", b"\n\n"], [b"a\nb", b"c"]),
        ([b"data: a", b"data: b\n\n"], [b"adata: b"]),
        ([b"data: a\n", b"data: b\n\n"], [b"a\nb"]),
        ([b"event: a", b"data: b\n\n"], []),
        ([b": a", b"data: b\n\n"], []),
        ([b"", b"data: b\n\n"], [b"b"]),
        ([b"\xef", b"data: b\n\n", b"data: c\n\n"], [b"c"]),
    ],
)
def test_a_read_that_looks_like_a_whole_event_goes_on_where_the_last_one_ended(
    reads: list[bytes], frames: list[bytes]
) -> None:
    """The short way for the usual read is taken only between two events."""
    outcome = run("sse", reads)
    assert (outcome.frames, outcome.error) == (frames, None)


def test_pending_counts_the_lines_of_an_open_event() -> None:
    """Whole lines of an event that is not closed are held as much as a line that is cut."""
    decoder = SSE.new_decoder(100)
    assert decoder.feed(b"data: 12345\ndata: 678") == []
    assert decoder.pending == len(b"12345\n") + len(b"data: 678")
    assert decoder.feed(b"9\n\n") == [b"12345\n6789"]
    assert decoder.pending == 0


@pytest.mark.parametrize(
    ("payload", "wire"),
    [
        (b'{"a":1}', b'data: {"a":1}\n\n'),
        (b"", b"data: \n\n"),
        (b" x", b"data:  x\n\n"),
        (b"a\nb", b"data: a\ndata: b\n\n"),
        (b"a\n", b"data: a\ndata: \n\n"),
        (b"\n\n", b"data: \ndata: \ndata: \n\n"),
        (b"a\rb\r\nc\n\rd\r", b"data: a\ndata: b\ndata: c\ndata: \ndata: d\ndata: \n\n"),
    ],
)
def test_each_line_of_a_payload_becomes_a_data_line(payload: bytes, wire: bytes) -> None:
    """A payload with line ends stays one event, whichever line ends they are."""
    assert SSE.encode(payload) == wire


def test_a_payload_that_would_end_the_stream_is_refused() -> None:
    """Only the terminator ends a stream, never a payload that happens to look like it."""
    with pytest.raises(FramingError, match=r"sse payload is \[DONE\], the mark that ends a stream") as error:
        SSE.encode(b"[DONE]")
    assert error.value.kind == "malformed"


def test_the_terminator_ends_a_stream() -> None:
    """What the gateway sends last is what a decoder takes for the end."""
    assert SSE.terminator == TERMINATOR
    assert_decodes("sse", SSE.encode(b"a") + SSE.terminator, [b"a"], done=True)
