"""Expressions: a parsed tree, checked once, of which a Python function is written when it is first called.

The answers are those of the jmespath library, which the tests ask for comparison. Known differences: a wrong call and
a `&x` that is no argument are found when the expression is compiled, and a literal must be JSON that fits the wire.
"""

from __future__ import annotations

import functools

from proxy.expr.absent import without
from proxy.expr.code import Code
from proxy.expr.errors import ExpressionError, ExpressionSyntaxError
from proxy.expr.functions import Evaluate, Function, FunctionRegistry, describe
from proxy.expr.growth import copies_of
from proxy.expr.nodes import Node
from proxy.expr.parse import parse
from proxy.expr.reads import path_of, reads_of
from proxy.expr.writer import Writer, function
from proxy.types import Json


class Expression:
    """A compiled expression; call it with a document, or write it into a function with others.

    `path`: the names when the expression is only `a.b.c` (quoted names count), else None. `roots`: the top-level names
    it reads. `reads_everything`: it also uses the document as a whole, so `roots` is not all that it depends on.
    `known`: a list of the one value that it always has, None where that depends on the document.
    `copies`: how often the result may hold what is read.
    """

    __slots__ = ("_code", "_run", "_tree", "copies", "known", "path", "reads_everything", "roots", "source")

    def __init__(self, source: str, tree: Node, code: Code, copies: int) -> None:
        self.source = source
        self.copies = copies
        self.known = [tree.value] if tree.kind == "literal" else None
        self.path = path_of(tree)
        self.roots, self.reads_everything = reads_of(tree)
        self._tree = tree
        self._code = code
        self._run: Evaluate | None = None

    def __call__(self, document: Json) -> Json:
        """Return the answer, which may share structure with `document`: do not change it. Raises ExpressionError."""
        run = self._run
        if run is None:
            run = self._run = function(self.write)
        try:
            return run(document)
        except RecursionError as error:
            raise ExpressionError("a value is nested too deeply to be compared") from error

    def write(self, writer: Writer, document: str) -> str:
        """Write the lines that evaluate it; what holds its value then. They can raise RecursionError too, when values
        nested as deep as Python's stack are compared.
        """
        return self._code.write(writer, self._tree, document)

    def condition(self, writer: Writer, document: str) -> str:
        """As `write`: code that is true in Python where the value is true in JMESPath."""
        return self._code.condition(writer, self._tree, document)

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
    _check(tree, functions)
    return Expression(source, tree, Code(functions), copies)


def _check(node: Node, functions: FunctionRegistry) -> None:
    """Every call is of a function that there is, with arguments that it may take, or ExpressionSyntaxError."""
    if node.kind == "expression":
        raise ExpressionSyntaxError("an expression written with & can only be an argument of a function", node.offset)
    if node.kind == "call":
        _check_call(node, functions)
        return
    for child in node.children:
        _check(child, functions)


def _check_call(node: Node, functions: FunctionRegistry) -> None:
    called = functions.get(node.name)
    if called is None:
        near = functions.near(node.name)
        hint = f"; did you mean {near}()?" if near else ""
        raise ExpressionSyntaxError(f"there is no function {node.name}(){hint}", node.offset)
    _check_arity(called, node)
    for position, child in enumerate(node.children):
        parameter = called.parameter(position)
        if parameter.takes_expression != (child.kind == "expression"):
            came = "a value" if parameter.takes_expression else "an expression written with &"
            raise ExpressionSyntaxError(called.refusal(position, came), node.offset)
        if child.kind == "literal" and not parameter.accepts(child.value):
            raise ExpressionSyntaxError(called.refusal(position, describe(child.value)), node.offset)
        _check(child.children[0] if parameter.takes_expression else child, functions)


def _check_arity(called: Function, node: Node) -> None:
    count, least, most = len(node.children), called.least, called.most
    if count < least or (most is not None and count > most):
        expected = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        noun = "argument" if expected == "1" else "arguments"
        raise ExpressionSyntaxError(
            f"{called.name}() takes {expected} {noun}, not {count}: {called.signature}", node.offset
        )
