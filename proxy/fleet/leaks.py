"""Slots of a worker that are held by nobody known."""

from __future__ import annotations

from typing import Final

# A client that was handed the address may stream there for so long; nobody tells when it has ended.
_LENT_SECONDS: Final = 3_600.0


class LeakWatch:
    """Looks at one worker's own queue length while the gateway has nothing there.

    Where each status for long enough names requests, the least of those numbers are `slots` that are lost, until a
    status names fewer: there are workers that keep a slot for ever when a call ends in certain errors. While its
    address is lent to a client that goes there by itself, what it holds may be that client's.
    """

    __slots__ = ("_least", "_lent", "_since", "slots")

    def __init__(self) -> None:
        self.slots = 0
        self._since: float | None = None
        self._least = 0
        self._lent: float | None = None  # since when

    def status(self, queue_length: int, now: float, seconds: float, *, idle: bool) -> None:
        """The worker said how many requests it holds. idle: the gateway has none of them."""
        if queue_length < self.slots:
            self.slots = 0
            self._since = None
        if self._lent is not None and self._is_back(queue_length, now, seconds):
            self._lent = None
        if not idle or queue_length <= 0 or self._lent is not None:
            self._since = None
        elif self._since is None:
            self._since, self._least = now, queue_length
        else:
            self._least = min(self._least, queue_length)
            if now - self._since >= seconds:
                self.slots = max(self.slots, self._least)

    def touched(self) -> None:
        """Something went to the worker or ended there, so what it holds may be that."""
        self._since = None

    def lent(self, now: float) -> None:
        """A client was told to go there."""
        self._since, self._lent = None, now

    def _is_back(self, queue_length: int, now: float, seconds: float) -> bool:
        """Whether no client is there any more; a worker without requests may also wait for one to arrive."""
        away = now - (self._lent or 0.0)
        return away >= _LENT_SECONDS or (queue_length <= 0 and away >= seconds)

    def reset(self) -> None:
        """The worker is another one."""
        self.slots = 0
        self._since = self._lent = None


def leak_sentence(address: str, slots: int, seconds: float) -> str:
    """What is wrong and what to do; "" where no slot is lost."""
    if not slots:
        return ""
    what = "1 request" if slots == 1 else f"{slots} requests"
    return (
        f"worker {address} holds {what} though it got none from here for {seconds:g} s: "
        f"restart it to free the {'slot' if slots == 1 else 'slots'}, unless other clients use it"
    )
