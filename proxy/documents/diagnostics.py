"""One mistake in a file that a person wrote, with its place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final, NamedTuple

# Comparing names takes time with their number and the square of their length.
_NAMES_MAX: Final = 200
_NAME_MAX: Final = 200


class Diagnostic(NamedTuple):
    """file: path as the user gave it; line and column count from 1; message: one sentence."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DocumentError(Exception):
    """A document, or a set of them, that cannot be used; `diagnostics` has every mistake found, in file order."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(set(diagnostics)))
        super().__init__("\n".join(str(entry) for entry in self.diagnostics))


def suggestion(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest known name, or, where none is near, the list of what is known; nothing
    where that would be too much to look through.
    """
    names = [*known]
    if len(names) > _NAMES_MAX or len(name) > _NAME_MAX:
        return ""
    names.sort()
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""


def clipped(text: str, length: int = 60) -> str:
    """A text for a sentence, cut to so many characters; the last three then say that it goes on."""
    return text if len(text) <= length else f"{text[: length - 3]}..."
