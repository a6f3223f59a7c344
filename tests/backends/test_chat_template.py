from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.backends.chat_template import ChatTemplate, ChatTemplateError, ChatTemplateRefusedError
from proxy.types import Json

# A template of one's own that does what those of published models do.
LONG = """\
{%- macro call_of(call) -%}<call>{{ call | tojson(indent=2) }}</call>{%- endmacro -%}
{%- set ns = namespace(last=-1, seen=[]) -%}
{%- for m in messages[::-1] if m.role != 'system' -%}
    {%- if m.role == 'user' and not m.content.startswith('<r>') and ns.last < 0 -%}
        {%- set ns.last = messages | length - loop.index -%}
    {%- endif -%}
    {%- set ns.seen = ns.seen + [m.role] -%}
{%- endfor -%}
{%- if messages and messages[0]['role'] == 'system' -%}
    {%- set system = messages[0]['content'] | trim -%}
    {%- set rest = messages[1:] -%}
{%- else -%}
    {%- set system = 'default ' * 2 -%}
    {%- set rest = messages -%}
{%- endif -%}
{{ bos_token }}{{ '<|sys|>' + system + '<|end|>\\n' }}
{%- for m in rest %}
    {%- set content = m.content.split('</think>')[-1].lstrip('\\n') if '</think>' in m.content else m.content -%}
    {%- if m.get('tools') -%}
        {%- for call in m.tools -%}{{ call_of(call) }}{%- if not loop.last %}, {% endif -%}{%- endfor -%}
    {%- elif m.role in ['user', 'assistant'] or m.role is string -%}
        {{ '<|' ~ m.role | upper ~ '|' ~ loop.index0 ~ '>' ~ content | replace('a', 'bb') ~ '<|end|>\\n' }}
    {%- endif -%}
    {%- if loop.index > 50 -%}{%- break -%}{%- endif -%}
    {%- for key, value in m.items() | sort if key != 'content' -%}{{ key[:3] }}={{ value }};{%- endfor -%}
{%- endfor -%}
{{ ns.seen | join('/') }}|{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list }}
{% if tools is none and documents is not defined %}{% else %}{{ [1, 2.5, none, {'k': 'é"'}] | tojson }}{% endif %}
{% for i in range(7, 0, -2) %}{{ i % 3 }}{{ i ** 2 }}{{ loop.cycle('x', 'y') }}{% endfor %}
{%- if add_generation_prompt -%}<|assistant|>{%- else -%}{{ eos_token }}{%- endif -%}
"""
DIALOGUE: Json = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "你好 👋"}]


def plain_jinja(source: str, messages: Json, **given: object) -> str:
    """The same template in Jinja's own sandbox, set up as for a Hugging Face model, without any metering."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def tojson(value: object, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    environment.filters["tojson"] = tojson
    return environment.from_string(source).render(messages=messages, tools=None, documents=None, **given)


MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant"]),
        "content": st.text(max_size=20) | st.just("a</think>\nb"),
    },
    optional={
        "tools": st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.none(), max_size=2), max_size=2)
    },
)
LONG_TEMPLATE = ChatTemplate(LONG)


@given(messages=st.lists(MESSAGE, max_size=6), prompt=st.booleans())
def test_a_rendering_is_jinjas_own(messages: list[Any], prompt: bool) -> None:
    """Limits change nothing in the text of a template that stays within them."""
    given: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": prompt}
    assert LONG_TEMPLATE.render(messages, **given) == plain_jinja(LONG, messages, **given)


def test_a_template_sees_what_hugging_face_templates_expect() -> None:
    """Messages, both tokens, the generation prompt and null tools are there; strftime_now is not."""
    source = (
        "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
        "{% if tools is not none %}tools{% endif %}{% if strftime_now is defined %}time{% endif %}"
    )
    template = ChatTemplate(source)
    rendered = template.render(DIALOGUE, bos_token="<s>", eos_token="</s>")
    assert rendered == "<s>[system] Be brief.</s>\n[user] 你好 👋</s>\n[assistant] "
    assert template.render([], add_generation_prompt=False) == ""


def test_raise_exception_is_the_requests_mistake() -> None:
    """A dialogue that the template refuses is told apart from a broken template, with the template's words."""
    template = ChatTemplate("{% for m in messages %}\n{{ raise_exception('roles must alternate') }}{% endfor %}")
    with pytest.raises(ChatTemplateRefusedError, match=r"^chat template, line 2: roles must alternate$") as caught:
        template.render(DIALOGUE)
    assert (caught.value.line, caught.value.reason) == (2, "roles must alternate")
    assert template.render([]) == ""


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("a\n{% if %}", 2, "Expected an expression"),
        ("\n\n{{ 1 | center(9) }}", 3, "No filter named 'center'"),
        ("\n{{ 1 is nothing }}", 2, "No test named 'nothing'"),
        ("\n{% include '/etc/passwd' %}", 2, "include: a chat template is one text"),
        ("{% import 'x' as y %}", 1, "import: a chat template is one text"),
        ("{% from 'x' import y %}", 1, "from: a chat template is one text"),
        ("{% extends 'x' %}", 1, "extends: a chat template is one text"),
        ("{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}", 1, "blocks are not supported"),
        ("{#" * 9, 1, "Missing end of comment tag"),
        ("x" * 65_537, None, "65537 characters, at most 65536 are accepted"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", None, "nested too deeply"),
        ("{{ 1" + "+1" * 20_000 + " }}", None, "nested too deeply"),
        ("\n{{ a" + ".b" * 300 + " }}", 2, "operators are nested more than 50"),
        (
            "{% for i in [1] %}" * 200 + "{% endfor %}" * 200,
            1,
            "loops, conditions and operators are nested more than 50",
        ),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, None, "nested too deeply"),
    ],
)
def test_a_template_that_does_not_compile_names_its_line(source: str, line: int | None, reason: str) -> None:
    """The operator finds the place from the message."""
    with pytest.raises(ChatTemplateError, match=reason) as caught:
        ChatTemplate(source)
    assert caught.value.line == line
    assert line is None or f"line {line}:" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("\n\n{{ 1 / 0 }}", 3, "ZeroDivisionError"),
        ("\n{{ none + 1 }}", 2, "TypeError"),
        ("\n{{ nobody.name }}", 2, "'nobody' is undefined"),
        ("{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ f() }}", 2, "ZeroDivisionError"),
        ("{{ messages.append(1) }}", 1, "'append' of 'list' object is unsafe"),
        ("{{ messages[0].update({}) }}", 1, "'update' of 'dict' object is unsafe"),
        ("{{ ''.__class__.__mro__ }}", 1, "'__class__' of 'str' object is unsafe"),
        ("{{ raise_exception.__globals__.x }}", 1, "'__globals__' of 'function' object is unsafe"),
        ("{{ ([1] | map('string')).gi_frame.f_back }}", 1, "'gi_frame' of 'generator' object is unsafe"),
        ("{{ '%d' % 1 }}", 1, "formatting with % is not supported"),
        ("{{ '{}'.format(1) }}", 1, "'format' of 'str' object is unsafe"),
        ("{{ lipsum() }}", 1, "'lipsum' is undefined"),
    ],
)
def test_a_template_that_fails_names_its_line(source: str, line: int, reason: str) -> None:
    """An error of a rendering tells where in the template it arose, and why."""
    with pytest.raises(ChatTemplateError, match=reason) as caught:
        ChatTemplate(source).render(DIALOGUE)
    assert caught.value.line == line
    assert not isinstance(caught.value, ChatTemplateRefusedError)


@pytest.mark.parametrize(
    "messages", [None, 1, "x", {}, [None], [1, "x"], [{"role": None}], [{"content": [{"type": "text"}]}]]
)
def test_odd_messages_give_a_text_or_an_error(messages: Json) -> None:
    """Nothing but ChatTemplateError comes out, whatever the messages are."""
    with contextlib.suppress(ChatTemplateError):
        assert isinstance(LONG_TEMPLATE.render(messages), str)


def test_a_long_dialogue_fits_the_default_limits() -> None:
    """A thousand long messages in a long template are rendered."""
    messages: list[Any] = [{"role": "user", "content": "你好 text " * 60} for _ in range(1000)]
    source = LONG.replace("{%- if loop.index > 50 -%}{%- break -%}{%- endif -%}", "")
    assert ChatTemplate(source).render(messages).count("<|end|>") == 1001


def test_the_limits_are_arguments() -> None:
    """Work, output and source can each be bounded more tightly."""
    template = ChatTemplate("{% for i in range(100) %}0123456789{% endfor %}")
    assert len(template.render([], max_output=1000)) == 1000
    with pytest.raises(ChatTemplateError, match="the prompt has more than 999 characters"):
        template.render([], max_output=999)
    with pytest.raises(ChatTemplateError, match="line 1: the template does too much work"):
        template.render([], max_work=100)
    with pytest.raises(ChatTemplateError, match="3 characters, at most 2"):
        ChatTemplate("abc", max_source=2)
