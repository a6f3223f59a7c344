"""What the commands have in common: reading rules and files, and saying things to people and to programs.

Exit codes: 0 it is so; 1 the rules or the request are not as they should be; 2 the command was not given what it needs.
With --json there is one JSON document on standard output, also then: `{"mistakes": [...]}` of rules that cannot be
loaded, `{"error": "a sentence"}` with exit code 2.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson

from proxy import garbage
from proxy.limits import REQUEST_MAX_BYTES
from proxy.types import Json, JsonObject

if TYPE_CHECKING:
    from proxy.documents import Diagnostic
    from proxy.ruleset import RuleSet

PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
RULES = click.option(
    "--rules",
    "rules",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Rule packs. Repeatable. Default: the shipped.",
)
WORKER = click.option(
    "--worker", "worker", type=click.Path(path_type=Path), metavar="FILE", help="JSON over the pack's sample worker."
)
BACKEND_KIND = click.option(
    "--backend", "backend", metavar="NAME", help="The kind of worker. Default: the one of the route's pack."
)
_COLOUR_CODES = re.compile("\x1b\\[[0-9;]*m")


class RuleCommand(click.Command):
    """A command whose wrong arguments are told as everything else is: to programs with --json."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click's."""
        as_json = "--json" in args
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            if not as_json:
                raise
            say_json({"error": error.format_message()})
            sys.exit(2)


def loaded(paths: Sequence[Path], *, as_json: bool) -> RuleSet:
    """The rule set; where it has mistakes they are told and the program ends with 1."""
    from proxy.backends.functions import rule_functions
    from proxy.documents import DocumentError
    from proxy.ruleset import load_rules, shipped_rules

    try:
        rules = load_rules(paths or [shipped_rules()], rule_functions())
        garbage.work()
        return rules
    except DocumentError as error:
        if as_json:
            say_json({"mistakes": mistakes_json(error.diagnostics)})
        else:
            say_mistakes(error.diagnostics)
        sys.exit(1)


def say_json(value: Json) -> None:
    """One JSON document on standard output."""
    click.echo(json_text(value, indent=True))


def json_text(value: Json, *, indent: bool = False) -> str:
    """A value as JSON. A name that the system gave and that is not UTF-8 is written with escapes."""
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else None).decode()
    except TypeError:
        return json.dumps(value, indent=2 if indent else None)


def say_mistakes(mistakes: Iterable[Diagnostic]) -> None:
    """Each with its place on standard error, and how many there were."""
    listed = list(mistakes)
    for mistake in listed:
        place = f"{mistake.file}:"
        if Path(mistake.file).is_file():  # a folder has no lines
            place += f"{mistake.line}:{mistake.column}:"
        click.echo(f"{click.style(place, bold=True)} {mistake.message}", err=True)
    click.secho(counted(len(listed), "mistake"), fg="red", err=True)


def mistakes_json(mistakes: Iterable[Diagnostic]) -> Json:
    """As `say_mistakes`, for programs."""
    return [{"file": each.file, "line": each.line, "column": each.column, "message": each.message} for each in mistakes]


def fail(sentence: str) -> NoReturn:
    """The command cannot be done as it was given; exit code 2."""
    context = click.get_current_context(silent=True)
    if context is not None and context.params.get("as_json"):
        say_json({"error": sentence})
        sys.exit(2)
    click.echo(f"{click.style('Error:', fg='red')} {sentence}", err=True)
    sys.exit(2)


def read_bytes(file: Path) -> bytes:
    """A file, or standard input for `-`; one sentence and exit code 2 where it cannot be had."""
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(REQUEST_MAX_BYTES + 1)
        else:
            with file.open("rb") as stream:
                data = stream.read(REQUEST_MAX_BYTES + 1)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    if len(data) > REQUEST_MAX_BYTES:
        fail(f"{file}: over the limit of {REQUEST_MAX_BYTES} bytes")
    return data


def read_json(file: Path) -> Json:
    """As `read_bytes`, for a JSON document."""
    try:
        value: Json = orjson.loads(read_bytes(file))
    except orjson.JSONDecodeError as error:
        fail(f"{file}: not JSON: {error}")
    return value


def read_worker(file: Path | None) -> JsonObject:
    """What `--worker` gives, nothing without it; one sentence and exit code 2 where it is no JSON object."""
    known = read_json(file) if file is not None else {}
    if not isinstance(known, dict):
        fail(f"--worker {file}: expected a JSON object")
    return known


def counted(number: int, what: str) -> str:
    """`1 test`, `2 tests`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def short(value: Json, length: int = 100) -> str:
    """A value as JSON on one line, cut to so many characters."""
    from proxy.documents import clipped

    return clipped(json_text(value), length)


def near(path: str) -> str:
    """A path, from the working directory where it is below it."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


def columns(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Rows as lines with aligned columns; colours take no room."""
    count = max((len(row) for row in rows), default=0)
    widths = [max((_width(row[i]) for row in rows if i < len(row)), default=0) for i in range(count)]
    return [gap.join(cell + " " * (widths[i] - _width(cell)) for i, cell in enumerate(row)).rstrip() for row in rows]


def _width(text: str) -> int:
    return len(_COLOUR_CODES.sub("", text))
