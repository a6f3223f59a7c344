"""How long each chunk was under way: from the worker's write to the client's read, both on the machine's one clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.streams import Progress


def chunk_delays(progress: Progress, sent: Sequence[int]) -> list[float]:
    """Seconds from the moment each chunk was written (`sent`, in microseconds) to the moment it had come.

    The last chunk, which adds no text and ends the stream, is left out: dialects end in different ways. A chunk of
    which nobody knows when it was sent is left out too. progress: in seconds of the same clock.
    """
    known = len(sent) - 1
    delays: list[float] = []
    done = 0
    for now, count in progress:
        delays += [now - sent[index] / 1e6 for index in range(done, min(count, known))]
        done = max(done, count)
    return delays


def all_delays(progress: Mapping[str, Progress], sent: Mapping[str, Sequence[int]]) -> list[float]:
    """The delays of every stream, both sides by its number."""
    return [delay for number, of in progress.items() for delay in chunk_delays(of, sent.get(number, ()))]
