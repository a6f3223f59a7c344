"""The filters of chat templates: Jinja's own, paid for before they run, and the internal ones of `chat_sandbox`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from jinja2 import pass_context
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.backends.chat_meter import LimitError, Meter, check_key, meter_of

# Internal filters; no template can write these names.
SPEND, WEIGH, SHALLOW, KEY = "(spend)", "(weigh)", "(shallow)", "(key)"

_MAX_INDENT = 16
_MAX_INT_CHARS = 64


@pass_context
def finalize(context: Context, value: object) -> object:
    meter_of(context).deep(value)
    return value


@pass_context
def _spend(context: Context, units: int) -> bool:
    meter_of(context).spend(units)
    return True


@pass_context
def _weigh(context: Context, value: object) -> object:
    meter_of(context).deep(value)
    return value


@pass_context
def _pay_shallow(context: Context, value: object) -> object:
    meter_of(context).shallow(value)
    return value


@pass_context
def _key(context: Context, value: object) -> object:
    check_key(value)
    return value


def replaced(meter: Meter, text: str, old: str, new: str, count: int = -1) -> str:
    found = text.count(old)
    if count >= 0:
        found = min(found, count)
    meter.text(len(text))
    meter.text(len(text) + found * max(0, len(new) - len(old)))
    return text.replace(old, new, count)


@pass_context
def _replace(context: Context, value: object, old: str, new: str, count: int | None = None) -> str:
    meter = meter_of(context)
    meter.deep(value)
    return replaced(meter, str(value), str(old), str(new), -1 if count is None else count)


@pass_context
def _join(context: Context, value: Iterable[object], d: str = "", attribute: str | int | None = None) -> str:
    items: Iterable[object] = value
    if attribute is not None:
        items = context.environment.call_filter("map", value, (), {"attribute": attribute}, context=context)
    return joined(meter_of(context), str(d), items)


def joined(meter: Meter, separator: str, items: Iterable[object]) -> str:
    parts = []
    total = 0
    for item in items:
        meter.deep(item)
        part = str(item)
        total += len(part) + len(separator)
        meter.text(total if total > meter.max_chars else len(separator))
        parts.append(part)
    return separator.join(parts)


@pass_context
def _tojson(
    context: Context,
    value: object,
    *,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= _MAX_INDENT):
        raise LimitError(f"tojson: indent is not a number from 0 to {_MAX_INDENT}")
    if separators is not None and any(len(separator) > _MAX_INDENT for separator in separators):
        raise LimitError(f"tojson: separators of more than {_MAX_INDENT} characters")
    meter = meter_of(context)
    for _ in range(4 + (indent or 0)):
        meter.deep(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    meter.text(len(text))
    return text


@pass_context
def _int(context: Context, value: object, default: int = 0, base: int = 10) -> int:
    if isinstance(value, str) and len(value) > _MAX_INT_CHARS:
        return default
    return cast(int, JINJA_FILTERS["int"](value, default, base))


@pass_context
def _safe(context: Context, value: object) -> str:
    meter_of(context).deep(value)
    return str(value)


def _paid(name: str, pay: Callable[[Meter, object], None], *, lazy: bool = False) -> Callable[..., object]:
    """Jinja's own filter `name`, paid for before it runs; a lazy one as it takes its items, each with the arguments."""
    plain = ImmutableSandboxedEnvironment()

    @pass_context
    def paid(context: Context, value: Any, *args: object, **kwargs: object) -> object:
        meter = meter_of(context)
        before = meter.left
        for argument in (*args, *kwargs.values()):
            meter.deep(argument)
        pay(meter, value)
        if lazy:
            value = meter.counted(value, 1 + before - meter.left)
        result: object = plain.call_filter(name, value, args, kwargs, context=context)
        return meter.counted(result, 1) if isinstance(result, Iterator) and not lazy else result

    return paid


def _pay_nothing(meter: Meter, value: object) -> None:
    meter.spend(1)


def _pay_parts(meter: Meter, value: object) -> None:
    """For a filter that makes an object of each element, so also of each character."""
    meter.deep(value)
    meter.spend(4 * len(value) if isinstance(value, str) else 1)


def _pay_sorting(meter: Meter, value: object) -> None:
    # A sort of n elements compares each about log n times.
    for _ in range(20):
        _pay_parts(meter, value)


_PAYMENT: dict[Callable[[Meter, object], None], tuple[str, ...]] = {
    _pay_nothing: ("abs", "count", "d", "default", "first", "last", "length"),
    Meter.shallow: ("capitalize", "float", "items", "lower", "reverse", "trim", "upper"),
    Meter.deep: ("string",),
    _pay_parts: ("list", "title", "unique"),
    _pay_sorting: ("dictsort", "sort"),
}
_LAZY = ("map", "reject", "rejectattr", "select", "selectattr")
FILTERS: dict[str, Callable[..., object]] = {
    SPEND: _spend,
    WEIGH: _weigh,
    SHALLOW: _pay_shallow,
    KEY: _key,
    **{name: _paid(name, pay) for pay, names in _PAYMENT.items() for name in names},
    **{name: _paid(name, _pay_nothing, lazy=True) for name in _LAZY},
    "int": _int,
    "join": _join,
    "replace": _replace,
    "safe": _safe,
    "tojson": _tojson,
}
