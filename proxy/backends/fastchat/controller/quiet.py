"""Saying the same thing once a minute, whoever provokes it how often."""

from __future__ import annotations

from collections.abc import Callable, Hashable


class Quiet:
    """Whether it is time to say something about a subject again. most: subjects remembered; the oldest go first."""

    def __init__(self, clock: Callable[[], float], *, seconds: float = 60.0, most: int = 1_000) -> None:
        self._clock, self._seconds, self._most = clock, seconds, most
        self._said: dict[Hashable, float] = {}

    def may_say(self, *subject: Hashable) -> bool:
        """True at most once in `seconds` for each subject."""
        now = self._clock()
        said = self._said.get(subject)
        if said is not None and now - said < self._seconds:
            return False
        self._said.pop(subject, None)
        if len(self._said) >= self._most:
            del self._said[next(iter(self._said))]
        self._said[subject] = now
        return True
