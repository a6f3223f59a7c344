"""Renders dialogues as FastChat itself does: runs inside the FastChat environment.

Reads a JSON list of ``{"template": NAME, "messages": [{"role": "system" | "human" | "ai", "content": ...}]}`` from the
standard input and writes a list of ``{"prompt": ..., "stop": ..., "stop_token_ids": ...}``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from fastchat.conversation import get_conv_template


def rendered(template: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    """The prompt that asks for the next answer, and where FastChat's own server tells the worker to stop."""
    conversation = get_conv_template(template)
    speakers = dict(zip(("human", "ai"), conversation.roles, strict=True))
    for message in messages:
        if message["role"] == "system":
            conversation.set_system_message(message["content"])
        else:
            conversation.append_message(speakers[message["role"]], message["content"])
    conversation.append_message(conversation.roles[1], None)
    return {
        "prompt": conversation.get_prompt(),
        "stop": conversation.stop_str,
        "stop_token_ids": conversation.stop_token_ids,
    }


if __name__ == "__main__":
    json.dump([rendered(**each) for each in json.load(sys.stdin)], sys.stdout)
