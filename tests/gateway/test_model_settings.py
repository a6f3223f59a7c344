"""What the settings say of a model, as its worker and its clients see it."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.demo.worker import DemoWorker
from proxy.types import Json, JsonObject
from tests.gateway.rig import HELLO, MODEL, demo_worker, running

JINJA = "{{ bos_token }}{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
DIALOGUE: list[Json] = [
    {"role": "system", "content": "Be brief."},
    {"role": "human", "content": "你好"},
    {"role": "ai", "content": "Hi"},
    {"role": "human", "content": "😀?"},
]
TEMPLATED = "<s><system>Be brief.<user>你好<assistant>Hi<user>😀?<assistant>"


def generated(worker: DemoWorker) -> JsonObject:
    """The body of the one request for an answer."""
    (body,) = [body for path, body in worker.requests if path == "/worker_generate_stream"]
    return body


async def sent(of_model: JsonObject, body: JsonObject, **settings: Json) -> JsonObject:
    """What the worker is sent for a request when the settings say this of its model."""
    async with demo_worker() as worker, running(worker.address, given={"models": {MODEL: of_model}, **settings}) as rig:
        reply = await rig.post("generate", body)
        assert reply.object["error_code"] == 0, reply.object
        return generated(worker)


async def test_a_chat_template_in_the_settings_replaces_the_worker_s() -> None:
    """The prompt is the operator's template's, and so are the stops, joined with the request's."""
    of_model: JsonObject = {"chat_template": JINJA, "bos_token": "<s>", "stop": ["<user>"], "stop_token_ids": [2]}
    body = await sent(of_model, {"model": MODEL, "messages": DIALOGUE, "stop": "END", "stop_token_ids": [7]})
    assert body["prompt"] == TEMPLATED
    assert (body["stop"], body["stop_token_ids"]) == (["END", "<user>"], [7, 2])


async def test_a_chat_template_in_a_file_replaces_the_worker_s(tmp_path: Path) -> None:
    """A file does the same as the text itself."""
    file = tmp_path / "own.jinja"
    file.write_text(JINJA, encoding="utf-8")
    body = await sent({"chat_template_file": str(file), "bos_token": "<s>"}, {"model": MODEL, "messages": DIALOGUE})
    assert body["prompt"] == TEMPLATED
    assert body.keys().isdisjoint({"stop", "stop_token_ids"})


async def test_a_chat_template_that_refuses_a_dialogue() -> None:
    """The caller gets the template's own reason, and nothing is generated."""
    of_model: JsonObject = {"chat_template": "{{ raise_exception('roles must alternate') }}"}
    async with demo_worker() as worker, running(worker.address, given={"models": {MODEL: of_model}}) as rig:
        reply = await rig.post("generate", HELLO)
        assert reply.object["error_code"] == 40001
        assert "roles must alternate" in str(reply.object["text"])
        assert not [path for path, _ in worker.requests if path == "/worker_generate_stream"]


async def test_a_completion_goes_past_the_operator_s_template_too() -> None:
    """chat_model false takes the prompt as it is, without the template's stops."""
    of_model: JsonObject = {"chat_template": JINJA, "stop": ["<user>"]}
    body = await sent(of_model, {"model": MODEL, "prompt": "Once", "chat_model": False})
    assert body["prompt"] == "Once"
    assert "stop" not in body


async def test_a_style_in_the_settings_beats_the_worker_s_number() -> None:
    """A worker whose number means another style is rendered in the one that is named."""
    plain = await sent({}, HELLO)
    styled = await sent({"template_style": "chatml"}, HELLO)
    assert "Hello" in str(styled["prompt"])
    assert ": Hello" in str(plain["prompt"])
    assert "\nHello" in str(styled["prompt"])


async def test_a_context_length_in_the_settings_is_the_one_that_counts() -> None:
    """Metadata show it, an answer is cut to it, and a prompt beyond it is refused with it."""
    given = {"models": {MODEL: {"context_length": 64}}}
    async with demo_worker() as worker, running(worker.address, given=given) as rig:
        metadata = await rig.client.model_metadata()
        assert metadata["context_length"] == 64
        reply = await rig.post("generate", {"model": MODEL, "prompt": "one two", "max_new_tokens": 4000})
        assert reply.object["error_code"] == 0
        asked_for = generated(worker)["max_new_tokens"]
        assert isinstance(asked_for, int)
        assert 0 < asked_for < 64
        refused = await rig.post("generate", {"model": MODEL, "prompt": "word " * 200})
        assert refused.object["error_code"] == 40303
        assert "64" in str(refused.object["text"])


@pytest.mark.parametrize(
    ("said", "of_model", "common", "expected"),
    [
        ({}, {}, {}, None),
        ({}, {}, {"temperature": 0.5}, 0.5),
        ({}, {"temperature": 0.0}, {"temperature": 0.5}, 0.0),
        ({"temperature": 0.7}, {"temperature": 0.0}, {"temperature": 0.5}, 0.7),
        ({"temperature": 0}, {"temperature": 0.9}, {"temperature": 0.5}, 0),
    ],
)
async def test_the_nearest_default_counts(
    said: JsonObject, of_model: JsonObject, common: JsonObject, expected: float | None
) -> None:
    """A request beats the model's default, which beats the common one; a temperature of nought is a value."""
    body = await sent({"defaults": of_model}, {**HELLO, **said}, defaults=common)
    assert body.get("temperature") == expected
    assert ("temperature" in body) is (expected is not None)
