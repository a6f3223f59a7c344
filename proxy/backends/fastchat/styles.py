"""FastChat's separator styles: what each one writes, and which one the number a worker sends stands for.

Facts from `fastchat/conversation.py` of fschat 0.2.21 to 0.2.36 and of git main up to 2025-04 (0e6d3e4b).
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import NamedTuple

from proxy.types import Json, JsonObject


class Turn(NamedTuple):
    """What one message becomes.

    Both are patterns of `str.format` over role, text, round (the number of the question and answer pair), user and
    assistant (the two role names), sep and sep2.
    """

    said: str
    """A message that has a text."""
    blank: str
    """A message without one; the last of every prompt, which the model continues, is such a message."""


class Style(NamedTuple):
    """How a separator style writes a conversation."""

    even: Turn
    """Messages 0, 2, 4, ... counted over the examples and the dialogue together."""
    odd: Turn | None = None
    """Messages 1, 3, 5, ...; None: as `even`."""
    first: Turn | None = None
    """Message 0; None: as `even`."""
    lead: str = "{system}{sep}"
    """What precedes the messages; system is the filled system template."""
    without_prompt: str | None = None
    """Replaces `lead` when the filled system template is empty; None: nothing does."""
    without_message: str | None = None
    """Replaces `lead` when the system message is empty, whatever the system template says; None: nothing does."""
    text: str = ""
    """What is done to a message's text first: nothing, "strip" (outer white space goes) or "squeeze" (blank lines)."""
    keep: int = 0
    """Only this many messages, the last ones, are written; 0: all."""
    strip_end: str = ""
    """Characters taken off the end of the whole prompt, singly and in any order."""
    end: str = ""
    """What follows the messages."""


_COLON = Turn("{role}: {text}{sep}", "{role}:")
_COLON_2 = Turn("{role}: {text}{sep2}", "{role}:")
_PLAIN = Turn("{role}{text}{sep}", "{role}")
_PLAIN_2 = Turn("{role}{text}{sep2}", "{role}")
_HEADER = "<|start_header_id|>{role}<|end_header_id|>\n\n"

STYLES: dict[str, Style] = {
    "ADD_COLON_SINGLE": Style(_COLON),
    "ADD_COLON_TWO": Style(_COLON, _COLON_2),
    "ADD_COLON_SPACE_SINGLE": Style(Turn("{role}: {text}{sep}", "{role}: ")),
    "NO_COLON_SINGLE": Style(_PLAIN, lead="{system}"),
    "NO_COLON_TWO": Style(_PLAIN, _PLAIN_2, lead="{system}"),
    "ADD_NEW_LINE_SINGLE": Style(Turn("{role}\n{text}{sep}", "{role}\n"), without_prompt=""),
    "LLAMA2": Style(
        Turn("{user} {text}{sep}", "{user}"),
        Turn("{assistant} {text}{sep2}", "{assistant}"),
        first=Turn("{text} ", "{user}"),
        lead="{system}",
        without_message="[INST] ",
    ),
    "LLAMA3": Style(
        Turn(_HEADER + "{text}<|eot_id|>", _HEADER),
        lead="<|begin_of_text|>{system}",
        without_message="<|begin_of_text|>",
        text="strip",
    ),
    "CHATGLM": Style(
        Turn("[Round {round}]{sep}{role}：{text}{sep}", "[Round {round}]{sep}{role}："),
        Turn("{role}：{text}{sep}", "{role}："),
        without_prompt="",
    ),
    "CHATML": Style(Turn("{role}\n{text}{sep}\n", "{role}\n"), lead="{system}{sep}\n", without_prompt=""),
    "CHATINTERN": Style(
        Turn("<s>{role}:{text}{sep}\n", "<s>{role}:"),
        Turn("{role}:{text}{sep2}\n", "{role}:"),
        lead="{system}",
    ),
    "DOLLY": Style(
        Turn("{role}:\n{text}{sep}", "{role}:\n"),
        Turn("{role}:\n{text}{sep2}\n\n", "{role}:\n"),
        lead="{system}",
    ),
    "RWKV": Style(Turn("{role}: {text}\n\n", "{role}:"), lead="{system}", text="squeeze"),
    "PHOENIX": Style(Turn("{role}: <s>{text}</s>", "{role}: <s>"), lead="{system}"),
    "ROBIN": Style(Turn("{role}:\n{text}{sep}", "{role}:\n")),
    "FALCON_CHAT": Style(_COLON, without_message=""),
    "CHATGLM3": Style(Turn("{role}\n{text}", "{role}"), lead="{system}", without_message=""),
    "DEEPSEEK_CHAT": Style(_COLON, _COLON_2, lead="{system}"),
    "METAMATH": Style(
        Turn("{role}:\n{text}{sep}", "{role}:\n"),
        Turn("{role}: {sep2}{text}", "{role}: {sep2}"),
        without_prompt="",
    ),
    "YUAN2": Style(Turn("{text}<n>", ""), lead="{system}{sep2}", without_message="", strip_end="<n>", end="{sep}"),
    "GEMMA": Style(Turn("<start_of_turn>{role}\n{text}{sep}", "<start_of_turn>{role}\n"), lead="<bos>"),
    "CLLM": Style(_COLON, _COLON_2, keep=2),
    "DEFAULT": Style(Turn("{role}: {text}\n", "{role}:"), lead="{system}\n"),
}

# Style number n is the n-th name. The first seven are the same in every version.
_FIXED = (
    *("ADD_COLON_SINGLE", "ADD_COLON_TWO", "ADD_COLON_SPACE_SINGLE", "NO_COLON_SINGLE", "NO_COLON_TWO"),
    *("ADD_NEW_LINE_SINGLE", "LLAMA2"),
)
_MOVED = (
    *("CHATGLM", "CHATML", "CHATINTERN", "DOLLY", "RWKV", "PHOENIX", "ROBIN", "FALCON_CHAT", "CHATGLM3"),
    *("DEEPSEEK_CHAT", "METAMATH", "YUAN2"),
)
RELEASED = (*_FIXED, *_MOVED)
"""The numbering of the releases fschat 0.2.21 to 0.2.36 (earlier ones of these end sooner)."""
MAIN = (*_FIXED, "LLAMA3", *_MOVED, "GEMMA", "CLLM", "DEFAULT")
"""The numbering of git main since 2024-04-23."""

# The templates whose number depends on the version. Never did a template keep its name and go from one of these styles
# to another of these; those that came from one of the first seven (gemma, in early 2024) say so by a number up to 7.
_TEMPLATES: dict[str, str] = {
    "LLAMA3": "llama-3",
    "CHATGLM": "chatglm chatglm2",
    "CHATML": "mpt-7b-chat mpt-30b-chat starchat qwen-7b-chat zephyr mistral-7b-openorca lemur-70b-chat orca-2 "
    "Yi-34b-chat OpenHermes-2.5-Mistral-7B dolphin-2.2.1-mistral-7b catppt TinyLlama Nous-Hermes-2-Mixtral-8x7B-DPO "
    "llava-chatml",
    "CHATINTERN": "internlm-chat",
    "DOLLY": "dolly_v2 vigogne_instruct",
    "RWKV": "rwkv falcon",
    "PHOENIX": "phoenix ReaLM-7b-v1",
    "ROBIN": "Robin tigerbot",
    "FALCON_CHAT": "falcon-chat openchat_3.5 tenyxchat",
    "CHATGLM3": "chatglm3",
    "DEEPSEEK_CHAT": "deepseek-chat",
    "METAMATH": "metamath",
    "YUAN2": "yuan2",
    "GEMMA": "gemma",
    "CLLM": "cllm",
    "DEFAULT": "api_based_default chatgpt gpt-4-turbo-2024-04-09 pplxai claude-3-haiku-20240307 "
    "claude-3-sonnet-20240229 claude-3-opus-20240229 bard gemini steerlm gemini-dev reka claude-3-5-sonnet-20240620 "
    "gemini-1.5-pro gpt-mini claude-3-5-sonnet-20240620-v2 meta-llama-3.1 meta-llama-3.1-sp gemini-1.5-pro-002-test-sp "
    "grok-2 grok-2-mini",
}
STYLE_OF_TEMPLATE: dict[str, str] = {
    template: style for style, templates in _TEMPLATES.items() for template in templates.split()
}

# Fields that only the dataclass of git main has (since mid 2024).
_MAIN_FIELDS = ("system_message_vision", "max_image_size_mb")


def style_name(text: str, *, where: str) -> str:
    """The style that `text` names: "CHATML", "chatml" or "SeparatorStyle.CHATML".

    Raises ValueError, which names `where`, when there is no such style.
    """
    name = text.rpartition(".")[2].strip().upper()
    if name in STYLES:
        return name
    near = get_close_matches(name, STYLES, n=1)
    expected = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(STYLES)}"
    raise ValueError(f"{where}: {text!r:.80} is no separator style; {expected}")


def resolve_style(raw: JsonObject, *, configured: str | None = None) -> str:
    """The name of the style of a worker's `conv` object.

    The first of these that gives one: the configured name; a style the worker sent by name; a number that means the
    same in every version; the template's name; the numbering of git main, when the object has a field that only main
    has; the numbering of the releases. Raises ValueError with one sentence when none does.
    """
    if configured is not None:
        return style_name(configured, where="configured style")
    sent = raw.get("sep_style")
    if isinstance(sent, str):
        return style_name(sent, where="sep_style")
    if sent is not None and (isinstance(sent, bool) or not isinstance(sent, int)):
        raise ValueError(f"sep_style: expected a number or a name, got {sent!r:.80}")
    if sent is not None and 1 <= sent <= len(_FIXED):
        return _FIXED[sent - 1]
    name = raw.get("name")
    if isinstance(name, str) and name in STYLE_OF_TEMPLATE:
        return STYLE_OF_TEMPLATE[name]
    return _style_by_number(sent, raw, name)


def _style_by_number(sent: int | None, raw: JsonObject, name: Json) -> str:
    names = MAIN if any(field in raw for field in _MAIN_FIELDS) else RELEASED
    if sent is not None and 1 <= sent <= len(names):
        return names[sent - 1]
    what = "no sep_style" if sent is None else f"sep_style {sent}, expected 1 to {len(names)}"
    raise ValueError(f"the conversation template {name!r:.80} has {what}; set its separator style by name")
