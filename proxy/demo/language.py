"""What the demonstration worker knows of language: how to count, what to answer, and how to place a text in space.

Everything here is a function of its arguments: the same prompt always gets the same answer and the same vector.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Final

from proxy.types import JsonObject

# A token is a short ASCII word with the space before it, one other ASCII character, or at most two bytes of a character
# outside ASCII: a Chinese character (three bytes) is cut in the middle, as byte-level vocabularies really do.
_TOKEN: Final = re.compile(rb" ?[A-Za-z0-9]{1,8}|[\x00-\x7f]|[\x80-\xff]{1,2}")
_TURN: Final = re.compile(r"(?:^|(?<=[\s>]))(USER|ASSISTANT):")
# Characters of one turn that the answer repeats; a long conversation still gets a readable answer.
QUOTED_MAX: Final = 80
# Turns that the answer lists; the others are counted.
LISTED_TURNS_MAX: Final = 8
DIMENSIONS: Final = 64


def tokens(text: str) -> list[bytes]:
    """The text's UTF-8 bytes in tokens; a lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    return _TOKEN.findall(text.encode("utf-8", "replace"))


def text_of(pieces: Iterable[bytes]) -> str:
    """The text of some tokens; a character of which only a part is there becomes U+FFFD."""
    return b"".join(pieces).decode("utf-8", "replace")


def turns(prompt: str) -> tuple[str, list[tuple[str, str]]]:
    """The system sentence and the turns (role, text) of a prompt in the demonstration worker's own template.

    A prompt without roles has no turns: all of it comes back as the first value. The last turn, which the worker is to
    fill, is not among them.
    """
    first, *rest = _TURN.split(prompt)
    pairs = [(role, text.removesuffix("</s>").strip()) for role, text in zip(rest[::2], rest[1::2], strict=True)]
    if pairs and pairs[-1] == ("ASSISTANT", ""):
        pairs.pop()
    return first.strip(), pairs


def vicuna_template(system: str) -> JsonObject:
    """A conversation template in the shape and style of `vicuna_v1.1`, with a system sentence of one's own."""
    return {
        "name": "vicuna_v1.1",
        "system_template": "{system_message}",
        "system_message": system,
        "roles": ["USER", "ASSISTANT"],
        "messages": [],
        "offset": 0,
        "sep_style": 2,
        "sep": " ",
        "sep2": "</s>",
        "stop_str": None,
        "stop_token_ids": None,
    }


def _opening(model: str) -> str:
    return f"I am {model}, a demonstration worker without a model behind me. I only tell what reached me."


def begun(prompt: str, model: str) -> Iterator[int]:
    """Where in a prompt answers of this worker begin that the prompt may end with, the likeliest first: such a prompt
    asks to go on in the middle of an answer. A few letters of one count only as the last turn's beginning.
    """
    opening = _opening(model)
    place = prompt.rfind(opening)
    if place >= 0:
        yield place
    for length in range(len(opening) - 1, 0, -1):
        place = len(prompt) - length
        if prompt.endswith(opening[:length]) and (length > len("I am ") or prompt[:place].endswith("ASSISTANT:")):
            yield place


def _quote(text: str) -> str:
    return f'"{text}"' if len(text) <= QUOTED_MAX else f'"{text[:QUOTED_MAX]}..."'


def answer(prompt: str, model: str, settings: str, words: int) -> str:
    """The whole answer: what the worker saw of the prompt, then a line that counts to `words`.

    settings: the generation parameters as one readable phrase.
    """
    system, dialogue = turns(prompt)
    lines = [
        _opening(model),
        f"The prompt has {len(prompt)} characters in {len(tokens(prompt))} tokens; {settings}.",
    ]
    if not dialogue:
        lines.append(f"It has no turns, just text: {_quote(system)}" if system else "It is empty.")
    elif system:
        lines.append(f"It begins with the system sentence {_quote(system)}")
    for number, (role, text) in enumerate(dialogue[-LISTED_TURNS_MAX:], max(1, len(dialogue) - LISTED_TURNS_MAX + 1)):
        lines.append(f"Turn {number} of {len(dialogue)}, {role}, {len(text)} characters: {_quote(text)}")
    if dialogue:
        lines.append(f"The last one backwards: {_quote(dialogue[-1][1][::-1])}")
    if words > 0:
        lines.append("Now I count: " + " ".join(str(number) for number in range(1, words + 1)))
    return "\n".join(lines)


def embedding(text: str) -> list[float]:
    """A vector of length 1 in `DIMENSIONS` dimensions, of single-precision values; texts that share words lie near."""
    total = [0.0] * DIMENSIONS
    for piece in tokens(text.lower()) or [b""]:
        digest = hashlib.blake2b(piece.strip(), digest_size=DIMENSIONS).digest()
        total = [value + byte - 127.5 for value, byte in zip(total, digest, strict=True)]
    norm = math.sqrt(sum(value * value for value in total)) or 1.0
    return list(array("f", (value / norm for value in total)))
