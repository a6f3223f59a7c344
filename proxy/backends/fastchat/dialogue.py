"""A dialogue written into a prompt by a client of FastChat, and read out of it again.

FastChat's clients render prompts themselves, in the template that a worker gives them. A model whose backend takes
messages has no template of its own, so they are given one whose marks can be told from the text, and what they write in
it is turned back into messages. Its style is ADD_NEW_LINE_SINGLE, which has the number 6 in all versions of FastChat
(0.2.21 to 0.2.36 and later): the system prompt and each message end in the separator, a role stands on a line before
its text, and an empty message is a role alone. The marks are those of ChatML.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.types import Json, JsonObject

OPEN: Final = "<|im_start|>"
CLOSE: Final = "<|im_end|>"
_END: Final = f"{CLOSE}\n"
_HEAD: Final = re.compile(rf"{re.escape(OPEN)}(system|user|assistant)\n")


def template(name: str) -> JsonObject:
    """The conversation template of a model, with all fields that FastChat's clients of any version read."""
    return {
        "name": name,
        "system_template": f"{OPEN}system\n{{system_message}}",
        "system_message": "",
        "roles": [f"{OPEN}user", f"{OPEN}assistant"],
        "messages": [],
        "offset": 0,
        "sep_style": 6,
        "sep": _END,
        "sep2": None,
        "stop_str": CLOSE,
        "stop_token_ids": None,
    }


def messages_of(prompt: str) -> list[Json]:
    """The messages of a prompt in that template; the whole prompt as one message of the user where it is not in it.

    An empty system message, and an empty one of the assistant at the end, where it is to go on, are none. A mark counts
    only at the beginning, behind the end of a message and behind the head of an empty one; elsewhere it is text.
    """
    head = _HEAD.match(prompt)
    messages: list[Json] = []
    while head is not None:
        role, content, following = head[1], *_content(prompt, head.end())
        head = _HEAD.match(prompt, following)
        if content or role == "user" or (role == "assistant" and head is not None):
            messages.append({"role": role, "content": content})
    return messages or [{"role": "user", "content": prompt}]


def _content(prompt: str, start: int) -> tuple[str, int]:
    """The text of a message, and where the next one begins."""
    if _HEAD.match(prompt, start):
        return "", start
    end = prompt.find(_END, start)
    while end >= 0:
        following = end + len(_END)
        if following == len(prompt) or _HEAD.match(prompt, following):
            return prompt[start:end], following
        end = prompt.find(_END, following)
    return prompt[start:], len(prompt)
