"""A worker that decodes as those with a sentencepiece vocabulary do, and tells one story wherever it is to go on."""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxy.types import Json, JsonObject

SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPECIAL = re.compile(r"</?s>")
# Characters without a piece of their own.
IN_BYTES = "éü数🙂\n"


def decoded(pieces: Sequence[str]) -> str:
    """The text of some pieces: without special tokens, each byte of a run of bytes U+FFFD where the run is no UTF-8,
    without the space at the beginning and those that a clean-up takes for mistakes.
    """
    text, run = "", b""
    for piece in [*pieces, ""]:
        byte = _BYTE.fullmatch(piece)
        if byte:
            run += bytes([int(byte[1], 16)])
            continue
        try:
            text += run.decode()
        except UnicodeDecodeError:
            text += "\ufffd" * len(run)
        run = b""
        text += "" if _SPECIAL.fullmatch(piece) else piece
    text = text.replace(SPACE, " ").removeprefix(" ")
    return text.replace(" .", ".").replace(" ?", "?").replace(" n't", "n't")


def encoded(text: str) -> list[str]:
    """A prompt, whose words need not be pieces of their own; what stands behind a special token gets a space."""
    pieces = ["<s>"]
    for number, part in enumerate(re.split(r"(</?s>)", text)):
        if number % 2:
            pieces.append(part)
        elif part:
            for piece in re.split(f"([{IN_BYTES}])", f" {part}".replace(" ", SPACE)):
                pieces += in_bytes(piece) if piece in IN_BYTES else [piece]
    return pieces


def in_bytes(text: str) -> list[str]:
    """A text for which there are no pieces."""
    return [f"<0x{byte:02X}>" for byte in text.encode()]


class PieceWorker:
    """`frames` are what it says to a request, of which it decodes as many pieces more at a time as `interval` says.

    It counts its tokens from nought, and looks for a stop string only behind as many characters as the prompt has.
    echoes: whether it knows the parameter.
    """

    def __init__(self, story: Sequence[str], asked: str, *, interval: int = 1, echoes: bool = True) -> None:
        self.story = list(story)
        self.asked = asked
        self.interval = interval
        self.echoes = echoes

    def frames(self, body: Json) -> list[JsonObject]:
        assert isinstance(body, dict)
        prompt, most, stops = str(body["prompt"]), body["max_new_tokens"], body.get("stop") or []
        assert isinstance(most, int)
        assert isinstance(stops, list)
        assert prompt.startswith(self.asked)
        told = self._told(prompt[len(self.asked) :])
        rest = self.story[told:]
        echo = self.echoes and body["echo"]
        before, start = (encoded(prompt), len(prompt)) if echo else ([], 0)
        count = len(encoded(self.asked)) + told
        found: list[JsonObject] = []
        text, finish, index = decoded(before), "length", 0
        for index in range(most):
            ended = index >= len(rest)
            if index % self.interval and index != most - 1 and not ended:
                continue
            text = decoded([*before, *rest[: index + 1]])
            places = [place for stop in stops if (place := text.rfind(str(stop), start)) >= 0]
            text = text[: places[0]] if places else text
            found.append(_frame(text, count, index, None))
            if ended or places:
                finish = "stop"
                break
        return [*found, _frame(text, count, index, finish)]

    def _told(self, text: str) -> int:
        """How many pieces of the story the text is, with the space at its beginning or without."""
        wanted = (text, text.removeprefix(" "))
        count = next((n for n in range(len(self.story) + 1) if decoded(self.story[:n]) in wanted), None)
        assert count is not None, f"no beginning of the story: {text!r}"
        return count


def _frame(text: str, prompt: int, completion: int, finish: str | None) -> JsonObject:
    usage: JsonObject = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    return {"text": text, "error_code": 0, "usage": usage, "finish_reason": finish, "logprobs": None}
