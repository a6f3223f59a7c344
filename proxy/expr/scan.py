"""Checks on the text of an expression that come before parsing: quoted parts, limits, and tokens with their places."""

from __future__ import annotations

import json
import math
import re
from typing import TypedDict

from jmespath.exceptions import LexerError
from jmespath.lexer import Lexer

from proxy.expr.errors import ExpressionSyntaxError
from proxy.types import Json

# In order of appearance: a raw string, a quoted name, a literal; or an opening mark that nothing closes.
_QUOTED = re.compile(
    r"""'(?:\\.|[^'\\])*'|(?P<name>"(?:\\.|[^"\\])*")|`(?P<literal>(?:\\.|[^`\\])*)`|(?P<open>['"`])""", re.DOTALL
)
_OPENING = frozenset({"lparen", "lbrace", "lbracket", "filter"})
_CLOSING = frozenset({"rparen", "rbrace", "rbracket"})
_SHOWN = 40  # characters of the source that a message repeats


class Token(TypedDict):
    """One token of the library's lexer, as far as it is used here."""

    type: str
    value: Json
    start: int


def too_deep(limit: int, offset: int) -> ExpressionSyntaxError:
    return ExpressionSyntaxError(f"the expression nests more than {limit} levels deep", offset)


def scan(source: str, *, max_length: int, max_depth: int) -> list[Token]:
    """Return the tokens of `source`; raise ExpressionSyntaxError for what is wrong on this level."""
    if len(source) > max_length:
        raise ExpressionSyntaxError(
            f"the expression has {len(source)} characters, at most {max_length} are allowed", max_length
        )
    if not source.strip():
        raise ExpressionSyntaxError("the expression is empty", 0)
    for match in _QUOTED.finditer(source):
        _check_quoted(match, max_depth)
    try:
        tokens: list[Token] = list(Lexer().tokenize(source))
    except LexerError as error:
        raise _unreadable(error.lexer_position, error.lexer_value) from error
    except ValueError as error:  # the one other failure is Python's limit on the digits of an integer
        raise ExpressionSyntaxError("the expression holds an index with too many digits", 0) from error
    _check_tokens(tokens, max_depth)
    return tokens


def shown(text: str) -> str:
    """Cut `text` to a length that fits a message."""
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _check_quoted(match: re.Match[str], max_depth: int) -> None:
    offset = match.start()
    if match["open"]:
        raise ExpressionSyntaxError(f"the {match['open']} that opens here is never closed", offset)
    if match["name"] is not None:
        try:
            json.loads(match["name"])
        except ValueError as error:
            raise ExpressionSyntaxError(f"{shown(match[0])} is not a valid JSON string", offset) from error
    if match["literal"] is not None:
        _check_literal(match["literal"].replace("\\`", "`"), offset, max_depth)


def _check_literal(text: str, offset: int, max_depth: int) -> None:
    # The standard once read `x` as the string "x". That form is refused: `False` would be a string, and so true.
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise too_deep(max_depth, offset) from error
    except ValueError as error:
        raise ExpressionSyntaxError(
            f"`{shown(text)}` is not JSON; a string is written '{shown(text)}'", offset
        ) from error
    level = [value]
    for _ in range(max_depth):
        for item in level:
            if isinstance(item, (int, float)) and not _is_wire_number(item):
                raise ExpressionSyntaxError("a number in this literal does not fit 64 bits", offset)
        level = [
            child
            for item in level
            if isinstance(item, (list, dict))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise too_deep(max_depth, offset)


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is not JSON")


def _is_wire_number(number: float) -> bool:
    return math.isfinite(number) if isinstance(number, float) else -(2**63) <= number < 2**64


def _unreadable(offset: int, character: str) -> ExpressionSyntaxError:
    if character == "=":
        return ExpressionSyntaxError("a single = is not an operator; == compares", offset)
    return ExpressionSyntaxError(
        f"unexpected character {character!r}; a name with other characters than letters, digits and _ "
        'is written in double quotes, as in "my-field"',
        offset,
    )


def _check_tokens(tokens: list[Token], max_depth: int) -> None:
    depth = 0
    for index, token in enumerate(tokens):
        if token["type"] in _OPENING:
            depth += 1
            if depth > max_depth:
                raise too_deep(max_depth, token["start"])
            if token["type"] == "lparen" and index and tokens[index - 1]["type"] == "quoted_identifier":
                raise ExpressionSyntaxError("a function name is written without quotes", tokens[index - 1]["start"])
        elif token["type"] in _CLOSING:
            depth -= 1
            if _is_step_zero([tokens[place]["type"] for place in range(max(0, index - 4), index)], tokens[index - 1]):
                raise ExpressionSyntaxError("the step of a slice cannot be 0", tokens[index - 1]["start"])


def _is_step_zero(before: list[str], last: Token) -> bool:
    """Say whether the token types before a closing bracket end in the `:0` that is a slice's third part."""
    if last["type"] != "number" or last["value"] != 0:
        return False
    return before[-3:] == ["colon", "colon", "number"] or before[-4:] == ["colon", "number", "colon", "number"]
