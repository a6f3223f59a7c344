"""Runs a decoder over bytes cut in many ways, and checks that the cuts make no difference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.framing import FRAMINGS, Decoder, FramingError, FramingErrorKind

ROOMY = 1 << 16
SLACK = 6  # bytes of framing that `pending` may count beside the payload, as Decoder promises


class Outcome(NamedTuple):
    """All that one body gives: its payloads, how it ended, and the message of its error (empty: none)."""

    frames: list[bytes]
    error: FramingErrorKind | None
    done: bool
    message: str = ""


def cut(wire: bytes, places: Iterable[int]) -> list[bytes]:
    """`wire` in pieces; the places are taken modulo its length, and equal ones give empty pieces."""
    bounds = [0, *sorted(place % (len(wire) + 1) for place in places), len(wire)]
    return [wire[start:end] for start, end in pairwise(bounds)]


def run(name: str, pieces: Iterable[bytes], limit: int = ROOMY) -> Outcome:
    """Feed `pieces` to a new decoder and finish it, checking the promises that hold for all input on the way."""
    decoder = FRAMINGS[name].new_decoder(limit)
    frames: list[bytes] = []
    try:
        for piece in pieces:
            frames += decoder.feed(piece)
            assert decoder.pending <= limit + SLACK
        frames += decoder.finish()
    except FramingError as error:
        _assert_stays_failed(decoder, error)
        return Outcome(frames, error.kind, decoder.done, str(error))
    assert decoder.pending == 0 or decoder.done
    return Outcome(frames, None, decoder.done)


def _assert_stays_failed(decoder: Decoder, error: FramingError) -> None:
    assert decoder.pending == 0, "a failed decoder holds bytes"
    further: list[Callable[[], list[bytes]]] = [
        lambda: decoder.feed(b"x\n\n\0"),
        lambda: decoder.feed(b""),
        decoder.finish,
    ]
    for call in further:
        with pytest.raises(FramingError) as again:
            call()
        assert (again.value.kind, str(again.value)) == (error.kind, str(error))


def assert_decodes(
    name: str,
    wire: bytes,
    frames: list[bytes],
    *,
    error: FramingErrorKind | None = None,
    done: bool = False,
    limit: int = ROOMY,
) -> None:
    """Assert what `wire` decodes to: whole, byte by byte, and at cuts that hypothesis chooses."""
    whole = run(name, [wire], limit)
    assert whole[:3] == (frames, error, done)
    assert run(name, [wire[i : i + 1] for i in range(len(wire))], limit) == whole

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, len(wire)), max_size=6))
    def at_any_cuts(places: list[int]) -> None:
        assert run(name, cut(wire, places), limit) == whole

    at_any_cuts()
