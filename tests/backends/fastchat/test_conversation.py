from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from fastchat.conversation import Conversation, SeparatorStyle, conv_templates
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.fastchat.conversation import prepare_conversation, render_prompt, stop_strings, stop_token_ids
from proxy.backends.fastchat.styles import STYLES
from proxy.types import Json, JsonObject

RECORDED = json.loads((Path(__file__).parents[2] / "recordings/fastchat_main_conversations.json").read_text("utf-8"))
RENDERABLE = sorted(name for name, template in conv_templates.items() if template.sep_style is not None)

DIALOGUES: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "one question": [("user", "Hi")],
    "system": [("system", "Be brief."), ("user", "Hi")],
    "system only": [("system", "Be brief.")],
    "empty system": [("system", ""), ("user", "Hi")],
    "several turns": [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
    "chinese": [("system", "你是一个助手。"), ("user", "你好，世界"), ("assistant", "您好！"), ("user", "再见")],
    "emoji": [("user", "👩‍👩‍👧‍👦 😀"), ("assistant", "🎉"), ("user", "é́")],
    "two system messages": [("system", "first"), ("user", "Hi"), ("system", "second"), ("user", "there")],
    "assistant first": [("assistant", "Welcome."), ("user", "Hi")],
    "same role twice": [("user", "a"), ("user", "b"), ("assistant", "c"), ("assistant", "d")],
    "empty contents": [("user", ""), ("assistant", ""), ("user", "Hi")],
    "white space": [("user", "  a\r\n\r\nb\n\n\n\nc \n"), ("assistant", " \n "), ("user", "\n")],
    "markup": [("system", "{x} {system_message} {{y}}"), ("user", "{role} {0} %s </s> n<n>"), ("assistant", "in<n>n")],
}


def wire(template: Conversation) -> JsonObject:
    """The `conv` object as a worker sends it."""
    sent: JsonObject = json.loads(json.dumps(dataclasses.asdict(template)))
    return sent


def messages_of(dialogue: list[tuple[str, str]]) -> list[Any]:
    return [{"role": role, "content": content} for role, content in dialogue]


def fastchat_prompt(template: Conversation, dialogue: list[tuple[str, str]]) -> str:
    """What FastChat's OpenAI server sends to its worker."""
    conv = copy.deepcopy(template)
    conv.messages = list(conv.messages)
    for role, content in dialogue:
        if role == "system":
            conv.set_system_message(content)
        else:
            conv.append_message(conv.roles[0 if role == "user" else 1], content)
    conv.append_message(conv.roles[1], None)
    prompt: str = conv.get_prompt()
    return prompt


@pytest.mark.parametrize("name", RENDERABLE)
def test_every_template_gives_fastchats_prompt(name: str) -> None:
    """The prompt of every template of fschat 0.2.36 is FastChat's own, whatever the dialogue."""
    conversation = prepare_conversation(wire(conv_templates[name]))
    for title, dialogue in DIALOGUES.items():
        expected = fastchat_prompt(conv_templates[name], dialogue)
        assert render_prompt(conversation, messages_of(dialogue)) == expected, title


TURNS = st.lists(
    st.tuples(
        st.sampled_from(["system", "user", "assistant"]), st.text(max_size=12) | st.sampled_from(["", "n<n>", "{"])
    ),
    max_size=6,
)


@given(name=st.sampled_from(RENDERABLE), dialogue=TURNS)
def test_any_dialogue_gives_fastchats_prompt(name: str, dialogue: list[tuple[str, str]]) -> None:
    """Any list of messages renders on any template, as FastChat does it."""
    conversation = prepare_conversation(wire(conv_templates[name]))
    assert render_prompt(conversation, messages_of(dialogue)) == fastchat_prompt(conv_templates[name], dialogue)


@given(style=st.sampled_from(sorted(STYLES)), dialogue=TURNS, texts=st.tuples(*[st.none() | st.text(max_size=5)] * 3))
def test_any_style_renders_with_any_separators(
    style: str, dialogue: list[tuple[str, str]], texts: tuple[str | None, str | None, str | None]
) -> None:
    """No style fails for a null or odd separator or system message, or loses a text that FastChat would keep."""
    sep, sep2, system = texts
    raw: JsonObject = {"name": "x", "sep_style": style, "sep": sep, "sep2": sep2, "system_message": system}
    prompt = render_prompt(prepare_conversation(raw), messages_of(dialogue))
    if style not in ("CLLM", "YUAN2", "RWKV", "LLAMA3"):
        assert all(content in prompt for role, content in dialogue if role != "system")


@given(
    style=st.sampled_from([style for style in SeparatorStyle if style.name in STYLES]),
    dialogue=TURNS,
    sep=st.text(max_size=4),
    sep2=st.text(max_size=4),
    system=st.sampled_from(["", "S"]),
    template=st.sampled_from(
        ["", "{system_message}", "<s>{system_message}</s>", "{{a}}{system_message}{system_message}"]
    ),
)
def test_any_template_gives_fastchats_prompt(
    style: SeparatorStyle, dialogue: list[tuple[str, str]], sep: str, sep2: str, system: str, template: str
) -> None:
    """A template that nobody has published renders as FastChat would."""
    conv = Conversation(
        name="of one's own",
        system_template=template,
        system_message=system,
        roles=("Q", "A"),
        messages=[["Q", "one"], ["A", "two"]],
        sep_style=style,
        sep=sep,
        sep2=sep2,
    )
    assert render_prompt(prepare_conversation(wire(conv)), messages_of(dialogue)) == fastchat_prompt(conv, dialogue)


@pytest.mark.parametrize("name", sorted(RECORDED["templates"]))
def test_templates_of_git_main_give_its_prompts(name: str) -> None:
    """The renumbered and the new styles of FastChat's git main give the prompts recorded from it."""
    conversation = prepare_conversation(RECORDED["templates"][name])
    assert conversation["style"] == RECORDED["styles"][name]
    for case in RECORDED["cases"]:
        if case["template"] == name:
            assert render_prompt(conversation, case["messages"]) == case["prompt"]


def test_the_examples_of_a_template_can_be_left_out() -> None:
    """keep_examples=False gives the prompt without the template's few-shot dialogue."""
    raw = wire(conv_templates["one_shot"])
    assert raw["messages"]
    conversation = prepare_conversation(raw)
    question = messages_of([("user", "Hi")])
    assert (
        render_prompt(conversation, question, keep_examples=False)
        == f"{raw['system_message']}\n### Human: Hi\n### Assistant:"
    )
    assert json.loads(json.dumps(raw))["messages"][1][1] in render_prompt(conversation, question)


def test_rendering_leaves_the_conversation_as_it_was() -> None:
    """One prepared conversation serves many requests."""
    conversation = prepare_conversation(wire(conv_templates["one_shot"]))
    before = json.dumps(conversation)
    first = render_prompt(conversation, messages_of(DIALOGUES["several turns"]))
    assert render_prompt(json.loads(before), messages_of(DIALOGUES["several turns"])) == first
    assert json.dumps(conversation) == before


def test_an_api_only_template_renders_in_the_style_it_has_on_main() -> None:
    """A null style of a known template is read by the template's name."""
    conversation = prepare_conversation(wire(conv_templates["chatgpt"]))
    assert conversation["style"] == "DEFAULT"
    assert render_prompt(conversation, messages_of([("user", "Hi")])).endswith("user: Hi\nassistant:")


def test_the_older_shape_with_one_system_text_is_accepted() -> None:
    """A worker of fschat 0.2.21 sends `system`, which a request's system message replaces as a whole."""
    conversation = prepare_conversation(
        {
            "name": "vicuna_v1.1",
            "system": "A {chat}.",
            "roles": ["USER", "ASSISTANT"],
            "sep_style": 2,
            "sep": " ",
            "sep2": "</s>",
        }
    )
    assert render_prompt(conversation, messages_of([("user", "Hi")])) == "A {chat}. USER: Hi ASSISTANT:"
    assert render_prompt(conversation, messages_of([("system", "B."), ("user", "Hi")])) == "B. USER: Hi ASSISTANT:"


def test_only_the_style_is_needed() -> None:
    """Every other field may be missing."""
    conversation = prepare_conversation({"sep_style": 1})
    assert render_prompt(conversation, messages_of([("user", "Hi")])) == "\nUSER: Hi\nASSISTANT:"
    assert conversation["stop_str"] == []
    assert conversation["stop_token_ids"] == []


GOOD: JsonObject = {"name": "x", "sep_style": 1}
WITH_IMAGE: Json = ["USER", ["text", ["image"]]]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "conv: expected an object, got null"),
        ([], "conv: expected an object, got a list"),
        ({}, "no sep_style"),
        ({**GOOD, "sep_style": 0}, "sep_style 0"),
        ({**GOOD, "sep_style": 20}, "sep_style 20, expected 1 to 19"),
        ({**GOOD, "sep_style": 24, "max_image_size_mb": None}, "sep_style 24, expected 1 to 23"),
        ({**GOOD, "sep_style": True}, "sep_style: expected a number or a name, got True"),
        ({**GOOD, "sep_style": 1.0}, "sep_style: expected a number or a name"),
        ({**GOOD, "sep_style": "CHATLM"}, "did you mean CHATGLM|did you mean CHATML"),
        ({**GOOD, "name": 3}, "name: expected a string or null, got a number"),
        ({**GOOD, "sep": ["\n"]}, "sep: expected a string or null, got a list"),
        ({**GOOD, "roles": ["USER"]}, "roles: expected a list of two strings"),
        ({**GOOD, "roles": "USER"}, "roles: expected a list of two strings"),
        ({**GOOD, "messages": {}}, "messages: expected a list"),
        ({**GOOD, "messages": [WITH_IMAGE]}, r"messages\[0\]: expected \[role, text\]"),
        ({**GOOD, "messages": [["USER"]]}, r"messages\[0\]: expected \[role, text\]"),
        ({**GOOD, "stop_str": [1]}, "stop_str: expected a string, a list of strings or null, got a number"),
        ({**GOOD, "stop_token_ids": [True]}, "stop_token_ids: expected integers, got a boolean"),
        ({**GOOD, "stop_token_ids": 2}, "stop_token_ids: expected a list of integers or null"),
        ({**GOOD, "system_template": "{system_message:>1000000000}"}, r"only \{system_message\} may stand in braces"),
        ({**GOOD, "system_template": "{system_message.__class__}"}, r"only \{system_message\} may stand in braces"),
        ({**GOOD, "system_template": "{"}, r"only \{system_message\} may stand in braces"),
        ({**GOOD, "system_template": "{system_message}" * 9}, "more than 8 times"),
        ({**GOOD, "sep": "x" * 70_000}, "at most 65536 are accepted"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_by_field(raw: Any, reason: str) -> None:
    """One sentence names the field that is wrong."""
    with pytest.raises(ValueError, match=reason) as caught:
        prepare_conversation(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hi", "messages: expected a list, got a string"),
        (None, "messages: expected a list, got null"),
        ([{"role": "user", "content": "a"}, "b"], r"messages\[1\]: expected an object"),
        ([{"role": "tool", "content": "a"}], r"messages\[0\].role: expected system, user or assistant, got 'tool'"),
        ([{"content": "a"}], r"messages\[0\].role: .* got None"),
        ([{"role": "user", "content": None}], r"messages\[0\].content: expected a string, got null"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"messages\[0\].content: expected a string, got a list"),
    ],
)
def test_a_message_that_cannot_be_written_is_refused_by_place(messages: Any, reason: str) -> None:
    """The error names the message and what was expected."""
    with pytest.raises(ValueError, match=reason):
        render_prompt(prepare_conversation(GOOD), messages)


def test_an_unprepared_conversation_is_refused() -> None:
    """A worker's raw object is not rendered."""
    with pytest.raises(ValueError, match="was not prepared"):
        render_prompt(GOOD, [])


@pytest.mark.parametrize(
    ("requested", "of_template", "expected"),
    [
        (None, None, []),
        ("END", None, ["END"]),
        (["b", "a", "b", ""], "</s>", ["b", "a", "</s>"]),
        ("</s>", ["</s>", "###"], ["</s>", "###"]),
        ("", "", []),
        ([], ["x"], ["x"]),
    ],
)
def test_stop_strings_of_request_and_template_are_joined(requested: Any, of_template: Any, expected: list[str]) -> None:
    """The request's come first, none is empty and none comes twice."""
    conversation = prepare_conversation({**GOOD, "stop_str": of_template})
    assert stop_strings(conversation, requested) == expected
    assert stop_strings({**GOOD, "stop_str": of_template}, requested) == expected


@pytest.mark.parametrize("requested", [1, True, [None], ["a", 1], {"a": 1}, [["a"]]])
def test_stop_of_another_kind_is_refused(requested: Any) -> None:
    """The error names the request's field."""
    with pytest.raises(ValueError, match=r"^stop: expected a string, a list of strings or null, got "):
        stop_strings(prepare_conversation(GOOD), requested)


def test_stop_token_ids_of_request_and_template_are_joined() -> None:
    """The request's come first and none comes twice."""
    conversation = prepare_conversation({**GOOD, "stop_token_ids": [2, 3]})
    assert stop_token_ids(conversation, None) == [2, 3]
    assert stop_token_ids(conversation, [9, 2, 9]) == [9, 2, 3]
    with pytest.raises(ValueError, match="stop_token_ids: expected integers, got a string"):
        stop_token_ids(conversation, ["2"])


def test_every_registered_template_keeps_its_stops() -> None:
    """Stop strings and token ids of all of FastChat's templates come through."""
    for name, template in conv_templates.items():
        conversation = prepare_conversation(wire(template))
        own = template.stop_str
        assert conversation["stop_str"] == ([own] if isinstance(own, str) else list(own or [])), name
        assert conversation["stop_token_ids"] == list(dict.fromkeys(template.stop_token_ids or [])), name
