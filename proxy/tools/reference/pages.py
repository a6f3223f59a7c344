"""The pages as text. A test holds those in docs/reference to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Final

from proxy.backends.flags import PROGRAM
from proxy.backends.functions import rule_functions
from proxy.expr import STANDARD, Function, FunctionRegistry
from proxy.expr.additions import register_additions
from proxy.expr.functions import TYPES
from proxy.tools.reference.rules import rules_page
from proxy.tools.reference.sections import Section, anchor, sections, table
from proxy.tools.schemas import schemas
from proxy.types import Json

_MADE: Final = "<!-- Made by `make docs` from the program; do not edit. -->"


def pages() -> dict[str, str]:
    """File name to text."""
    return {
        "settings.md": _page(_settings()),
        "functions.md": _page(_functions()),
        "rules.md": _page(rules_page()),
    }


def _page(lines: Iterable[str]) -> str:
    return "\n".join([_MADE, "", *lines]) + "\n"


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield f"Every key of the file that `{PROGRAM} serve --config FILE` reads. A flag beats the file. An unknown key"
    yield "is a mistake. [settings.example.yaml](../../settings.example.yaml) is a file to begin with."
    yield ""
    found = sections(schemas()["settings"])
    yield from table(found[0].keys)
    for section in found[1:]:
        yield from _section(section)


def _section(section: Section) -> Iterator[str]:
    yield ""
    yield f"## {section.path}"
    yield ""
    yield section.text
    yield ""
    yield from table(section.keys)


def _functions() -> Iterator[str]:
    additions = FunctionRegistry()
    register_additions(additions)
    own = set(additions.names)
    standard = [each for each in STANDARD if each.name not in own]
    backends = [each for each in rule_functions() if STANDARD.get(each.name) is None]
    yield "# Functions"
    yield ""
    yield "What an expression of a rule file may call, each with examples that run as tests. `?` marks an argument that"
    yield "may be left out, `...` one that may be repeated."
    yield ""
    yield "| type | what is taken |"
    yield "|---|---|"
    for name, words in TYPES.items():
        yield f"| `{name}` | {words} |"
    groups = {"JMESPath": standard, "Added": list(additions), "Prompts": backends}
    for name, functions in groups.items():
        yield ""
        yield f"{name}: {', '.join(f'[{each.name}](#{anchor(each.name)})' for each in functions)}"
    for function in rule_functions():
        yield from _function(function)


def _function(function: Function) -> Iterator[str]:
    yield ""
    yield f"## {function.name}"
    yield ""
    yield f"`{function.signature}`"
    yield ""
    yield function.doc
    yield ""
    yield "```"
    for expression, result in function.examples:
        yield f"{expression}  =>  {_text(result)}"
    yield "```"


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)
