"""What holds for every framing of the table."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.framing import FRAMINGS, FramingError
from tests.framing.feeding import ROOMY, assert_decodes, cut, run

every_framing = pytest.mark.parametrize("name", sorted(FRAMINGS))
streams = pytest.mark.parametrize("name", sorted(set(FRAMINGS) - {"json"}))

# Random bytes alone would hardly ever hit a rule.
WIRE = st.lists(
    st.binary(max_size=12)
    | st.sampled_from(
        [b"\0", b"\n", b"\r", b"\r\n", b"\n\n", b"data: ", b"data", b":", b"\xef\xbb\xbf", b" ", b"[DONE]"]
    ),
    max_size=30,
).map(b"".join)
CUTS = st.lists(st.integers(0, 1000), max_size=12)
LIMITS = st.sampled_from([1, 2, 6, 7, 8, 20, ROOMY])

# All line ends as LF, nothing at the edges that ndjson takes for white space, and not the mark that ends an SSE stream.
PAYLOADS = st.binary(min_size=1, max_size=60).filter(
    lambda payload: payload != b"[DONE]" and not re.search(rb"[\0\r\n]", payload) and not payload.isspace()
)


def test_the_table_names_each_framing_as_it_names_itself() -> None:
    """A rule's `framing:` takes one of four names."""
    assert sorted(FRAMINGS) == ["json", "ndjson", "nul", "sse"]
    assert all(name == framing.name for name, framing in FRAMINGS.items())


@every_framing
@settings(deadline=None)
@given(wire=WIRE, cuts=CUTS, limit=LIMITS)
@example(wire=b"x" * 8 + b"\r\n\r\n\0", cuts=[9, 10, 11], limit=8)
def test_arbitrary_bytes_give_frames_or_a_framing_error_at_any_split(
    name: str, wire: bytes, cuts: list[int], limit: int
) -> None:
    """Frames, error, message and done mark depend on the bytes alone, nothing else is raised, and memory is bounded."""
    whole = run(name, [wire], limit)
    assert run(name, cut(wire, cuts), limit) == whole
    assert run(name, [wire[i : i + 1] for i in range(len(wire))], limit) == whole
    assert whole.error in (None, "too_large", "truncated")
    assert all(len(frame) <= limit for frame in whole.frames)


@streams
@settings(deadline=None)
@given(payloads=st.lists(PAYLOADS, max_size=8), cuts=CUTS)
def test_encoded_payloads_decode_to_themselves_at_any_split(name: str, payloads: list[bytes], cuts: list[int]) -> None:
    """What the gateway writes it also reads, payload for payload."""
    framing = FRAMINGS[name]
    wire = b"".join(map(framing.encode, payloads)) + framing.terminator
    outcome = run(name, cut(wire, cuts))
    assert (outcome.frames, outcome.error, outcome.done) == (payloads, None, bool(framing.terminator))


@settings(deadline=None)
@given(payload=st.binary(max_size=60))
@example(payload=b"[DONE]")
def test_what_an_encoder_accepts_is_one_frame(payload: bytes) -> None:
    """A payload is refused, or comes back; never cut, joined with the next, or changed but for SSE line ends."""
    for name in ("nul", "ndjson", "sse"):
        try:
            wire = FRAMINGS[name].encode(payload)
        except FramingError as error:
            assert error.kind == "malformed"  # noqa: PT017 - the encoder may also accept
            continue
        expected = {
            "nul": payload,
            "ndjson": b"" if payload.isspace() else payload.removesuffix(b"\r"),
            "sse": re.sub(rb"\r\n?", b"\n", payload),
        }[name]
        outcome = run(name, [wire + FRAMINGS[name].encode(b"next")])
        assert outcome.frames == ([expected] if expected or name == "sse" else []) + [b"next"]


@settings(deadline=None)
@given(body=st.binary(min_size=1, max_size=60), cuts=CUTS)
def test_a_whole_body_decodes_to_itself_at_any_split(body: bytes, cuts: list[int]) -> None:
    """The one frame of `json` is the body, whatever its bytes."""
    assert run("json", cut(FRAMINGS["json"].encode(body), cuts)).frames == [body]


@every_framing
def test_a_payload_of_exactly_the_limit_passes_and_one_byte_more_does_not(name: str) -> None:
    """The limit counts payload bytes, the same in every framing."""
    encode = FRAMINGS[name].encode
    assert_decodes(name, encode(b"x" * 50), [b"x" * 50], limit=50)
    assert_decodes(name, encode(b"x" * 51), [], error="too_large", limit=50)
    assert run(name, [encode(b"x" * 51)], 50).message == f"{name} frame 1 is over the limit of 50 bytes"


@streams
def test_frames_before_an_oversized_one_are_given_out_first(name: str) -> None:
    """They come out of the read that completed them; the next call tells the error, and so does every later one."""
    encode = FRAMINGS[name].encode
    decoder = FRAMINGS[name].new_decoder(50)
    assert decoder.feed(encode(b"one") + encode(b"two") + encode(b"x" * 51) + encode(b"four")) == [b"one", b"two"]
    assert decoder.pending == 0
    for _ in range(3):
        with pytest.raises(FramingError, match=f"{name} frame 3 is over the limit of 50 bytes"):
            decoder.feed(encode(b"five"))
    with pytest.raises(FramingError) as error:
        decoder.finish()
    assert error.value.kind == "too_large"
    assert len(error.traceback) < 6, "the error remembers every earlier raise"


@every_framing
def test_a_limit_below_one_byte_is_refused(name: str) -> None:
    """A decoder that could accept nothing is a mistake in the settings."""
    with pytest.raises(ValueError, match=f"{name} decoder: the frame limit is 0 bytes, expected at least 1"):
        FRAMINGS[name].new_decoder(0)
