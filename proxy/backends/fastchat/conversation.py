"""From the `conv` object of FastChat's `/worker_get_conv_template` to a prompt, as FastChat 0.2.36 writes it."""

from __future__ import annotations

from string import Formatter
from typing import cast

from proxy.backends.fastchat.styles import STYLES, Style, Turn, resolve_style
from proxy.types import Json, JsonObject

MAX_TEMPLATE_CHARS = 65_536
"""Characters of all strings of a template together. The longest of FastChat's own has 11,500; separators and
system template are written again for each message, so they must not be large."""
MAX_SYSTEM_PLACES = 8
"""Times a system template may repeat the system message. FastChat's own have it once or not at all."""


def prepare_conversation(
    raw: JsonObject, *, style: str | None = None, max_chars: int = MAX_TEMPLATE_CHARS
) -> JsonObject:
    """Check a worker's conversation template and compile it for `render_prompt`.

    `raw` is the value of `conv` in the worker's reply. Its style number means different styles in different versions
    of FastChat; `styles.resolve_style` says how it is read, and `style` (a name such as "CHATML") overrides it.
    `system` in place of system_template and system_message (fschat up to 0.2.22) is accepted. Any field but the style
    may be missing or null.

    The result is JSON: name, style, roles (two), system_message, examples (list of [role, text], the template's own
    few-shot messages), stop_str (list), stop_token_ids (list), layout (patterns, for `render_prompt` only).
    Raises ValueError with one sentence that names the field.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"conv: expected an object, got {_kind(raw)}")
    if "system" in raw and "system_template" not in raw:
        raw = {**raw, "system_template": "{system_message}", "system_message": raw["system"]}
    roles = _roles(raw)
    system_template = _text(raw, "system_template", "{system_message}")
    name = _text(raw, "name", "")
    style = resolve_style(raw, configured=style)
    prepared: JsonObject = {
        "name": name,
        "style": style,
        "roles": cast("list[Json]", roles),
        "system_message": _text(raw, "system_message", ""),
        "examples": _examples(raw),
        "stop_str": cast("list[Json]", stop_strings(raw, None)),
        "stop_token_ids": cast("list[Json]", stop_token_ids(raw, None)),
        "layout": _layout(
            STYLES[style],
            _escaped_system_template(system_template),
            user=_escape(roles[0]),
            assistant=_escape(roles[1]),
            sep=_escape(_text(raw, "sep", "\n")),
            sep2=_escape(_text(raw, "sep2", "")),
        ),
    }
    # FastChat counts the rounds of chatglm2 from 1 and those of every other template from 0.
    cast(JsonObject, prepared["layout"])["first_round"] = 1 if name == "chatglm2" else 0
    size = _characters(prepared)
    if size > max_chars:
        raise ValueError(f"conversation template {name!r:.80}: {size} characters, at most {max_chars} are accepted")
    return prepared


def render_prompt(conversation: JsonObject, messages: Json, *, keep_examples: bool = True) -> str:
    """The prompt for a dialogue, as the OpenAI server of FastChat 0.2.36 writes it for a worker.

    `conversation` comes from `prepare_conversation`. `messages` is a list of {"role": "system" | "user" | "assistant",
    "content": str}. The last system message takes the place of the template's own, wherever it stands; a message with
    an empty content is written as one that is still to be said; the prompt ends where the assistant is to speak.
    keep_examples=False leaves out the template's own few-shot messages. Raises ValueError naming the message.
    """
    layout = conversation.get("layout")
    if not isinstance(layout, dict):
        raise ValueError("the conversation template was not prepared: it has no layout")
    roles = cast("list[str]", conversation["roles"])
    system = cast(str, conversation["system_message"])
    turns = cast("list[list[str]]", conversation["examples"])[:] if keep_examples else []
    for role, content in _checked(messages):
        if role == "system":
            system = content
        else:
            turns.append([roles[0] if role == "user" else roles[1], content])
    turns.append([roles[1], ""])
    return _write(layout, system, turns)


def stop_strings(conversation: JsonObject, requested: Json) -> list[str]:
    """The request's stop strings (a string, a list or null), then the template's; none empty, none twice.

    An empty stop string makes vLLM workers stop at once. Raises ValueError when either is of another kind.
    """
    found: dict[str, None] = {}
    for where, value in (("stop", requested), ("stop_str", conversation.get("stop_str"))):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str):
                if item:
                    found[item] = None
            elif value is not None:
                raise ValueError(f"{where}: expected a string, a list of strings or null, got {_kind(item)}")
    return list(found)


def stop_token_ids(conversation: JsonObject, requested: Json) -> list[int]:
    """The request's stop token ids (a list or null), then the template's, none twice.

    Raises ValueError when either is of another kind.
    """
    found: dict[int, None] = {}
    for where, value in (("stop_token_ids", requested), ("conv.stop_token_ids", conversation.get("stop_token_ids"))):
        if value is None:
            continue
        if not isinstance(value, list):
            raise ValueError(f"{where}: expected a list of integers or null, got {_kind(value)}")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, int):
                raise ValueError(f"{where}: expected integers, got {_kind(item)}")
            found[item] = None
    return list(found)


def _write(layout: JsonObject, system: str, turns: list[list[str]]) -> str:
    keep = cast(int, layout["keep"])
    if keep:
        turns = turns[-keep:]
    shapes = cast("list[list[str]]", layout["turns"])
    shape_of_first = cast("list[str]", layout["first"])
    first_round = cast(int, layout["first_round"])
    treatment = cast(str, layout["text"])
    lead = cast(str, layout["lead" if system else "lead_without_message"])
    out = [lead.format(system_message=system)]
    for index, (role, text) in enumerate(turns):
        said, blank = shapes[index & 1] if index else shape_of_first
        round_number = index // 2 + first_round
        if text:
            out.append(said.format(role=role, text=_treated(text, treatment), round=round_number))
        else:
            out.append(blank.format(role=role, round=round_number))
    prompt = "".join(out)
    strip_end = cast(str, layout["strip_end"])
    if strip_end:
        prompt = prompt.rstrip(strip_end)
    return prompt + cast(str, layout["end"])


def _treated(text: str, treatment: str) -> str:
    if treatment == "strip":
        return text.strip()
    if treatment == "squeeze":
        return text.replace("\r\n", "\n").replace("\n\n", "\n")
    return text


def _layout(style: Style, system: str, *, user: str, assistant: str, sep: str, sep2: str) -> JsonObject:
    """The style's patterns with everything filled in that one template fixes.

    All arguments are escaped for `str.format`, and so are the patterns that come out, with these fields left:
    system_message in the leads; role, text and round in the turns.
    """

    def fill(pattern: str) -> str:
        left = {"role": "{role}", "text": "{text}", "round": "{round}"}
        return pattern.format(system=system, user=user, assistant=assistant, sep=sep, sep2=sep2, **left)

    def turn(pattern: Turn) -> list[Json]:
        return [fill(pattern.said), fill(pattern.blank)]

    no_message = lead = fill(style.lead)
    if style.without_message is not None:
        no_message = fill(style.without_message)
    elif style.without_prompt is not None and not system.replace("{system_message}", ""):
        no_message = fill(style.without_prompt)
        lead = lead if system else no_message
    even = turn(style.even)
    return {
        "lead": lead,
        "lead_without_message": no_message,
        "turns": [even, turn(style.odd) if style.odd else even],
        "first": turn(style.first) if style.first else even,
        "text": style.text,
        "keep": style.keep,
        "strip_end": style.strip_end,
        "end": fill(style.end).format(),
    }


def _checked(messages: Json) -> list[tuple[str, str]]:
    if not isinstance(messages, list):
        raise ValueError(f"messages: expected a list, got {_kind(messages)}")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise ValueError(f"messages[{index}]: expected an object with role and content, got {_kind(message)}")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in ("system", "user", "assistant"):
            raise ValueError(f"messages[{index}].role: expected system, user or assistant, got {role!r:.80}")
        if not isinstance(content, str):
            raise ValueError(f"messages[{index}].content: expected a string, got {_kind(content)}")
        checked.append((role, content))
    return checked


def _roles(raw: JsonObject) -> list[str]:
    roles = raw.get("roles")
    if roles is None:
        return ["USER", "ASSISTANT"]
    # llama2-chinese has a third one, which FastChat never uses.
    if isinstance(roles, list) and len(roles) >= 2:
        user, assistant = roles[0], roles[1]
        if isinstance(user, str) and isinstance(assistant, str):
            return [user, assistant]
    raise ValueError(f"roles: expected a list of two strings, got {roles!r:.80}")


def _examples(raw: JsonObject) -> list[Json]:
    messages = raw.get("messages")
    if messages is None:
        return []
    if not isinstance(messages, list):
        raise ValueError(f"messages: expected a list of [role, text], got {_kind(messages)}")
    examples: list[Json] = []
    for index, item in enumerate(messages):
        role, text = item if isinstance(item, list) and len(item) == 2 else (None, None)
        if not isinstance(role, str) or not (text is None or isinstance(text, str)):
            raise ValueError(f"messages[{index}]: expected [role, text], got {item!r:.80}")
        examples.append([role, text or ""])
    return examples


def _text(raw: JsonObject, field: str, default: str) -> str:
    value = raw.get(field, default)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{field}: expected a string or null, got {_kind(value)}")
    return value


def _escaped_system_template(template: str) -> str:
    """The template with every field but plain {system_message} refused: it is a format string from another host."""
    parts: list[str] = []
    try:
        for literal, field, spec, conversion in Formatter().parse(template):
            parts.append(_escape(literal))
            if field is None:
                continue
            if field != "system_message" or spec or conversion:
                raise ValueError(f"the field {field!r:.40}")
            parts.append("{system_message}")
    except ValueError as error:
        raise ValueError(f"system_template: only {{system_message}} may stand in braces ({error})") from None
    if parts.count("{system_message}") > MAX_SYSTEM_PLACES:
        raise ValueError(f"system_template: {{system_message}} stands in it more than {MAX_SYSTEM_PLACES} times")
    return "".join(parts)


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _characters(value: Json) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 1


def _kind(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    return {str: "a string", list: "a list"}.get(type(value), "an object")
