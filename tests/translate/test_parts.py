"""A call that is made for each element of an array: what is asked, and how the streams become one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import GatewayError
from proxy.framing import FRAMINGS
from proxy.limits import ELEMENTS_MAX
from proxy.ruleset import load_rules
from proxy.ruleset.playing import Part, frames_of, play_stream, run_parts, sample_scope
from proxy.translate.operations import summed
from proxy.translate.plan import Route
from proxy.translate.request import Question
from proxy.translate.stream import translator_of
from proxy.types import Json, JsonObject
from tests.translate.building import FUNCTIONS

ERRORS = """
kinds: {default: {status: 500}}
body: {fields: {error: error.kind}}
frame: {fields: {error: error.kind, so_far: text}}
"""
ROUTE = """
route: parts
description: For tests.
match: {method: POST, path: /parts}
worker: {kind: llm, model: body.model}
steps:
  - {check: "body.parts != 'none'", field: parts, message: "parts: none"}
  - {set: size, ask: {operation: count, with: {prompt: body.model}, result: count}}
call:
  operation: generate
  each: body.parts
  with: {prompt: {from: item, type: string}, seed: index, max_tokens: steps.size}
stream:
  to:
    framing: ndjson
    text: incremental
    first: {fields: {begins: index}}
    chunk: {fields: {text: new_text}}
    last: {fields: {text: new_text, end: finish}}
    final: {fields: {total: usage}}
"""


def loaded(folder: Path) -> Route:
    (folder / "pack.yaml").write_text("pack: sample\ndescription: For tests.\nbackend: fastchat\n", encoding="utf-8")
    (folder / "errors.yaml").write_text(ERRORS, encoding="utf-8")
    (folder / "route.yaml").write_text(ROUTE, encoding="utf-8")
    return load_rules([folder], FUNCTIONS).table.routes[0]


def _route() -> Route:
    with tempfile.TemporaryDirectory() as folder:
        return loaded(Path(folder))


PARTS = _route()


def asked(parts: Json, questions: list[Question]) -> list[Part]:
    def answer(question: Question) -> Json:
        questions.append(question)
        return {"count": 7, "error_code": 0}

    return run_parts(PARTS, sample_scope(PARTS, {"model": "m", "parts": parts}, {}), answer)


def test_each_element_has_a_request_of_its_own() -> None:
    """Arguments see the element and its place; steps and their questions are the same for all, and done once."""
    questions: list[Question] = []
    parts = asked(["a", "b", "c"], questions)
    assert [part.built.scope["call"] for part in parts] == [
        {"prompt": prompt, "seed": seed, "max_tokens": 7} for seed, prompt in enumerate("abc")
    ]
    assert [(part.scope["item"], part.scope["index"]) for part in parts] == [("a", 0), ("b", 1), ("c", 2)]
    assert {part.built.elements for part in parts} == {3}
    assert len(questions) == 1


@pytest.mark.parametrize(
    ("parts", "got"),
    [
        ([], "0"),
        ("a", "'a'"),
        (None, "null"),
        ({"a": 1}, "an object"),
        (["a"] * (ELEMENTS_MAX + 1), f"{ELEMENTS_MAX + 1}"),
    ],
)
def test_what_is_no_array_of_elements_is_refused(parts: Json, got: str) -> None:
    """So are an empty one and one with too many."""
    with pytest.raises(GatewayError) as caught:
        asked(parts, [])
    assert caught.value.kind == "invalid_request"
    assert caught.value.message == (
        f"the request does not fit the rule 'parts': expected 1 to {ELEMENTS_MAX} parts to answer, got {got}"
    )


def test_an_element_that_does_not_fit_is_refused() -> None:
    """Whichever it is."""
    with pytest.raises(GatewayError) as caught:
        asked(["a", 5], [])
    assert caught.value.kind == "invalid_request"


def wire(text: str, usage: Json) -> bytes:
    chunks: list[JsonObject] = [{"text": text}, {"text": text, "finish_reason": "stop", "usage": usage}]
    return b"".join(orjson.dumps(chunk) + b"\0" for chunk in chunks)


@given(st.lists(st.sampled_from(["", "a", "bc", "\ufffd"]), min_size=1, max_size=4), st.integers(0, 3))
def test_the_streams_are_one(texts: list[str], broken: int) -> None:
    """However many, whatever is in them, and wherever one breaks off."""
    parts = asked([f"part {number}" for number in range(len(texts))], [])
    out, usages, failed = b"", list[Json](), False
    for index, (part, text) in enumerate(zip(parts, texts, strict=True)):
        assert PARTS.source is not None
        translator = translator_of(part.built, part.scope, earlier=usages, more=index + 1 < len(parts))
        usage: Json = {"prompt_tokens": 1, "completion_tokens": index, "total_tokens": 1 + index}
        data = wire(text, usage)
        out += play_stream(translator, PARTS.source, [data[: len(data) // 3] if index == broken else data], cut=False)
        usages.append(translator.reader.usage)
        assert translator.closed
        if translator.error is not None:
            failed = True
            break
    frames = [frame for frame in frames_of(FRAMINGS["ndjson"], out) if isinstance(frame, dict)]
    count = len(texts)
    if failed:
        assert set(frames[-1]) == {"error", "so_far"}
        assert [frame for frame in frames if "total" in frame] == []
        return
    total = count * (count - 1) // 2
    assert frames[-1] == {"total": {"prompt_tokens": count, "completion_tokens": total, "total_tokens": count + total}}
    assert [frame["begins"] for frame in frames if "begins" in frame] == [*range(count)]
    assert [frame["end"] for frame in frames if "end" in frame] == ["stop"] * count
    assert "".join(str(frame.get("text", "")) for frame in frames) == "".join(texts)


@pytest.mark.parametrize(
    ("usages", "total"),
    [
        ([], None),
        ([None, None], None),
        ([{"a": 1}, None, {"a": 2, "b": 3}], {"a": 3, "b": 3}),
        ([{"a": 1, "x": "y", "z": None, "t": True, "d": {"a": 1}}, {"a": 1.5}], {"a": 1}),
        ([{}], {}),
    ],
)
def test_usages_together(usages: list[Json], total: Json) -> None:
    """Whole numbers are added up; what is none has no sum."""
    assert summed(usages) == total
