from __future__ import annotations

import time
import tracemalloc

import pytest

from proxy.backends.chat_template import ChatTemplate, ChatTemplateError
from proxy.types import Json

DIALOGUE: Json = [{"role": "user", "content": "hi"}]
A_MEGABYTE = '{% set x = "a" * 1000000 %}'
DOUBLED_LIST = (
    "{% set ns = namespace(s=[1], t=[1]) %}"
    "{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}"
)
DOUBLED_TUPLE = "{% set ns = namespace(s=(1,)) %}{% for i in range(60) %}{% set ns.s = (ns.s, ns.s) %}{% endfor %}"
DOUBLED_SPACE = (
    "{% set ns = namespace(s=1) %}{% for i in range(60) %}{% set ns.s = namespace(a=ns.s, b=ns.s) %}{% endfor %}"
)
KEPT = "{% set ns = namespace(l=[]) %}{% for i in range(1000) %}{% set ns.l = ns.l + [KEEP] %}{% endfor %}"

HOSTILE = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a huge range": "{% for i in range(10**9) %}{% for j in range(10**9) %}x{% endfor %}{% endfor %}",
    "loops whose bodies never run": "{% for i in range(99999) if i > 99999 %}{% endfor %}" * 50,
    "a text times a number": '{{ "a" * 10**9 }}',
    "a number times a text": '{{ 10**9 * "a" }}',
    "a list times a number": "{% set x = [1] * 100000000 %}",
    "a power": "{{ 9 ** (9 ** (9 ** 9)) }}",
    "a negative power": "{{ 2 ** -1000000000 }}",
    "a squared number": "{% set ns = namespace(s=3) %}{% for i in range(60) %}{% set ns.s = ns.s * ns.s %}{% endfor %}",
    "a doubled text": '{% set ns = namespace(s="a") %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}',
    "an added text": '{% set ns = namespace(s="a") %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}',
    "an added list": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "a list of itself, written": DOUBLED_LIST + "{{ ns.s }}",
    "a list of itself, as JSON": DOUBLED_LIST + "{{ ns.s | tojson }}",
    "a list of itself, as text": DOUBLED_LIST + "{{ ns.s | string | length }}",
    "a list of itself, joined": DOUBLED_LIST + "{{ [ns.s] | join }}",
    "a list of itself, compared": DOUBLED_LIST + "{{ ns.s == ns.t }}",
    "a list of itself, sought": DOUBLED_LIST + "{{ ns.s in [ns.t] }}",
    "a list of itself, selected": DOUBLED_LIST + "{{ [ns.s] | select('in', [ns.t]) | list | length }}",
    "a list of itself, tested": DOUBLED_LIST + "{{ ns.s is eq(ns.t) }}",
    "a list of itself, changed": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set ns.s = [ns.s, ns.s] %}{% set x = loop.changed(ns.s) %}{% endfor %}",
    "a tuple of itself as a key": DOUBLED_TUPLE + "{{ {ns.s: 1} | length }}",
    "a tuple of itself as an index": DOUBLED_TUPLE + "{{ {}[ns.s] }}",
    "a tuple of itself, got": DOUBLED_TUPLE + "{{ {}.get(ns.s) }}",
    "a tuple of itself, unique": DOUBLED_TUPLE + "{{ [ns.s] | unique | list }}",
    "a namespace of itself": DOUBLED_SPACE + "{{ ns }}",
    "a namespace of itself in a list": DOUBLED_SPACE + "{{ [ns] | join }}",
    "replace": A_MEGABYTE + '{{ x | replace("a", x) }}',
    "replace as a method": A_MEGABYTE + '{{ x.replace("", x) }}',
    "join": A_MEGABYTE + "{{ range(99999) | join(x) }}",
    "join as a method": A_MEGABYTE + '{{ x.join(range(99999) | map("string")) }}',
    "indent": "{{ [1] | tojson(indent=10**9) }}",
    "an indent of text": A_MEGABYTE + "{{ [1] | tojson(indent=x) }}",
    "separators": A_MEGABYTE + '{{ range(9999) | list | tojson(separators=(x, ":")) }}',
    "a selection that finds nothing": "{{ range(99999) | map('string') | select('in', range(99999) | list) | list }}",
    "a list in a loop": "{% for i in range(99999) %}{% set x = range(99999) | list %}{% endfor %}",
    "a sort in a loop": "{% for i in range(99999) %}{% set x = range(99999) | sort %}{% endfor %}",
    "a macro that calls itself twice": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a macro without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a caller that calls twice": "{% macro f(n) %}{{ caller() }}{{ caller() }}{% if n %}{% call f(n-1) %}{{ f(n-1) }}"
    "{% endcall %}{% endif %}{% endmacro %}{% call f(60) %}x{% endcall %}",
    "a loop without end": "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "a loop in itself": "{% for x in range(3) recursive %}{% if loop.depth < 50 %}{{ loop(range(3)) }}{% endif %}"
    "{% endfor %}",
    "a long text in a loop": "{% for i in range(99999) %}" + "y" * 60_000 + "{% endfor %}",
    "a long text kept": "{% set x %}{% for i in range(99999) %}" + "y" * 60_000 + "{% endfor %}{% endset %}",
    "parts kept": '{% set x = "a," * 1000000 %}' + KEPT.replace("KEEP", "x.split(',')"),
    "words kept": '{% set x = "a " * 1000000 %}' + KEPT.replace("KEEP", "x.split()"),
    "characters kept": '{% set x = "你" * 1000000 %}' + KEPT.replace("KEEP", "x | list"),
    "slices kept": '{% set x = "你" * 1000000 %}' + KEPT.replace("KEEP", "x[1:]"),
    "titles": '{% set x = "ab " * 1000000 %}{% for i in range(1000) %}{% set y = x | title %}{% endfor %}',
    "searches": A_MEGABYTE + '{% set y = x ~ "b" %}{% for i in range(9999) %}{% set z = y in x %}{% endfor %}',
    "counts": A_MEGABYTE + '{% for i in range(9999) %}{% set z = x.count("a" * 500 ~ "b") %}{% endfor %}',
    "many arguments": "{% macro f() %}{{ varargs | length }}{% endmacro %}"
    "{% for i in range(9999) %}{{ f(*range(99999)) }}{% endfor %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_soon_and_cheaply(name: str) -> None:
    """Whatever a template tries, its rendering ends with an error that names the line, in little time and memory."""
    template = ChatTemplate(HOSTILE[name])
    started = time.process_time()
    with pytest.raises(ChatTemplateError) as caught:
        template.render(DIALOGUE)
    assert time.process_time() - started < 5, "seconds"
    assert caught.value.line == 1


@pytest.mark.parametrize("name", [name for name in HOSTILE if name.endswith("kept") or name.startswith("an added")])
def test_a_hostile_template_holds_little_memory(name: str) -> None:
    """What a template can hold at one time is bounded, also when it keeps all it makes."""
    template = ChatTemplate(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ChatTemplateError):
            template.render(DIALOGUE)
        assert tracemalloc.get_traced_memory()[1] < 150_000_000
    finally:
        tracemalloc.stop()


def test_text_methods_work_inside_loops_and_macros() -> None:
    """Methods of a text take their arguments wherever they are called."""
    template = ChatTemplate(
        "{% macro f(t) %}{{ t.split('-')[1].upper() }}{% endmacro %}"
        "{% for m in messages %}{% set c = m.content %}{{ c.strip() }}{{ c.replace('a', 'b', 1) }}{{ f(c) }}"
        "{{ '+'.join(c.split('-')) }}{{ c.find('x') }}{{ c.split('-', maxsplit=1)[0] }}{% endfor %}"
    )
    assert template.render([{"role": "user", "content": "aa-x"}]) == "aa-xba-xXaa+x3aa"


def test_numbers_up_to_sixty_four_bits_are_calculated() -> None:
    """Ordinary arithmetic is not refused."""
    assert ChatTemplate("{{ 2 ** 10 * 3 - 1 }},{{ 7 // 2 }},{{ 7 % 4 }},{{ 1 / 2 }}").render([]) == "3071,3,3,0.5"
