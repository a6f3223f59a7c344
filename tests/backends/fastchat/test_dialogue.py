"""What FastChat's clients write in the template that is given to them is read as the messages it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.fastchat.conversation import prepare_conversation, render_prompt
from proxy.backends.fastchat.dialogue import CLOSE, OPEN, messages_of, template
from proxy.types import Json, JsonObject

TEMPLATE = prepare_conversation(template("m"))
# Marks inside a text are text, unless a whole one stands behind the end of a message.
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(st.sampled_from([OPEN, CLOSE, "\n", "user", "system", "a", " "]), max_size=6).map("".join),
).filter(lambda text: f"{CLOSE}\n{OPEN}" not in text + "\n" and not text.startswith(OPEN) and not text.endswith(CLOSE))
TURNS = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXTS), min_size=1, max_size=6)


def written(system: str, turns: list[tuple[str, str]]) -> str:
    messages: list[Json] = [{"role": role, "content": text} for role, text in turns]
    return render_prompt(TEMPLATE, [{"role": "system", "content": system}, *messages] if system else messages)


@given(TEXTS, TURNS)
def test_what_was_written_is_read(system: str, turns: list[tuple[str, str]]) -> None:
    """Any dialogue, with a system message or without, comes back as it was."""
    expected: list[Json] = [{"role": role, "content": text} for role, text in turns]
    if system:
        expected.insert(0, {"role": "system", "content": system})
    assert messages_of(written(system, turns)) == expected


@given(st.text())
def test_any_other_prompt_is_what_the_user_says(prompt: str) -> None:
    """Raw text for a completion, or a template of somebody else."""
    if not prompt.startswith(OPEN):
        assert messages_of(prompt) == [{"role": "user", "content": prompt}]


@given(st.lists(st.sampled_from([OPEN, CLOSE, "\n", "user", "assistant", "system", "user\n", "x"]), max_size=12))
def test_nothing_is_lost(parts: list[str]) -> None:
    """However odd a prompt is: it gives messages, with every word of it that is no mark and no role."""
    prompt = "".join(parts)
    messages = messages_of(prompt)
    assert messages
    said = "".join(str(message["content"]) for message in messages if isinstance(message, dict))
    assert said.count("x") == prompt.count("x")


@pytest.mark.parametrize(
    ("prompt", "messages"),
    [
        ("", [("user", "")]),
        (f"{OPEN}assistant\n", [("user", f"{OPEN}assistant\n")]),
        (f"{OPEN}user\n{OPEN}assistant\n", [("user", "")]),
        (f"{OPEN}user\nHi{CLOSE}\n{OPEN}assistant\nHel", [("user", "Hi"), ("assistant", "Hel")]),
        (f"{OPEN}user\nHi", [("user", "Hi")]),
        (f"{OPEN}user\na{CLOSE}\nb{CLOSE}\n", [("user", f"a{CLOSE}\nb")]),
        (f"{OPEN}robot\nHi{CLOSE}\n", [("user", f"{OPEN}robot\nHi{CLOSE}\n")]),
    ],
)
def test_prompts_at_the_edge(prompt: str, messages: list[tuple[str, str]]) -> None:
    """Empty ones, a started answer, marks in a text, and a role that is none."""
    expected: list[JsonObject] = [{"role": role, "content": content} for role, content in messages]
    assert messages_of(prompt) == expected
