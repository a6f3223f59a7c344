"""What one rendering of a chat template may still spend, in work and in characters."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Sized, ValuesView
from typing import cast

from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import Namespace

METER = "(meter)"
"""Key of the meter in a template's context. No template can write this name."""
CHARS_PER_UNIT = 16


class LimitError(Exception):
    """A template asked for more work or memory than it may have; the text says of what."""


class Meter:
    """What one rendering may still spend. One unit is a microsecond at most, or sixteen characters."""

    __slots__ = ("left", "max_chars")

    def __init__(self, units: int, max_chars: int) -> None:
        self.left = units
        self.max_chars = max_chars

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise LimitError("the template does too much work: its loops, calls and texts exceed the limit")

    def text(self, length: int) -> None:
        """Pay for a text of `length` characters."""
        if length > self.max_chars:
            raise LimitError(f"a text of {length} characters, at most {self.max_chars} are allowed")
        self.spend(1 + length // CHARS_PER_UNIT)

    def shallow(self, value: object) -> None:
        """Pay for an operation that looks at each element of `value` but not into it."""
        if isinstance(value, str):
            self.text(len(value))
        elif isinstance(value, Sized):
            self.spend(1 + len(value) // 4)
        else:
            self.spend(1)

    def deep(self, value: object) -> None:
        """Pay for an operation that looks at everything within `value`, as often as it is reached."""
        if isinstance(value, str):
            self.text(len(value))
            return
        stack = [value]
        while stack:
            item = stack.pop()
            if item is None or isinstance(item, (str, int, float)):
                self.text(len(item) if isinstance(item, str) else 1)
            elif isinstance(item, (list, tuple)):
                self.spend(1 + len(item))
                stack.extend(item)
            elif isinstance(item, dict):
                self.spend(1 + 2 * len(item))
                stack.extend(item.keys())
                stack.extend(item.values())
            elif isinstance(item, (range, KeysView, ValuesView, ItemsView)):
                self.spend(1 + len(item))
                stack.extend(item)
            elif isinstance(item, Namespace):
                raise SecurityError("a namespace can be neither written nor compared; name one of its fields")
            else:
                self.spend(1)

    def counted(self, items: Iterable[object], each: int) -> Iterator[object]:
        """`items`, paid for one by one as they are taken, `each` units more than what they hold."""
        for item in items:
            self.spend(each)
            self.deep(item)
            yield item


def meter_of(context: Context) -> Meter:
    return cast(Meter, context.parent[METER])


def check_key(value: object) -> None:
    """Refuse what is no JSON scalar: the hash of a tuple of tuples can cost more than any limit."""
    if not (value is None or isinstance(value, (str, int, float, Undefined))):
        raise SecurityError(f"a {type(value).__name__} cannot be a key")
