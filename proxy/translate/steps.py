"""The steps of a rule on the way to the worker's request: named values, questions to the worker, and checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, NoReturn

from proxy.errors import GatewayError, Kind
from proxy.expr import Writer
from proxy.translate.mapping import OMIT, Read, Scope, Value, Written, holds, omits, write
from proxy.types import Json


class Check(NamedTuple):
    """A condition on a request: where it does not hold, the caller gets this error."""

    condition: Read
    kind: Kind
    message: Callable[[dict[str, Json]], str]
    field: str | None

    def refuse(self, scope: Scope) -> NoReturn:
        """Raise the error."""
        raise GatewayError(self.kind, self.message(scope), field=self.field)


class Call(NamedTuple):
    """A question to the worker before the request itself, of whose JSON answer `result` is kept: POST `path` with
    `body`; or, with `operation`, as the worker's backend wants it asked, and `body` makes the operation's arguments.
    """

    path: str
    body: Value
    result: Read
    operation: str | None = None


class Step(NamedTuple):
    """A named value on the way to the request, `steps.<name>` afterwards: computed, or asked from the worker.

    condition: false means null without asking. A question that fails gives null and is logged, never an error of the
    request.
    """

    name: str
    value: Value | None = None
    call: Call | None = None
    condition: Read | None = None


class Asked(NamedTuple):
    """A step that asks the worker."""

    name: str
    call: Call
    condition: Read | None


class Computed(Written):
    """Steps and checks that ask nobody, one after another: fills the scope's `steps`, and gives nothing."""

    __slots__ = ("_steps",)

    def __init__(self, steps: Sequence[Step | Check]) -> None:
        super().__init__()
        self._steps = tuple(steps)

    def write(self, writer: Writer, scope: str) -> str:
        values = writer.field(scope, "steps")
        known = writer.fields(values)
        for step in self._steps:
            if isinstance(step, Check):
                refuse = f"{writer.constant(step.refuse)}({scope})"
                writer.line(f"if not ({holds(writer, step.condition, scope)}): {refuse}")
            else:
                found = _value(writer, step, scope)
                writer.line(f"{values}[{step.name!a}] = {found}")
                known[step.name] = found
        return "None"


def _value(writer: Writer, step: Step, scope: str) -> str:
    if step.condition is None:
        return _present(writer, step.value, scope)
    result = writer.set("None")
    with writer.block(f"if {holds(writer, step.condition, scope)}"):
        writer.line(f"{result} = {_present(writer, step.value, scope)}")
    return result


def _present(writer: Writer, value: Value | None, scope: str) -> str:
    """What is left out is null."""
    if value is None:
        return "None"
    found = write(writer, value, scope)
    return writer.set(f"None if {found} is {writer.constant(OMIT)} else {found}") if omits(value) else found


class Steps(tuple[Step | Check, ...]):
    """The steps in the order of the rule."""

    @cached_property
    def parts(self) -> tuple[Computed | Asked, ...]:
        """The same: what asks the worker, and what lies between."""
        parts: list[Computed | Asked] = []
        computed: list[Step | Check] = []
        for step in self:
            if isinstance(step, Check) or step.call is None:
                computed.append(step)
                continue
            if computed:
                parts.append(Computed(computed))
                computed = []
            parts.append(Asked(step.name, step.call, step.condition))
        return (*parts, Computed(computed)) if computed else tuple(parts)
