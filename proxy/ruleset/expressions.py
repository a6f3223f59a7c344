"""Expressions and mappings of a rule file compiled to what `proxy.translate` runs; every mistake becomes a diagnostic
with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.documents import Diagnostic, Document, clipped, suggestion
from proxy.documents.yaml import Path
from proxy.expr import Expression, ExpressionSyntaxError, FunctionRegistry, compile_expression
from proxy.ruleset.lint import negated_selection, paths_read, steps_read
from proxy.ruleset.mapping_documents import Clamp, SpecDoc
from proxy.translate import changes, mapping
from proxy.translate.mapping import Read, Value
from proxy.translate.routes import HIDDEN_HEADERS
from proxy.types import Json

# Steps that double what others set fill the memory as expressions do that double what they read.
STEP_COPIES_MAX = 1_000_000
PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass
class Workshop:
    """What compiling one file needs, and where its mistakes are collected.

    steps: the names that the steps compiled so far set; copies: how often each may hold what is read; grown: the same
    of all expressions compiled since it was last set to 0. certain_only: a part of the file or of its pack could not be
    read, and what may only follow from that is not reported. absent: names that will always be null.
    """

    document: Document
    functions: FunctionRegistry
    tables: dict[str, dict[str, Json]] = field(default_factory=dict)
    certain_only: bool = False
    absent: frozenset[str] = frozenset()
    steps: set[str] = field(default_factory=set)
    copies: dict[str, int] = field(default_factory=dict)
    grown: int = 0
    mistakes: list[Diagnostic] = field(default_factory=list)

    def mistake(self, path: Path, message: str, *, key: bool = False, certain: bool = False) -> None:
        """Note one mistake and go on; `certain` for one that nothing outside its own line can explain away."""
        if certain or not self.certain_only:
            self.mistakes.append(self.document.at(path, message, key=key))

    def expression(self, source: str, path: Path, roots: frozenset[str]) -> Expression | None:
        """Compile one expression that may read `roots`; None after noting what is wrong with it."""
        try:
            expression = compile_expression(source, self.functions, absent=self.absent)
        except ExpressionSyntaxError as error:
            message = f"expression '{clipped(source)}': {error.message} (at character {error.offset + 1})"
            self.mistake(path, message + _comma_hint(source), certain=True)
            return None
        if negated_selection(source):
            self.mistake(
                path,
                f"expression '{clipped(source)}': ! binds closer than a dot, so !a.b is always null; write !(a.b)",
                certain=True,
            )
        for name in sorted(expression.roots - roots):
            hint = suggestion(name, roots)
            self.mistake(path, f"expression '{clipped(source)}' reads '{name}', which does not exist here{hint}")
        headers = {each[1] for each in paths_read(source) if each[:1] == ("headers",) and len(each) > 1}
        for name in sorted(headers & HIDDEN_HEADERS if "headers" in roots else ()):
            text = f"expression '{clipped(source)}' reads 'headers.{name}', which holds a secret and is hidden"
            self.mistake(path, text, certain=True)
        read = steps_read(source) if "steps" in expression.roots & roots else frozenset()
        self.grown += expression.copies * max((self.copies.get(name, 1) for name in read), default=1)
        if read:
            for name in sorted(read - self.steps):
                hint = suggestion(name, self.steps)
                self.mistake(
                    path, f"expression '{clipped(source)}' reads 'steps.{name}', which no step before it sets{hint}"
                )
        return expression

    def step_set(self, name: str, path: Path) -> None:
        """Note that the step whose expressions were compiled since `grown` was 0 sets this name."""
        if self.grown > STEP_COPIES_MAX:
            self.mistake(path, f"steps.{name} could hold what is read more than {STEP_COPIES_MAX:,} times over")
        self.copies[name] = min(self.grown, STEP_COPIES_MAX)
        self.steps.add(name)

    def read(self, source: str, path: Path, roots: frozenset[str]) -> Read:
        """As `expression`, for places that need only to read."""
        expression = self.expression(source, path, roots)
        return _nothing if expression is None else _fast(expression)

    def optional(self, source: str | None, path: Path, roots: frozenset[str]) -> Read | None:
        """As `read`, for an expression that may be left out."""
        return None if source is None else self.read(source, path, roots)

    def message(self, template: str, path: Path, roots: frozenset[str]) -> Callable[[dict[str, Json]], str]:
        """A sentence with `{expression}` in it."""
        parts: list[str | Read] = []
        position = 0
        for found in PLACEHOLDER.finditer(template):
            parts += [template[position : found.start()], self.read(found[1], path, roots)]
            position = found.end()
        parts.append(template[position:])
        if any("{" in part or "}" in part for part in parts if isinstance(part, str)):
            self.mistake(
                path, f"message '{clipped(template)}': a {{ or }} that is not around an expression", certain=True
            )
        return lambda scope: "".join(part if isinstance(part, str) else _plain(part(scope)) for part in parts)

    def value(self, spec: SpecDoc, path: Path, roots: frozenset[str], label: str = "") -> Value:
        """A mapping as a function; `label` names the value in error messages where the rule gives no better name."""
        if spec.each is not None:
            return self._each(spec, path, roots, label)
        return self._one(spec, path, roots, label)

    def _each(self, spec: SpecDoc, path: Path, roots: frozenset[str], label: str) -> Value:
        source = self.expression(str(spec.each), (*path, "each"), roots)
        inner = roots | {"item", "index"}
        body = self._one(spec.model_copy(update={"when": None, "name": None}), path, inner, "")
        if spec.where is not None:
            body = mapping.When(self.read(spec.where, (*path, "where"), inner), body)
        name = spec.name or (_label(source, label) if source else label)
        value: Value = mapping.Each(source or _nothing, name, body)
        if spec.when is not None:
            value = mapping.When(self.read(spec.when, (*path, "when"), roots), value)
        return value if spec.null == "keep" else mapping.OmitNull(value)

    def _one(self, spec: SpecDoc, path: Path, roots: frozenset[str], label: str) -> Value:
        value, label = self._source(spec, path, roots, spec.name or label)
        expected = changes.expected_text(spec.type, spec.min, spec.max)
        if spec.table is not None:
            value = changes.OnValue(value, changes.table_lookup(label, self._table(spec, path), spec.unknown))
        if spec.type is not None or spec.min is not None or spec.max is not None:
            kind, low, high = spec.type or "number", spec.min, spec.max
            value = changes.OnValue(value, changes.typed(label, kind, low, high), changes.usual_test(kind, low, high))
        if spec.one_of is not None:
            value = changes.OnValue(value, changes.one_of(label, spec.one_of))
        if "default" in spec.model_fields_set:
            value = changes.WithDefault(value, mapping.Constant(spec.default))
        if spec.clamp is not None:
            value = changes.OnValue(value, self._clamp(spec.clamp, (*path, "clamp"), roots))
        if spec.required:
            value = changes.Required(value, label, expected)
        if spec.null != "keep" and "value" not in spec.model_fields_set:
            value = mapping.OmitNull(value)
        return value if spec.when is None else self._only_when(spec.when, value, (*path, "when"), roots)

    def _only_when(self, condition: str, value: Value, path: Path, roots: frozenset[str]) -> Value:
        expression = self.expression(condition, path, roots)
        if expression is None or expression.known is None or not self.absent:
            return mapping.When(_nothing if expression is None else _fast(expression), value)
        return value if mapping.truthy(expression.known[0]) else mapping.left_out

    def _source(self, spec: SpecDoc, path: Path, roots: frozenset[str], label: str) -> tuple[Value, str]:
        if spec.from_ is not None:
            place = (*path, "from") if (*path, "from") in self.document.places else path
            expression = self.expression(spec.from_, place, roots)
            if expression is None:
                return _nothing, label
            label = spec.name or _label(expression, label)
            if spec.null == "refuse":
                if expression.path is None:
                    self.mistake(place, "null: refuse needs a plain path such as body.temperature")
                else:
                    return changes.RefuseNull(_fast(expression), expression.path, label), label
            return _fast(expression), label
        if spec.fields is not None:
            pairs = [
                (name, self.value(child, (*path, "fields", name), roots, name)) for name, child in spec.fields.items()
            ]
            return mapping.Fields([pair for pair in pairs if pair[1] is not mapping.left_out]), label
        if spec.items is not None:
            items = [self.value(child, (*path, "items", index), roots, label) for index, child in enumerate(spec.items)]
            return mapping.ListOf(items), label
        return mapping.Constant(spec.value), label

    def _table(self, spec: SpecDoc, path: Path) -> dict[str, Json]:
        if isinstance(spec.table, dict):
            return spec.table
        name = str(spec.table)
        if name not in self.tables:
            self.mistake((*path, "table"), f"no table '{name}' in pack.yaml{suggestion(name, self.tables)}")
        return self.tables.get(name, {})

    def _clamp(
        self, clamp: Clamp, path: Path, roots: frozenset[str]
    ) -> Callable[[Json, mapping.Scope], Json | mapping.Omit]:
        def bound(name: str, given: float | str | None) -> Read | None:
            if isinstance(given, str):
                return self.read(given, (*path, name), roots)
            return None if given is None else lambda scope: given

        return changes.clamped(bound("min", clamp.min), bound("max", clamp.max))


def _fast(expression: Expression) -> Read:
    """The expression as a function; the commonest ones of a stream in a form that needs no call."""
    path = expression.path or ()
    if len(path) == 1:
        return mapping.RootRead(path[0])
    if len(path) == 2 and path[0] == "chunk":
        return mapping.ChunkRead(path[1])
    return expression


def _label(expression: Expression, fallback: str) -> str:
    """What the caller calls the value: `body.options.stop` is `options.stop`, inside a list `item.role` is `role`."""
    path = expression.path
    if path and path[0] in {"body", "item"}:
        return ".".join(path[1:])
    return fallback


def _comma_hint(source: str) -> str:
    if source.count("(") == source.count(")"):
        return ""
    return "; if a comma inside {...} or [...] cut it off, put it in quotes"


def _nothing(scope: Json) -> Json:
    return None


def _plain(value: Json) -> str:
    return value if isinstance(value, str) else mapping.shown(value)
