from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.generation import Parameters, RefusedError, UnhandledError, frames
from proxy.demo.language import answer, embedding, text_of, tokens, turns
from proxy.types import Json, JsonObject

PROMPT = "Be brief. USER: Hello! ASSISTANT: Hi.</s>USER: 你好 🎉 ASSISTANT:"


def generated(**params: Json) -> list[JsonObject]:
    body: JsonObject = {"prompt": PROMPT, "echo": False, **params}
    return list(frames(Parameters.read(body), model="demo", words=5, context_length=4096))


def texts(made: list[JsonObject]) -> list[str]:
    return [str(frame["text"]) for frame in made]


def dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.text())
def test_tokens_hold_the_whole_text(text: str) -> None:
    """Nothing of a text is lost in tokens, and counting it twice gives the same number."""
    assert text_of(tokens(text)) == text.encode("utf-8", "replace").decode()
    assert all(tokens(text))


def test_turns_are_found_in_a_rendered_prompt() -> None:
    """The system sentence and every turn come back; the open turn at the end is not one of them."""
    assert turns(PROMPT) == ("Be brief.", [("USER", "Hello!"), ("ASSISTANT", "Hi."), ("USER", "你好 🎉")])
    assert turns("just text") == ("just text", [])


def test_the_answer_tells_what_arrived() -> None:
    """A person who reads the answer can check the prompt: its length, its system sentence, its turns, its settings."""
    text = answer(PROMPT, "demo", "temperature 0.5", 3)
    assert f"{len(PROMPT)} characters" in text
    assert 'system sentence "Be brief."' in text
    assert 'Turn 2 of 3, ASSISTANT, 3 characters: "Hi."' in text
    assert 'backwards: "🎉 好你"' in text
    assert "temperature 0.5" in text
    assert text.endswith("1 2 3")


def test_the_answer_to_a_long_prompt_stays_short() -> None:
    """Neither many turns nor long ones make the answer grow without bound."""
    prompt = " ".join(f"USER: {'long ' * 1000} ASSISTANT: yes</s>" for _ in range(100))
    assert len(answer(prompt, "demo", "", 0)) < 2500


def test_a_character_cut_in_the_middle_is_replaced_and_later_whole() -> None:
    """Some frame ends in U+FFFD where the final text has a Chinese character, as with a byte-level vocabulary."""
    made = texts(generated())
    cut = [text for text in made if text.endswith("\ufffd")]
    assert cut
    assert "\ufffd" not in made[-1]
    assert "你好 🎉" in made[-1]
    assert all(made[-1].startswith(text.rstrip("\ufffd")) for text in made)


def test_frames_count_as_the_real_worker_counts() -> None:
    """The first frame has one token and counts none, then two at a time, then the last one again with its reason."""
    made = generated(max_new_tokens=6)
    usages = [frame["usage"] for frame in made]
    count = len(tokens(PROMPT))
    assert [usage["completion_tokens"] for usage in usages if isinstance(usage, dict)] == [0, 2, 4, 5, 5]
    assert usages[-1] == {"prompt_tokens": count, "completion_tokens": 5, "total_tokens": count + 5}
    assert [frame["finish_reason"] for frame in made] == [None, None, None, None, "length"]
    assert made[-2]["text"] == made[-1]["text"]


def test_an_answer_that_is_told_to_its_end_stops() -> None:
    """The whole answer ends with reason stop."""
    made = generated(max_new_tokens=1000)
    assert made[-1]["finish_reason"] == "stop"
    assert texts(made)[-1].endswith("1 2 3 4 5")


def test_it_goes_on_behind_its_own_text() -> None:
    """A prompt that ends with any beginning of the answer gets the rest of it, whatever came in the turns before."""
    first = texts(generated(max_new_tokens=500))[-1]
    prompt = f"{PROMPT}{first}</s>USER: And now? ASSISTANT:"
    whole = texts(generated(prompt=prompt, max_new_tokens=500))
    assert whole[-1].endswith("1 2 3 4 5")
    assert whole[-1] != first
    for told in {text.rstrip("\ufffd") for text in whole}:
        left = 500 - len(tokens(told))
        made = generated(prompt=f"{prompt}{told}", max_new_tokens=left)
        assert (told + texts(made)[-1], made[-1]["finish_reason"]) == (whole[-1], "stop")


def test_what_is_not_its_own_text_is_a_prompt() -> None:
    """Words that are like the answer's, or an answer to something else, are answered as any."""
    first = texts(generated(max_new_tokens=500))[-1]
    for prompt in ("AI", "I am", f"USER: Hi ASSISTANT:{first}", f"{PROMPT}{first} No"):
        assert texts(generated(prompt=prompt, max_new_tokens=500))[-1].startswith("I am demo, a demonstration worker")


@pytest.mark.parametrize("stop", ["count:", ["never said", "count:"]])
def test_a_stop_string_ends_the_text_before_it(stop: Json) -> None:
    """The stop string, and any beginning of it, is in no frame."""
    made = generated(stop=stop, max_new_tokens=1000)
    assert texts(made)[-1].endswith("Now I ")
    assert made[-1]["finish_reason"] == "stop"
    assert not any(text.endswith(("c", "cou", "count")) for text in texts(made) if "Now I" in text)


def test_echo_is_the_default_and_its_stops_count_only_after_the_prompt() -> None:
    """By default the prompt comes back before the answer, and a stop string in the prompt does not end the answer."""
    body: JsonObject = {"prompt": PROMPT, "stop": "USER:"}
    made = texts(list(frames(Parameters.read(body), model="demo", words=0, context_length=4096)))
    assert all(text.startswith(PROMPT) for text in made)
    assert len(made[-1]) > len(PROMPT) + 100


def test_logprobs_have_one_entry_for_each_token() -> None:
    """With logprobs asked for, each frame has four lists of the same length; offsets add up the tokens' texts."""
    for frame in generated(logprobs=1, max_new_tokens=7):
        logprobs = frame["logprobs"]
        assert isinstance(logprobs, dict)
        assert set(logprobs) == {"text_offset", "tokens", "token_logprobs", "top_logprobs"}
        assert len({len(entry) for entry in logprobs.values() if isinstance(entry, list)}) == 1
        assert isinstance(logprobs["tokens"], list)
        assert isinstance(logprobs["text_offset"], list)
        assert logprobs["text_offset"][-1] == sum(len(str(text)) for text in logprobs["tokens"][:-1])


@pytest.mark.parametrize(
    "params",
    [
        {"prompt": None},
        {"prompt": 5},
        {"temperature": None},
        {"top_k": None},
        {"max_new_tokens": None},
        {"max_new_tokens": 0},
        {"stop_token_ids": 5},
        {"stop": [1]},
        {"top_p": []},
    ],
)
def test_what_the_real_worker_does_not_survive_is_unhandled(params: JsonObject) -> None:
    """A null or ill-typed parameter is as dangerous here as in the real worker."""
    with pytest.raises(UnhandledError):
        generated(**params)


@pytest.mark.parametrize(("params", "name"), [({"temperature": "warm"}, "temperature"), ({"stop": 5}, "stop")])
def test_what_the_real_worker_reports_is_refused_by_name(params: JsonObject, name: str) -> None:
    """These make an error frame that names the parameter."""
    with pytest.raises(RefusedError, match=name):
        generated(**params)


def test_null_stops_are_allowed() -> None:
    """Stop strings and stop tokens are the two parameters that may be null."""
    assert generated(stop=None, stop_token_ids=None, max_new_tokens=2)[-1]["finish_reason"] == "length"


def test_vectors_have_length_one_and_a_meaning() -> None:
    """The same text has the same vector, texts that share words are nearer than texts that do not."""
    cat, cats, stone = embedding("the cat sat on the mat"), embedding("a cat sat on a mat"), embedding("granite 42")
    assert math.isclose(dot(cat, cat), 1.0, rel_tol=1e-5)
    assert cat == embedding("the cat sat on the mat")
    assert dot(cat, cats) > dot(cat, stone) + 0.3
    assert len(embedding("")) == len(cat)
