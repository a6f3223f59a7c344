"""What a recording must not tell: secrets always, and where it is wanted every text that somebody wrote.

A text is replaced character by character by one of its kind, so that lengths, words and the prefixes of a growing text
stay what they are. Doing it twice changes nothing more. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final

from proxy.types import Json

BLACKED: Final = "redacted"
# Headers whose values tell nothing of a person and that change what is answered; of the others only the name is kept.
HEADERS_KEPT: Final = frozenset({"accept", "content-type", "content-length", "user-agent", "x-request-id"})
# Fields that hold a secret wherever they stand in a request.
_SECRET_FIELDS: Final = frozenset(
    {"access_token", "api-key", "api_key", "apikey", "authorization", "cookie", "password", "secret", "x-api-key"}
)
_DATA_URL: Final = "data:"
# The beginning of a tag such as <think>, by which a model's thought is told from its answer.
_MARK: Final = re.compile(r"<[^\s<>]{0,13}>?")
# Who speaks, in a prompt that was written out with such tags: <|im_start|>user and an end of line.
_SPEAKER: Final = re.compile(r"(?<=\|>)[a-z]+(?=\n)")


def kept_headers(headers: Mapping[str, str], more: Collection[str] = ()) -> dict[str, str]:
    """The headers with their values where these may be known. more: further names, in lower case, that may."""
    return {
        name: value if name.lower() in HEADERS_KEPT or name.lower() in more else BLACKED
        for name, value in headers.items()
    }


def without_secrets(value: Json) -> Json:
    """A JSON value in which fields that hold a secret have none."""
    if isinstance(value, dict):
        return {
            name: BLACKED if inner is not None and name.lower() in _SECRET_FIELDS else without_secrets(inner)
            for name, inner in value.items()
        }
    return [without_secrets(inner) for inner in value] if isinstance(value, list) else value


class Blackout:
    """Replaces texts. words: those that stay as they are, because the rules or the fleet know them: names of roles,
    models and reasons say nothing of what was said.
    """

    def __init__(self, words: Collection[str]) -> None:
        self._words = frozenset(words)

    def value(self, value: Json) -> Json:
        """A JSON value with its strings replaced; names of fields stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {name: self.value(inner) for name, inner in value.items()}
        return [self.value(inner) for inner in value] if isinstance(value, list) else value

    def text(self, text: str) -> str:
        """A text of the same length in characters and in bytes."""
        if text in self._words:
            return text
        if text.startswith(_DATA_URL) and "," in text:
            head, _, data = text.partition(",")
            return f"{head},{'A' * len(data)}"
        parts: list[str] = []
        end = 0
        for mark in _MARK.finditer(text):
            parts += [_blacked(text[end : mark.start()]), mark[0]]
            end = mark.end()
            speaker = _SPEAKER.match(text, end)
            if speaker is not None and speaker[0] in self._words:
                parts.append(speaker[0])
                end = speaker.end()
        return "".join([*parts, _blacked(text[end:])])

    def same(self, one: Json, other: Json) -> bool:
        """Whether two values are the same as far as a recording can tell that was made with this blackout."""
        if isinstance(one, str) and isinstance(other, str):
            return one == other or (not {one, other} <= self._words and _blacked(one) == _blacked(other))
        return one == other and isinstance(one, bool) == isinstance(other, bool)


def _blacked(text: str) -> str:
    return text.translate(_ASCII) if text.isascii() else "".join(map(_replaced, text))


def _replaced(character: str) -> str:
    if character.isascii():
        return character.translate(_ASCII)
    if character == "\ufffd" or not character.isalnum():
        return character
    return "éé字😀"[len(character.encode("utf-8", "surrogatepass")) - 1]


def _ascii_kind(character: str) -> str:
    if character.isdigit():
        return "0"
    return "X" if character.isupper() else "x"


_ASCII: Final = {ord(each): _ascii_kind(each) for each in map(chr, range(128)) if each.isalnum()}

Change = Callable[[Json], Json]
