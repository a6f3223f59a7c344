"""How much work and memory decoding takes: counted, not timed."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, SupportsIndex

import pytest

from proxy.framing import FRAMINGS, FramingError, buffer, sse

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

KIB = 1 << 10
MIB = 1 << 20

every_framing = pytest.mark.parametrize("name", sorted(FRAMINGS))
streams = pytest.mark.parametrize("name", ["ndjson", "nul", "sse"])


class Work:
    """Bytes looked at and bytes copied by the methods and operators of `bytes` and `bytearray`."""

    searched = 0
    copied = 0

    def found(self, length: int, start: SupportsIndex | None, place: int) -> int:
        begin = int(start or 0)
        self.searched += (length if place < 0 else place + 1) - begin
        return place


def counting_bytes(work: Work) -> type[bytes]:
    """A `bytes` that adds to `work`, and whose parts and sums do so too."""

    class CountingBytes(bytes):
        def find(
            self,
            sub: ReadableBuffer | SupportsIndex,
            start: SupportsIndex | None = None,
            end: SupportsIndex | None = None,
            /,
        ) -> int:
            return work.found(len(self), start, bytes.find(self, sub, start, end))

        def split(self, sep: ReadableBuffer | None = None, maxsplit: SupportsIndex = -1) -> list[bytes]:
            work.searched += len(self)
            return [CountingBytes(part) for part in bytes.split(self, sep, maxsplit)]

        def __contains__(self, key: SupportsIndex | ReadableBuffer, /) -> bool:  # type: ignore[override]
            work.searched += len(self)
            return bytes.__contains__(self, key)

        def __getitem__(self, key: SupportsIndex | slice, /) -> int | bytes:  # type: ignore[override]
            if not isinstance(key, slice):
                return bytes.__getitem__(self, key)
            part = CountingBytes(bytes.__getitem__(self, key))
            work.copied += len(part)
            return part

        def __add__(self, other: ReadableBuffer, /) -> bytes:
            both = CountingBytes(bytes.__add__(self, other))
            work.copied += len(both)
            return both

        def __radd__(self, other: bytes) -> bytes:
            both = CountingBytes(bytes(other) + bytes(self))
            work.copied += len(both)
            return both

    return CountingBytes


def counting_bytearray(work: Work) -> type[bytearray]:
    """A `bytearray` that adds to `work` what is searched in it, put into it and taken out of it."""

    class CountingBytearray(bytearray):
        def find(
            self,
            sub: ReadableBuffer | SupportsIndex,
            start: SupportsIndex | None = None,
            end: SupportsIndex | None = None,
            /,
        ) -> int:
            return work.found(len(self), start, bytearray.find(self, sub, start, end))

        def split(self, sep: ReadableBuffer | None = None, maxsplit: SupportsIndex = -1) -> list[bytearray]:
            work.searched += len(self)
            return bytearray.split(self, sep, maxsplit)

        def __contains__(self, key: SupportsIndex | ReadableBuffer, /) -> bool:  # type: ignore[override]
            work.searched += len(self)
            return bytearray.__contains__(self, key)

        def __iadd__(self, value: ReadableBuffer, /) -> CountingBytearray:  # type: ignore[override]
            work.copied += memoryview(value).nbytes
            bytearray.__iadd__(self, value)
            return self

        def __bytes__(self) -> bytes:
            work.copied += len(self)
            return memoryview(self).tobytes()

    return CountingBytearray


Decode = Callable[[str, bytes, int], list[bytes]]


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def decode(work: Work, monkeypatch: pytest.MonkeyPatch) -> Decode:
    """Decodes a wire in reads of a given size, and counts into `work`."""
    for module in (buffer, sse):
        monkeypatch.setattr(module, "bytearray", counting_bytearray(work), raising=False)
    read_type = counting_bytes(work)

    def run(name: str, wire: bytes, read_size: int) -> list[bytes]:
        decoder = FRAMINGS[name].new_decoder(8 * MIB)
        frames: list[bytes] = []
        for start in range(0, len(wire), read_size):
            frames += decoder.feed(read_type(wire[start : start + read_size]))
        return frames + decoder.finish()

    return run


@every_framing
def test_a_frame_in_many_reads_takes_work_in_proportion_to_its_length(name: str, work: Work, decode: Decode) -> None:
    """Each byte of 4 MiB in reads of 1 KiB is searched once for each delimiter byte, and copied a few times."""
    payload = b"x" * (4 * MIB)
    wire = FRAMINGS[name].encode(payload)
    assert decode(name, wire, KIB) == [payload]
    delimiters = {"json": 0, "nul": 1, "ndjson": 1, "sse": 2}[name]
    assert delimiters * (len(wire) - KIB) <= work.searched <= delimiters * len(wire)
    assert len(payload) <= work.copied <= 6 * len(wire)


@streams
@pytest.mark.parametrize("read_size", [KIB, MIB])
def test_many_frames_take_work_in_proportion_to_their_bytes(
    name: str, read_size: int, work: Work, decode: Decode
) -> None:
    """The frames of one read cost no more than as many reads: nothing before a frame is looked at or moved again."""
    payload = b"x" * 20
    wire = FRAMINGS[name].encode(payload) * (MIB // 30)
    assert decode(name, wire, read_size) == [payload] * (MIB // 30)
    assert work.searched <= 2 * len(wire)
    assert work.copied <= 5 * len(wire)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_an_event_of_many_lines_takes_work_in_proportion_to_its_bytes(
    line_end: bytes, work: Work, decode: Decode
) -> None:
    """A line costs the same as the first of an event and as its last."""
    count = MIB // 16
    assert decode("sse", (b"data: xy" + line_end) * count + line_end, KIB) == [b"\n".join([b"xy"] * count)]
    assert work.searched <= 5 * 10 * count
    assert work.copied <= 5 * 10 * count


@contextmanager
def bytes_in_use() -> Iterator[Callable[[], int]]:
    """Gives a function that tells how many bytes are in use that framing or these tests asked for since the start:
    what threads and libraries keep beside them is not counted.
    """
    own = tracemalloc.Filter(inclusive=True, filename_pattern="*/framing/*")

    def used() -> int:
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([own]).traces)

    tracemalloc.start()
    try:
        yield used
    finally:
        tracemalloc.stop()


@every_framing
def test_a_frame_in_tiny_reads_is_held_in_about_its_own_size(name: str) -> None:
    """Reads of two bytes do not cost an object each."""
    limit = 64 * KIB
    wire = FRAMINGS[name].encode(b"x" * limit)[: limit - 2]
    with bytes_in_use() as used:
        decoder = FRAMINGS[name].new_decoder(limit)
        for start in range(0, len(wire), 2):
            decoder.feed(wire[start : start + 2])
        assert decoder.pending == len(wire)
        assert limit - 2 <= used() < 2 * limit


def test_an_event_of_many_small_lines_is_held_in_about_its_own_size() -> None:
    """Lines of two bytes do not cost an object each, up to the read that breaks the limit."""
    limit = 64 * KIB
    lines = b"data: xy\n" * 1000
    with bytes_in_use() as used:
        decoder = FRAMINGS["sse"].new_decoder(limit)
        for _ in range(limit // 3000):
            assert decoder.feed(lines) == []
            assert used() < 2 * limit
        with pytest.raises(FramingError, match="over the limit"):
            decoder.feed(lines)
        assert used() < 8 * KIB


@every_framing
def test_one_huge_read_over_the_limit_leaves_nothing_behind(name: str) -> None:
    """A read far over the limit is refused at once, without a copy of it, and what was held is let go."""
    limit = 64 * KIB
    wire = FRAMINGS[name].encode(b"x" * (8 * MIB))[:-2]
    with bytes_in_use() as used:
        decoder = FRAMINGS[name].new_decoder(limit)
        decoder.feed(wire[: limit // 2])
        with pytest.raises(FramingError, match=f"{name} frame 1 is over the limit of {limit} bytes"):
            decoder.feed(wire)
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
        assert decoder.pending == 0
        assert used() < 8 * KIB


def test_ignored_lines_are_not_held() -> None:
    """A comment or an unknown field of any length takes no memory while it arrives."""
    decoder = FRAMINGS["sse"].new_decoder(KIB)
    for line in (b": ", b"event: ", b"data-of-mine: "):
        decoder.feed(line)
        for _ in range(10):
            assert decoder.feed(b"x" * KIB) == []
            assert decoder.pending == 0
        assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: a\n\n") == [b"a"]
