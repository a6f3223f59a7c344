"""The parts that run for every chunk, beside the same written by hand: framing, expressions, JSON.

A case is a function that builds its input and returns what is timed. It imports the part it times itself, so that one
part that cannot be imported leaves the others measurable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from benchmarks.answers import frames

if TYPE_CHECKING:
    from proxy.types import Json, JsonObject

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
