"""What can go wrong with an expression: it does not compile, or it cannot be evaluated on this document."""

from __future__ import annotations


class ExpressionSyntaxError(ValueError):
    """The source is not an expression that can run.

    `message` is one sentence; `offset` counts characters from the start of the source and points at the place.
    """

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(f"{message} (at offset {offset})")
        self.message = message
        self.offset = offset


class ExpressionError(ValueError):
    """An expression met a document it has no answer for, such as a function argument of a wrong type."""
