"""The product's own functions beside those of the JMESPath standard: arithmetic, text, arrays, JSON in strings.

They answer for every value of the declared types and never grow a value beyond MAX_TEXT characters at once. An integer
result of more than 64 bits becomes a floating-point number, and a result that is no finite number is null.
"""

from __future__ import annotations

import json
import math
from typing import Final

import orjson

from proxy.expr.array_functions import register_array_functions
from proxy.expr.errors import ExpressionError
from proxy.expr.functions import FunctionRegistry, Parameter
from proxy.expr.times import register_times
from proxy.types import Json, JsonObject

# The longest text that `replace` and `join` may make. Text and number of pieces can both come from a client, and their
# product would let one small request fill the memory. Prompts and completions are far shorter.
MAX_TEXT: Final = 16 * 1024 * 1024

_ADDITIONS: Final = FunctionRegistry()
_register = _ADDITIONS.register

_A: Final = Parameter("a", "number")
_B: Final = Parameter("b", "number")
_TEXT: Final = Parameter("text", "string")
_SEPARATOR: Final = Parameter("separator", "string")
_VALUE: Final = Parameter("value", "any")


def register_additions(registry: FunctionRegistry) -> None:
    """Add all functions of this module, and those of arrays and times, to a registry."""
    for function in _ADDITIONS:
        registry.add(function)
    register_array_functions(registry)
    register_times(registry)


@_register(
    name="add",
    parameters=[_A, _B],
    returns="number | null",
    doc="a + b.",
    examples=[("add(`1`, `2`)", 3), ("add(`1`, `0.5`)", 1.5)],
)
def _add(a: float, b: float) -> Json:
    return _bounded(a + b)


@_register(
    name="subtract",
    parameters=[_A, _B],
    returns="number | null",
    doc="a - b.",
    examples=[("subtract(`1`, `3`)", -2)],
)
def _subtract(a: float, b: float) -> Json:
    return _bounded(a - b)


@_register(
    name="multiply",
    parameters=[_A, _B],
    returns="number | null",
    doc="a times b; null when that is beyond all floating-point numbers.",
    examples=[("multiply(`4`, `2`)", 8), ("multiply(`1e200`, `1e200`)", None)],
)
def _multiply(a: float, b: float) -> Json:
    return _bounded(a * b)


@_register(
    name="divide",
    parameters=[_A, _B],
    returns="number | null",
    doc="a / b, an integer when both are integers and nothing remains; null when b is 0.",
    examples=[("divide(`6`, `2`)", 3), ("divide(`7`, `2`)", 3.5), ("divide(`1`, `0`)", None)],
)
def _divide(a: float, b: float) -> Json:
    if b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int) and a % b == 0:
        return _bounded(a // b)
    return _bounded(a / b)


@_register(
    name="lesser",
    parameters=[_A, _B],
    returns="number",
    doc="The smaller of two numbers.",
    examples=[("lesser(`4096`, `512`)", 512)],
)
def _lesser(a: float, b: float) -> Json:
    return min(a, b)


@_register(
    name="greater",
    parameters=[_A, _B],
    returns="number",
    doc="The larger of two numbers.",
    examples=[("greater(`0`, `-3`)", 0)],
)
def _greater(a: float, b: float) -> Json:
    return max(a, b)


@_register(
    name="is_integer",
    parameters=[_VALUE],
    returns="boolean",
    doc="Whether the value is a number without a fraction; 1.0 is one, true is not.",
    examples=[("is_integer(`3`)", True), ("is_integer(`3.0`)", True), ("is_integer('3')", False)],
)
def _is_integer(value: Json) -> Json:
    return value.is_integer() if isinstance(value, float) else type(value) is int


@_register(
    name="utf8_length",
    parameters=[_TEXT],
    returns="number",
    doc="The number of bytes of the text in UTF-8; length() counts characters.",
    examples=[("utf8_length('añb')", 4)],
)
def _utf8_length(text: str) -> Json:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


@_register(
    name="lower",
    parameters=[_TEXT],
    returns="string",
    doc="The text in small letters.",
    examples=[("lower('LoRA')", "lora")],
)
def _lower(text: str) -> Json:
    return text.lower()


@_register(
    name="upper",
    parameters=[_TEXT],
    returns="string",
    doc="The text in capital letters.",
    examples=[("upper('LoRA')", "LORA")],
)
def _upper(text: str) -> Json:
    return text.upper()


@_register(
    name="trim",
    parameters=[_TEXT],
    returns="string",
    doc="The text without white space at both ends.",
    examples=[("trim('  a b ')", "a b")],
)
def _trim(text: str) -> Json:
    return text.strip()


@_register(
    name="split",
    parameters=[_TEXT, _SEPARATOR],
    returns="array[string]",
    doc="The pieces between the separators; the characters of the text when the separator is empty.",
    examples=[("split('a,b,,', ',')", ["a", "b", "", ""]), ("split('ab', '')", ["a", "b"])],
)
def _split(text: str, separator: str) -> Json:
    return [*text.split(separator)] if separator else [*text]


@_register(
    name="replace",
    parameters=[_TEXT, Parameter("old", "string"), Parameter("new", "string")],
    returns="string",
    doc=f"The text with each old replaced; as it is when old is empty. An error over {MAX_TEXT} characters.",
    examples=[("replace('a-b-c', '-', '+')", "a+b+c"), ("replace('ab', '', 'x')", "ab")],
)
def _replace(text: str, old: str, new: str, *, limit: int = MAX_TEXT) -> Json:
    if not old:
        return text
    # Without growth no count is needed, and the text was accepted at its size already.
    if len(new) > len(old) and len(text) + text.count(old) * (len(new) - len(old)) > limit:
        raise ExpressionError(f"replace(): the result would have more than {limit} characters")
    return text.replace(old, new)


@_register(
    name="before",
    parameters=[_TEXT, _SEPARATOR],
    returns="string",
    doc="What stands before the first separator; the whole text when the separator is absent.",
    examples=[("before('model:7b', ':')", "model"), ("before('model', ':')", "model")],
)
def _before(text: str, separator: str) -> Json:
    place = text.find(separator)
    return text if place < 0 else text[:place]


@_register(
    name="after",
    parameters=[_TEXT, _SEPARATOR],
    returns="string",
    doc="What stands after the first separator; an empty string when the separator is absent.",
    examples=[("after('model:7b', ':')", "7b"), ("after('model', ':')", "")],
)
def _after(text: str, separator: str) -> Json:
    place = text.find(separator)
    return "" if place < 0 else text[place + len(separator) :]


@_register(
    name="between",
    parameters=[_TEXT, Parameter("opening", "string"), Parameter("closing", "string")],
    returns="string | null",
    doc="What stands between the first opening and the first closing after it; null when one of them is absent.",
    examples=[("between('f(x)(y)', '(', ')')", "x"), ("between('f(x', '(', ')')", None)],
)
def _between(text: str, opening: str, closing: str) -> Json:
    start = text.find(opening)
    if start < 0:
        return None
    start += len(opening)
    end = text.find(closing, start)
    return None if end < 0 else text[start:end]


@_register(
    name="without_suffix",
    parameters=[_TEXT, Parameter("suffix", "string")],
    returns="string",
    doc="The text without the suffix, or as it is where it does not end with it.",
    examples=[("without_suffix('cause)', ')')", "cause"), ("without_suffix('cause', ')')", "cause")],
)
def _without_suffix(text: str, suffix: str) -> Json:
    return text.removesuffix(suffix)


@_register(
    name="with_integers",
    parameters=[_VALUE, Parameter("names", "array")],
    returns="object | null",
    doc="The value where it is an object in which each of these names has a whole number; null otherwise.",
    examples=[
        ('with_integers(`{"a": 1}`, `["a"]`)', {"a": 1}),
        ('with_integers(`{}`, `["a"]`)', None),
        ('with_integers(`[1]`, `["a"]`)', None),
    ],
)
def _with_integers(value: Json, names: list[Json]) -> Json:
    if not isinstance(value, dict):
        return None
    for name in names:
        if not isinstance(name, str) or type(value.get(name)) is not int:
            return None
    return value


@_register(
    name="without_nulls",
    parameters=[Parameter("object", "object")],
    returns="object",
    doc="The object without the keys whose value is null; nulls further inside stay.",
    examples=[('without_nulls(`{"a": null, "b": 0, "c": [null]}`)', {"b": 0, "c": [None]})],
)
def _without_nulls(members: JsonObject) -> Json:
    return {key: value for key, value in members.items() if value is not None}


@_register(
    name="truncate",
    parameters=[_TEXT, Parameter("characters", "integer")],
    returns="string",
    doc="The first characters of the text; an empty string when the number is not above 0.",
    examples=[("truncate('gateway', `4`)", "gate"), ("truncate('gateway', `-1`)", "")],
)
def _truncate(text: str, characters: float) -> Json:
    return text[: max(0, int(characters))]


@_register(
    name="parse_json",
    parameters=[_TEXT],
    returns="any",
    doc="The value a JSON text stands for; null when the text is not JSON.",
    examples=[("parse_json('{\"a\": [1]}')", {"a": [1]}), ("parse_json('{')", None)],
)
def _parse_json(text: str) -> Json:
    try:
        parsed: Json = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return parsed


@_register(
    name="to_json",
    parameters=[_VALUE],
    returns="string",
    doc="The value as compact JSON, a string with its quotes, other scripts than ASCII as they are.",
    examples=[("to_json(['ñ', `1`])", '["ñ",1]'), ("to_json('a')", '"a"')],
)
def _to_json(value: Json) -> Json:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


@_register(
    name="get",
    parameters=[Parameter("object", "object"), Parameter("key", "string"), Parameter("default", "any", optional=True)],
    returns="any",
    doc="The member with this key, null included; the default, or null without one, when there is no such key.",
    examples=[("get(`{\"a\": 1}`, 'a', `0`)", 1), ("get(`{}`, 'a', `0`)", 0), ("get(`{}`, 'a')", None)],
)
def _get(members: JsonObject, key: str, default: Json = None) -> Json:
    return members.get(key, default)


def _bounded(result: float) -> Json:
    if isinstance(result, int):
        if -(2**63) <= result < 2**64:
            return result
        try:
            result = float(result)
        except OverflowError:
            return None
    return result if math.isfinite(result) else None
