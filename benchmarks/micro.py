"""`python -m benchmarks.micro`: nanoseconds of the parts that run for every chunk, beside the same written by hand.

A case is a function that builds its input and returns what is timed. It imports the part it times itself, so that one
part that cannot be imported leaves the others measurable.
"""

from __future__ import annotations

import argparse
import sys
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.answers import frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.types import Json, JsonObject

REPEATS = 5
SAMPLE_SECONDS = 0.05
# What one chunk of a usual answer is measured on: the 50th of 100, about 300 bytes of text.
CHUNK = frames(100)[49][:-1]
CHUNK_FIELDS = ("text", "error_code", "usage", "finish_reason")
CHUNK_EXPRESSION = "{text: text, error_code: error_code, usage: usage, finish_reason: finish_reason}"
FRAME_LIMIT = 1 << 20

Timed = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One row. `operations` is how many of what is counted one call does."""

    name: str
    operations: int
    build: Callable[[], Timed]


CASES: list[Case] = []


def case(name: str, operations: int = 1) -> Callable[[Callable[[], Timed]], Callable[[], Timed]]:
    """Add a case to the table."""

    def add(build: Callable[[], Timed]) -> Callable[[], Timed]:
        CASES.append(Case(name, operations, build))
        return build

    return add


def _framing_case(name: str) -> None:
    @case(f"framing: {name} decode, one frame a read", operations=100)
    def decode() -> Timed:
        from proxy.framing import FRAMINGS

        framing = FRAMINGS[name]
        reads = [framing.encode(frame[:-1]) for frame in frames(100)]

        def timed() -> None:
            feed = framing.new_decoder(FRAME_LIMIT).feed
            for read in reads:
                feed(read)

        return timed

    @case(f"framing: {name} decode, 100 frames a read", operations=100)
    def decode_many() -> Timed:
        from proxy.framing import FRAMINGS

        framing = FRAMINGS[name]
        read = b"".join(framing.encode(frame[:-1]) for frame in frames(100))
        return lambda: framing.new_decoder(FRAME_LIMIT).feed(read)

    @case(f"framing: {name} encode")
    def encode() -> Timed:
        from proxy.framing import FRAMINGS

        encode = FRAMINGS[name].encode
        return lambda: encode(CHUNK)


for _name in ("nul", "sse", "ndjson"):
    _framing_case(_name)


def _expression_case(label: str, source: str) -> None:
    @case(f"expression: {label}")
    def evaluate() -> Timed:
        expression = _compiled(source)
        document: Json = {"chunk": orjson.loads(CHUNK), **orjson.loads(CHUNK)}
        return lambda: expression(document)

    @case(f"expression: {label}, jmespath itself")
    def reference() -> Timed:
        import jmespath

        expression = jmespath.compile(source)
        document: JsonObject = {"chunk": orjson.loads(CHUNK), **orjson.loads(CHUNK)}
        return lambda: expression.search(document)


def _compiled(source: str) -> Callable[[Json], Json]:
    from proxy.expr import STANDARD, compile_expression

    return compile_expression(source, STANDARD)


_expression_case("one field", "chunk.usage.prompt_tokens")
_expression_case("a field or another", "chunk.missing || chunk.text")
_expression_case("an object of four", CHUNK_EXPRESSION)


@case("expression: compile an object of four")
def compile_object() -> Timed:
    from proxy.expr import STANDARD, compile_expression

    return lambda: compile_expression(CHUNK_EXPRESSION, STANDARD)


@case("chunk: loads and dumps alone")
def chunk_floor() -> Timed:
    return lambda: orjson.dumps(orjson.loads(CHUNK))


@case("chunk: loads, four fields by hand, dumps")
def chunk_by_hand() -> Timed:
    def timed() -> bytes:
        chunk = orjson.loads(CHUNK)
        return orjson.dumps({name: chunk.get(name) for name in CHUNK_FIELDS})

    return timed


@case("chunk: loads, four fields by expression, dumps")
def chunk_by_expression() -> Timed:
    expression = _compiled(CHUNK_EXPRESSION)
    return lambda: orjson.dumps(expression(orjson.loads(CHUNK)))


def nanoseconds(timed: Timed, operations: int) -> float:
    """The best of several samples, each long enough for the clock; for one operation."""
    timer = timeit.Timer(timed)
    number = 1
    while (seconds := timer.timeit(number)) < SAMPLE_SECONDS:
        number = max(number * 2, int(number * SAMPLE_SECONDS / max(seconds, 1e-9)))
    return min(seconds, *timer.repeat(REPEATS, number)) / number / operations * 1e9


def measure(cases: Sequence[Case]) -> dict[str, float | str]:
    """Nanoseconds by case, or why a case cannot run."""
    return {one.name: _measure(one) for one in cases}


def _measure(one: Case) -> float | str:
    try:
        timed = one.build()
    except (ImportError, AttributeError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return round(nanoseconds(timed, one.operations), 1)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro", description="Nanoseconds for each operation.")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases with this in their name")
    parser.add_argument("--json", type=Path, metavar="FILE", help="for the results")
    options = parser.parse_args(arguments)
    found = [one for one in CASES if options.only in one.name]
    if not found:
        print(f"no case has {options.only!r} in its name", file=sys.stderr)
        return 2
    results = measure(found)
    terminal = sys.stdout.isatty()
    table = Table(box=box.SIMPLE_HEAD if terminal else box.MARKDOWN)
    table.add_column("case")
    table.add_column("ns", justify="right")
    for name, value in results.items():
        table.add_row(name, value if isinstance(value, str) else f"{value:,.0f}")
    Console(width=None if terminal else 160).print(table)
    if options.json is not None:
        options.json.write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
