"""A Jinja environment whose templates cannot run long, grow large or reach anything outside.

Jinja's own sandbox keeps a template away from Python's internals. It limits neither work nor memory: nested loops,
`"a" * 10**9`, `x ~ x` in a loop or a list that holds itself twice would stop the process. Here each template is
rewritten after parsing, so that loops, macros and every operation whose cost grows with its operands pay for
themselves from a `Meter`, before they happen. Filters are a short list, the ones chat templates use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace

from proxy.backends.chat_filters import FILTERS, KEY, SHALLOW, SPEND, WEIGH, finalize, joined, replaced
from proxy.backends.chat_meter import CHARS_PER_UNIT, LimitError, Meter, check_key, meter_of

_MAX_INT_BITS = 64
_MAX_RANGE = 100_000
_CALL_PRICE = 20
# Jinja passes these with every call inside a loop or block, for functions that want the context.
_HIDDEN_ARGUMENTS = ("_loop_vars", "_block_vars")

# Tests that look at a value's kind only; the others may compare values and are paid for.
_FREE_TESTS = frozenset(
    (
        "boolean",
        "defined",
        "even",
        "false",
        "filter",
        "float",
        "integer",
        "iterable",
        "mapping",
        "none",
        "number",
        "odd",
        "sequence",
        "string",
        "test",
        "true",
        "undefined",
    )
)
_STR_METHODS = frozenset(
    (
        "capitalize",
        "count",
        "endswith",
        "find",
        "index",
        "isalnum",
        "isalpha",
        "isascii",
        "isdecimal",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "istitle",
        "isupper",
        "join",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
    )
)
_DICT_METHODS = frozenset({"get", "items", "keys", "values"})


def _range(*args: int) -> range:
    result = range(*args)
    if abs(result.stop - result.start) > _MAX_RANGE * abs(result.step):
        raise LimitError(f"range: more than {_MAX_RANGE} numbers")
    return result


def _dict(**items: object) -> dict[str, object]:
    return items


def _namespace(**items: object) -> Namespace:
    return Namespace(**items)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Give each rendering a `Meter` in its context under METER, and compile only what `guard` has been through."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        # Block trimming and loop controls are how Hugging Face's transformers compiles chat templates.
        # Folding constants takes time that grows with the square of an expression's depth.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            finalize=finalize,
            optimized=False,
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = {"range": _range, "dict": _dict, "namespace": _namespace}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, dict):
            return attr in _DICT_METHODS
        if isinstance(obj, (LoopContext, Macro, Namespace, Undefined)):
            return super().is_safe_attribute(obj, attr, value)
        return False

    def wrap_str_format(self, value: Any) -> None:
        # str.format stays the plain method, which is_safe_attribute refuses: a width in it is memory.
        return None

    def getitem(self, obj: Any, argument: Any) -> Any:
        check_key(argument)
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        meter = meter_of(context)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("formatting with % is not supported; join the parts with ~")
        if operator in ("+", "*"):
            meter.shallow(left)
            meter.shallow(right)
        if operator == "*":
            for sequence, factor in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(factor, int):
                    meter.text(len(sequence) * max(0, factor))
                    meter.spend(0 if isinstance(sequence, str) else len(sequence) * max(0, factor))
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_integer(left.bit_length() * abs(right))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int):
            _check_integer(result.bit_length())
        return result

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        meter = meter_of(context)
        meter.spend(_CALL_PRICE)
        owner = getattr(obj, "__self__", None)
        pay = meter.shallow if owner is None else meter.deep
        given = {name: value for name, value in kwargs.items() if name not in _HIDDEN_ARGUMENTS}
        for argument in (*args, *given.values()):
            pay(argument)
        if isinstance(owner, str):
            return _call_text_method(meter, owner, obj, args, given)
        if isinstance(owner, dict):
            meter.shallow(owner)
        return super().call(context, obj, *args, **kwargs)


def _check_integer(bits: int) -> None:
    if bits > _MAX_INT_BITS:
        raise LimitError(f"a whole number of more than {_MAX_INT_BITS} bits")


def _call_text_method(
    meter: Meter, text: str, method: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> object:
    name = method.__name__
    if name not in _STR_METHODS:
        raise SecurityError(f"the method {name} of a string is not supported")
    if name == "replace" and len(args) >= 2:
        return replaced(meter, text, *args, **kwargs)
    if name == "join" and len(args) == 1:
        return joined(meter, text, args[0])
    meter.text(len(text))
    if name in ("split", "rsplit", "splitlines"):
        separator = args[0] if args and isinstance(args[0], str) and args[0] else kwargs.get("sep")
        # Each part is an object of its own.
        meter.spend(4 * text.count(separator) if isinstance(separator, str) and separator else len(text) // 2)
    return method(*args, **kwargs)


def guard(template: nodes.Template, environment: MeteredEnvironment) -> None:
    """Rewrite a parsed template in place, so that it pays for what it does."""
    for loop in list(template.find_all(nodes.For)):
        price = _price(loop)
        if loop.test is not None:
            loop.test = nodes.And(_filtered(nodes.Const(price), SPEND, loop), loop.test, lineno=loop.lineno)
        loop.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(price), SPEND, loop), lineno=loop.lineno))
    macros: list[nodes.Macro | nodes.CallBlock] = [*template.find_all(nodes.Macro), *template.find_all(nodes.CallBlock)]
    for macro in macros:
        macro.body.insert(0, nodes.ExprStmt(_filtered(nodes.Const(_price(macro)), SPEND, macro), lineno=macro.lineno))
    for comparison in list(template.find_all(nodes.Compare)):
        comparison.expr = _filtered(comparison.expr, WEIGH, comparison)
        for operand in comparison.ops:
            operand.expr = _filtered(operand.expr, WEIGH, comparison)
    for concat in list(template.find_all(nodes.Concat)):
        concat.nodes = [_filtered(node, WEIGH, concat) for node in concat.nodes]
    for test in list(template.find_all(nodes.Test)):
        if test.name not in _FREE_TESTS:
            test.node = _filtered(test.node, WEIGH, test)
            test.args = [_filtered(argument, WEIGH, test) for argument in test.args or []]
    for item in list(template.find_all(nodes.Getitem)):
        if isinstance(item.arg, nodes.Slice):
            item.node = _filtered(item.node, SHALLOW, item)
    for pair in list(template.find_all(nodes.Pair)):
        pair.key = _filtered(pair.key, KEY, pair)
    template.set_environment(environment)


def _filtered(node: nodes.Expr, name: str, place: nodes.Node) -> nodes.Expr:
    if name == WEIGH and isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=place.lineno)


def _price(body: nodes.Node) -> int:
    """Units that one run through a loop or macro costs beside what its operations pay themselves."""
    price = 1
    for node in body.find_all(nodes.Node):
        price += 1
        if isinstance(node, nodes.TemplateData):
            price += len(node.data) // CHARS_PER_UNIT
    return price
