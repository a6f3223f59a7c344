"""The rule functions that need a product's knowledge: conversation templates as prompts and stop conditions."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

from proxy.backends.fastchat import conversation as templates
from proxy.backends.fastchat import dialogue
from proxy.expr import STANDARD, ExpressionError, FunctionRegistry, Parameter
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from proxy.backends.chat_template import ChatTemplate

_CONVERSATION = Parameter("conversation", "any")


def rule_functions() -> FunctionRegistry:
    """The standard functions and those of the backends, for the rule compiler."""
    registry = STANDARD.copy()
    registry.register(
        name="render_prompt",
        parameters=[Parameter("messages", "array"), _CONVERSATION],
        returns="string",
        doc="The prompt of a dialogue: messages with role (system, user, assistant) and content, in its template.",
        examples=[
            (
                """render_prompt([{role: 'user', content: 'Hi'}], {chat_template: '{{ messages[0].content }}!'})""",
                "Hi!",
            )
        ],
    )(_render_prompt)
    registry.register(
        name="dialogue_template",
        parameters=[Parameter("name", "string")],
        returns="object",
        doc="A FastChat conversation template for a model that takes messages; `messages_of` reads prompts in it.",
        examples=[("dialogue_template('m').sep_style", 6)],
    )(_dialogue_template)
    registry.register(
        name="messages_of",
        parameters=[Parameter("prompt", "string")],
        returns="array",
        doc="The messages of a prompt in `dialogue_template`; of any other prompt, itself as what the user says.",
        examples=[
            ("messages_of('Hi')", [{"role": "user", "content": "Hi"}]),
            (
                r"""messages_of(`"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"`)""",
                [{"role": "user", "content": "Hi"}],
            ),
        ],
    )(_messages_of)
    registry.register(
        name="stop_strings",
        parameters=[_CONVERSATION, Parameter("requested", "any")],
        returns="array",
        doc="The stop strings of a request (a string, an array or null) and of a model's template, each once.",
        examples=[('stop_strings(`null`, `["a", "", "a"]`)', ["a"])],
    )(_stop_strings)
    registry.register(
        name="stop_token_ids",
        parameters=[_CONVERSATION, Parameter("requested", "any")],
        returns="array",
        doc="The stop token ids of a request (an array or null) and of a model's template, each once.",
        examples=[("stop_token_ids(`null`, `[2, 2]`)", [2])],
    )(_stop_token_ids)
    return registry


def _prepared(conversation: Json) -> JsonObject:
    """A template in the worker's own form, as rule tests have it, is prepared here; the fleet's are already."""
    if conversation is None:
        return {}
    if not isinstance(conversation, dict):
        raise ExpressionError("the model's conversation template is not an object")
    if conversation and "layout" not in conversation and "chat_template" not in conversation:
        return templates.prepare_conversation(conversation)
    return conversation


@lru_cache(maxsize=64)
def _template(source: str) -> ChatTemplate:
    from proxy.backends.chat_template import ChatTemplate  # late: few models need a template engine

    return ChatTemplate(source)


def _render_prompt(messages: Json, conversation: Json) -> Json:
    try:
        prepared = _prepared(conversation)
        if not prepared:
            raise ExpressionError("this model has no conversation template, so it takes a prompt and no messages")
        source = prepared.get("chat_template")
        if isinstance(source, str):
            bos, eos = str(prepared.get("bos_token") or ""), str(prepared.get("eos_token") or "")
            return _template(source).render(messages, bos_token=bos, eos_token=eos)
        return templates.render_prompt(prepared, messages)
    except ValueError as error:
        raise ExpressionError(str(error)) from None


def _dialogue_template(name: Json) -> Json:
    return dialogue.template(str(name))


def _messages_of(prompt: Json) -> Json:
    return dialogue.messages_of(str(prompt))


def _stop_strings(conversation: Json, requested: Json) -> Json:
    try:
        return cast("list[Json]", templates.stop_strings(_prepared(conversation), requested))
    except ValueError as error:
        raise ExpressionError(str(error)) from None


def _stop_token_ids(conversation: Json, requested: Json) -> Json:
    try:
        return cast("list[Json]", templates.stop_token_ids(_prepared(conversation), requested))
    except ValueError as error:
        raise ExpressionError(str(error)) from None
