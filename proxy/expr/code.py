"""What each node of an expression becomes in a written function.

Results share structure with the document and with literals of the expression; whoever gets them must not change them.

False in JMESPath: null, false, and the empty string, array and object. 0 is true, so Python's own truth is corrected
for it wherever it is asked.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Final, NoReturn, cast

from proxy.expr.errors import ExpressionError
from proxy.expr.functions import Function, FunctionRegistry, type_name
from proxy.expr.nodes import Kind, Node
from proxy.expr.writer import NO_CONTAINERS, Writer, function
from proxy.types import Json


class Code:
    """Writes nodes whose calls were checked; `functions` has what they call."""

    def __init__(self, functions: FunctionRegistry) -> None:
        self._functions = functions

    def write(self, writer: Writer, node: Node, document: str) -> str:
        """The lines for this node; what holds its value then."""
        return writer.part(lambda inside, seen: _WRITERS[node.kind](self, inside, node, seen), document)

    def _inside(self, node: Node, writer: Writer, document: str) -> str:
        return self.write(writer, node, document)

    def condition(self, writer: Writer, node: Node, document: str) -> str:
        """As `write`: code that is true in Python where the node is true in JMESPath."""
        if node.kind == "compare":
            return self._comparison(writer, node, document)
        if node.kind == "not":
            return f"not ({self.condition(writer, node.children[0], document)})"
        if node.kind in {"and", "or"}:
            return self._decided(writer, node, document)
        return is_true(self.write(writer, node, document))

    def _decided(self, writer: Writer, node: Node, document: str) -> str:
        """Each child is looked at only where those before it have not decided already."""
        first, *others = node.children
        together = [self.condition(writer, first, document)]
        for child in others:
            before = writer.place
            result = writer.set(_joined(together, node.kind))
            with writer.block(f"if {result}" if node.kind == "and" else f"if not {result}"):
                inside = writer.place
                then = self.condition(writer, child, document)
                needs_lines = writer.place > inside
                writer.line(f"{result} = {then}")
            if needs_lines:
                together = [result]
            else:
                writer.drop(before)
                together.append(then)
        return _joined(together, node.kind)

    def chain(self, writer: Writer, node: Node, document: str) -> str:
        """Each child is evaluated on the result of the one before, null included."""
        for child in node.children:
            document = self.write(writer, child, document)
        return document

    def either(self, writer: Writer, node: Node, document: str) -> str:
        """The first child that is true, else the last one."""
        return self._until(writer, node, document, "if not ({})")

    def both(self, writer: Writer, node: Node, document: str) -> str:
        """The first child that is false, else the last one."""
        return self._until(writer, node, document, "if {}")

    def _until(self, writer: Writer, node: Node, document: str, head: str) -> str:
        first, *others = node.children
        result = writer.set(self.write(writer, first, document))
        for child in others:
            with writer.block(head.format(is_true(result))):
                writer.line(f"{result} = {self.write(writer, child, document)}")
        return result

    def negate(self, writer: Writer, node: Node, document: str) -> str:
        return writer.set(self.condition(writer, node, document))

    def compare(self, writer: Writer, node: Node, document: str) -> str:
        return writer.set(self._comparison(writer, node, document))

    def _comparison(self, writer: Writer, node: Node, document: str) -> str:
        left, right = node.children
        if node.name in _ORDER:
            one, two = self.write(writer, left, document), self.write(writer, right, document)
            return f"{writer.constant(_ORDER[node.name])}({one}, {two})"
        if left.kind == "literal":
            left, right = right, left
        one = self.write(writer, left, document)
        if right.kind == "literal":
            same = _equal_to(writer, one, right.value)
        else:
            two = self.write(writer, right, document)
            same = f"{one} == {two} and ({one} is True or {one} is False) == ({two} is True or {two} is False)"
        return same if node.name == "eq" else f"not ({same})"

    def make_list(self, writer: Writer, node: Node, document: str) -> str:
        result = writer.set("None")
        with writer.block(f"if {document} is not None"):
            items = [self.write(writer, child, document) for child in node.children]
            writer.line(f"{result} = [{', '.join(items)}]")
        return result

    def make_object(self, writer: Writer, node: Node, document: str) -> str:
        result = writer.set("None")
        with writer.block(f"if {document} is not None"):
            values = [self.write(writer, child, document) for child in node.children]
            members = [f"{key!a}: {value}" for key, value in zip(node.keys, values, strict=True)]
            writer.line(f"{result} = {{{', '.join(members)}}}")
        return result

    def flatten(self, writer: Writer, node: Node, document: str) -> str:
        return writer.set(f"{writer.constant(_flat)}({self.write(writer, node.children[0], document)})")

    def project(self, writer: Writer, node: Node, document: str) -> str:
        """What is taken of each element, nulls left out; null for anything but an array."""
        source, taken = node.children
        return self._elements(writer, self.write(writer, source, document), "list", "", None, taken)

    def project_values(self, writer: Writer, node: Node, document: str) -> str:
        """The same of the values of an object."""
        source, taken = node.children
        return self._elements(writer, self.write(writer, source, document), "dict", ".values()", None, taken)

    def filter(self, writer: Writer, node: Node, document: str) -> str:
        """As `project`, of the elements for which the condition is true."""
        source, condition, taken = node.children
        return self._elements(writer, self.write(writer, source, document), "list", "", condition, taken)

    def _elements(self, writer: Writer, base: str, kind: str, values: str, condition: Node | None, taken: Node) -> str:
        result = writer.set("None")
        with writer.block(f"if isinstance({base}, {kind})"):
            item = writer.variable()
            if condition is None and taken.kind == "current":
                writer.line(f"{result} = [{item} for {item} in {base}{values} if {item} is not None]")
                return result
            writer.line(f"{result} = []")
            with writer.block(f"for {item} in {base}{values}"):
                if condition is not None:
                    writer.line(f"if not ({self.condition(writer, condition, item)}): continue")
                found = self.write(writer, taken, item)
                writer.line(f"if {found} is not None: {result}.append({found})")
        return result

    def call(self, writer: Writer, node: Node, document: str) -> str:
        """Arguments are evaluated one after another, each checked against what is declared, then passed on."""
        called = cast("Function", self._functions.get(node.name))
        name = writer.constant(called)
        given: list[str] = []
        for position, child in enumerate(node.children):
            parameter = called.parameter(position)
            if child.kind == "expression":
                given.append(writer.constant(function(functools.partial(self._inside, child.children[0]))))
                continue
            argument = self.write(writer, child, document)
            given.append(argument)
            if child.kind == "literal" or parameter.takes_all:
                continue
            accepted = (
                f"type({argument}) in {writer.constant(parameter.plain)}"
                if parameter.plain is not None
                else f"{writer.constant(parameter.accepts)}({argument})"
            )
            writer.line(f"if not ({accepted}): raise {name}.wrong_type({position}, {argument})")
        result = writer.variable()
        writer.line(f"try: {result} = {writer.constant(called.call)}({', '.join(given)})")
        writer.line(f"except Exception as error: {writer.constant(_fail)}({name}, error)")
        return result


def _joined(conditions: list[str], word: str) -> str:
    return conditions[0] if len(conditions) == 1 else f" {word} ".join(f"({code})" for code in conditions)


def is_true(value: str) -> str:
    """Code that is true in Python where the value of this variable is true in JMESPath."""
    if value in NO_CONTAINERS:
        return value
    return f"{value} or ({value} == 0 and {value} is not False)"


def _equal_to(writer: Writer, value: str, constant: Json) -> str:
    """`==` with a literal. A boolean equals no number; inside arrays and objects Python's own equality holds."""
    if constant is None or isinstance(constant, bool):
        return f"{value} is {constant}"
    if isinstance(constant, (int, float)) and constant in (0, 1):
        return f"{value} == {writer.compared(constant)} and {value} is not True and {value} is not False"
    return f"{value} == {writer.compared(constant)}"


def _ordered(sign: str, compare: Callable[..., bool]) -> Callable[[Json, Json], Json]:
    """`<`, `<=`, `>`, `>=`: two numbers or two strings; null beside any other value.

    A string beside a number raises ExpressionError, as it does in the library.
    """

    def run(one: Json, two: Json) -> Json:
        one_type, two_type = type(one), type(two)
        if one_type is int or one_type is float:
            if two_type is int or two_type is float:
                return compare(one, two)
            if two_type is not str:
                return None
        elif one_type is not str or (two_type is not int and two_type is not float and two_type is not str):
            return None
        elif two_type is str:
            return compare(one, two)
        raise ExpressionError(f"a {type_name(one)} and a {type_name(two)} cannot be compared with {sign}")

    return run


_ORDER: Final = {
    "lt": _ordered("<", operator.lt),
    "lte": _ordered("<=", operator.le),
    "gt": _ordered(">", operator.gt),
    "gte": _ordered(">=", operator.ge),
}


def _flat(base: Json) -> Json:
    """One level of nested arrays is merged; null for anything but an array."""
    if not isinstance(base, list):
        return None
    merged: list[Json] = []
    for item in base:
        if isinstance(item, list):
            merged.extend(item)
        else:
            merged.append(item)
    return merged


def _fail(called: Function, error: Exception) -> NoReturn:
    if isinstance(error, ExpressionError):
        raise error
    if isinstance(error, RecursionError):
        raise ExpressionError(f"{called.name}(): a value is nested too deeply") from error
    raise ExpressionError(f"{called.name}(): {type(error).__name__}: {error}") from error


def _index(_: Code, writer: Writer, node: Node, document: str) -> str:
    if document in NO_CONTAINERS:
        return "None"
    place = cast("int", node.value)
    least = place + 1 if place >= 0 else -place
    return writer.set(f"{document}[{place}] if isinstance({document}, list) and len({document}) >= {least} else None")


def _slice(_: Code, writer: Writer, node: Node, document: str) -> str:
    if document in NO_CONTAINERS:
        return "None"
    start, stop, step = cast("list[int | None]", node.value)
    return writer.set(f"{document}[{start}:{stop}:{step}] if isinstance({document}, list) else None")


def _stray(_: Code, __: Writer, ___: Node, ____: str) -> str:
    raise AssertionError("an expression written with & is no value; the calls of a tree are checked before")


_WRITERS: Final[dict[Kind, Callable[[Code, Writer, Node, str], str]]] = {
    "and": Code.both,
    "call": Code.call,
    "chain": Code.chain,
    "compare": Code.compare,
    "current": lambda _, __, ___, document: document,
    "expression": _stray,
    "field": lambda _, writer, node, document: writer.field(document, node.name),
    "filter": Code.filter,
    "flatten": Code.flatten,
    "index": _index,
    "list": Code.make_list,
    "literal": lambda _, writer, node, __: writer.constant(node.value),
    "not": Code.negate,
    "object": Code.make_object,
    "or": Code.either,
    "project": Code.project,
    "project_values": Code.project_values,
    "slice": _slice,
}
