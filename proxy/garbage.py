"""The garbage collector while the program starts: what is made then stays, and looking through it takes its time."""

from __future__ import annotations

import gc
from typing import Final

# The first is how many more objects there are before the youngest are looked through. With Python's own (700) a tenth
# of the program's time went there; what a request leaves behind has hardly any cycles.
_THRESHOLDS: Final = (20_000, 10, 10)


def rest() -> None:
    """No collections for now."""
    gc.disable()


def work() -> None:
    """Collections from now on, of what is made from now on: what is there needs no look, then or ever again.

    Rules and settings of the start that a reload replaces are let go all the same, but for the cycles among them.
    """
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    gc.enable()
