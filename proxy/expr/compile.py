"""Expressions: a parsed tree compiled once into closures, because evaluating the tree itself costs too much per chunk.

The answers are those of the jmespath library, which the tests ask for comparison. Known differences: a wrong call and
a `&x` that is no argument are found when the expression is compiled, and a literal must be JSON that fits the wire.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, cast

from proxy.expr import logic, select
from proxy.expr.absent import without
from proxy.expr.calls import build_call
from proxy.expr.errors import ExpressionError, ExpressionSyntaxError
from proxy.expr.functions import Evaluate, Function, FunctionRegistry, Parameter, describe
from proxy.expr.growth import copies_of
from proxy.expr.nodes import Kind, Node
from proxy.expr.parse import parse
from proxy.expr.reads import path_of, reads_of
from proxy.types import Json


class Expression:
    """A compiled expression; call it with a document.

    `path`: the names when the expression is only `a.b.c` (quoted names count), else None. `roots`: the top-level names
    it reads. `reads_everything`: it also uses the document as a whole, so `roots` is not all that it depends on.
    `known`: a list of the one value that it always has, None where that depends on the document.
    `copies`: how often the result may hold what is read.
    `evaluate` is the bare closure, for where every call counts: beside ExpressionError it can raise RecursionError,
    when values nested as deep as Python's stack are compared.
    """

    __slots__ = ("copies", "evaluate", "known", "path", "reads_everything", "roots", "source")

    def __init__(self, source: str, tree: Node, evaluate: Evaluate, copies: int) -> None:
        self.source = source
        self.copies = copies
        self.known = [tree.value] if tree.kind == "literal" else None
        self.path = path_of(tree)
        self.roots, self.reads_everything = reads_of(tree)
        self.evaluate = evaluate

    def __call__(self, document: Json) -> Json:
        """Return the answer, which may share structure with `document`: do not change it. Raises ExpressionError."""
        try:
            return self.evaluate(document)
        except RecursionError as error:
            raise ExpressionError("a value is nested too deeply to be compared") from error

    def __repr__(self) -> str:
        return f"Expression({self.source!r})"


def compile_expression(
    source: str,
    functions: FunctionRegistry,
    *,
    max_length: int = 4096,
    max_depth: int = 64,
    absent: frozenset[str] = frozenset(),
) -> Expression:
    """Compile `source`, JMESPath with the functions of `functions`; raise ExpressionSyntaxError.

    `max_length` counts characters; `max_depth` levels of nesting, in the expression and in each literal. A chain of
    `||`, `&&`, `|` or `.` is one level, however long. absent: top-level names that will always be null.
    """
    return _compiled(source, functions, len(source) if len(source) <= max_length else max_length, max_depth, absent)


# What is written again and again in a rule set is compiled once; as many as there are trees.
@functools.lru_cache(maxsize=4096)
def _compiled(
    source: str, functions: FunctionRegistry, max_length: int, max_depth: int, absent: frozenset[str]
) -> Expression:
    tree = parse(source, max_length=max_length, max_depth=max_depth)
    copies = copies_of(tree, functions)
    if absent:
        tree = without(tree, absent)
    return Expression(source, tree, _Compiler(functions).build(tree), copies)


class _Compiler:
    def __init__(self, functions: FunctionRegistry) -> None:
        self._functions = functions

    def build(self, node: Node) -> Evaluate:
        return _BUILDERS[node.kind](self, node)

    def all(self, node: Node) -> list[Evaluate]:
        return [self.build(child) for child in node.children]

    def chain(self, node: Node) -> Evaluate:
        steps: list[Evaluate] = []
        names: list[str] = []
        for child in node.children:
            if child.kind == "field":
                names.append(child.name)
                continue
            if names:
                steps.append(select.path(names))
                names = []
            steps.append(self.build(child))
        if names:
            steps.append(select.path(names))
        return select.chain(steps)

    def object(self, node: Node) -> Evaluate:
        if all(child.kind == "field" for child in node.children):
            return select.pick(node.keys, [child.name for child in node.children])
        return select.make_object(node.keys, self.all(node))

    def filter(self, node: Node) -> Evaluate:
        source, condition, taken = node.children
        holds = self.build(condition)
        # A comparison gives a boolean or null, which Python and JMESPath judge alike.
        if condition.kind not in ("compare", "not"):
            holds = logic.truth(holds)
        return select.keep(self.build(source), holds, self.build(taken))

    def compare(self, node: Node) -> Evaluate:
        left, right = node.children
        if node.name not in ("eq", "ne"):
            return logic.ordered(node.name, self.build(left), self.build(right))
        wanted = node.name == "eq"
        if right.kind == "literal":
            return logic.equal_to(self.build(left), right.value, wanted=wanted)
        if left.kind == "literal":
            return logic.equal_to(self.build(right), left.value, wanted=wanted)
        return logic.equal(self.build(left), self.build(right), wanted=wanted)

    def call(self, node: Node) -> Evaluate:
        function = self._functions.get(node.name)
        if function is None:
            near = self._functions.near(node.name)
            hint = f"; did you mean {near}()?" if near else ""
            raise ExpressionSyntaxError(f"there is no function {node.name}(){hint}", node.offset)
        _check_arity(function, node)
        arguments = [
            self._argument(function, node, position, function.parameter(position))
            for position in range(len(node.children))
        ]
        return build_call(function, arguments)

    def _argument(self, function: Function, call: Node, position: int, parameter: Parameter) -> Evaluate:
        child = call.children[position]
        if parameter.takes_expression:
            if child.kind != "expression":
                raise ExpressionSyntaxError(function.refusal(position, "a value"), call.offset)
            return select.literal(cast("Json", self.build(child.children[0])))
        if child.kind == "expression":
            raise ExpressionSyntaxError(function.refusal(position, "an expression written with &"), call.offset)
        if child.kind == "literal" and not parameter.accepts(child.value):
            raise ExpressionSyntaxError(function.refusal(position, describe(child.value)), call.offset)
        return self.build(child)


def _check_arity(function: Function, call: Node) -> None:
    count, least, most = len(call.children), function.least, function.most
    if count < least or (most is not None and count > most):
        expected = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        noun = "argument" if expected == "1" else "arguments"
        raise ExpressionSyntaxError(
            f"{function.name}() takes {expected} {noun}, not {count}: {function.signature}", call.offset
        )


def _slice(_: _Compiler, node: Node) -> Evaluate:
    start, stop, step = cast("list[int | None]", node.value)
    return select.part(start, stop, step)


def _stray_expression(_: _Compiler, node: Node) -> Evaluate:
    raise ExpressionSyntaxError("an expression written with & can only be an argument of a function", node.offset)


_BUILDERS: Final[dict[Kind, Callable[[_Compiler, Node], Evaluate]]] = {
    "and": lambda compiler, node: logic.both(compiler.all(node)),
    "call": _Compiler.call,
    "chain": _Compiler.chain,
    "compare": _Compiler.compare,
    "current": lambda _, __: select.current,
    "expression": _stray_expression,
    "field": lambda _, node: select.path([node.name]),
    "filter": _Compiler.filter,
    "flatten": lambda compiler, node: select.flatten(*compiler.all(node)),
    "index": lambda _, node: select.index(cast("int", node.value)),
    "list": lambda compiler, node: select.make_list(compiler.all(node)),
    "literal": lambda _, node: select.literal(node.value),
    "not": lambda compiler, node: logic.negate(*compiler.all(node)),
    "object": _Compiler.object,
    "or": lambda compiler, node: logic.either(compiler.all(node)),
    "project": lambda compiler, node: select.project(*compiler.all(node)),
    "project_values": lambda compiler, node: select.project_values(*compiler.all(node)),
    "slice": _slice,
}
