"""The commands for whoever writes rules. Each can be added to the program's command line by itself.

What a command needs is imported when it runs, so that the others begin at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from proxy.backends.flags import FIRST_PACK, PROGRAM
from proxy.tools.terminal import (
    AS_JSON,
    BACKEND_KIND,
    PATHS,
    RULES,
    WORKER,
    RuleCommand,
    fail,
    loaded,
    read_bytes,
    read_json,
    read_worker,
    say_json,
    say_mistakes,
)
from proxy.types import Json

if TYPE_CHECKING:
    from proxy.tools.translating import Direction


@click.command(cls=RuleCommand, short_help="Look for mistakes in rule packs.")
@PATHS
@AS_JSON
def check(paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Look for mistakes in rule packs: all of them, each with file, line and column.

    PATHS are rule packs or folders of them; default: the packs that come with the program. For a pack that extends
    another one, what it changes is listed. Exit code 1 where there is a mistake.
    """
    from proxy.tools import checking

    rules = loaded(paths, as_json=as_json)
    mistakes = checking.findings(rules)
    if as_json:
        say_json(checking.check_json(rules, mistakes))
    else:
        for line in checking.change_lines(rules):
            click.echo(line)
        if mistakes:
            say_mistakes(mistakes)
        else:
            for line in checking.pack_lines(rules):
                click.echo(line)
            click.secho("no mistakes", fg="green")
    sys.exit(1 if mistakes else 0)


@click.command(cls=RuleCommand, short_help="Run the tests inside rule packs.")
@PATHS
@AS_JSON
def test(paths: tuple[Path, ...], *, as_json: bool) -> None:
    """Run the tests inside rule packs; each stream as a whole, and again cut at every byte.

    PATHS are rule packs or folders of them; default: the packs that come with the program. Exit code 1 where one fails.
    """
    from proxy.ruleset import run_tests
    from proxy.tools import testing

    rules = loaded(paths, as_json=as_json)
    outcomes = []
    for outcome in run_tests(rules.tests):
        outcomes.append(outcome)
        if not as_json:
            for line in testing.outcome_lines(outcome):
                click.echo(line)
    failed = sum(bool(outcome.found) for outcome in outcomes)
    if as_json:
        say_json(testing.outcomes_json(outcomes))
    else:
        click.echo(f"{len(outcomes) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


@click.command(cls=RuleCommand, short_help="Show which route takes a request, and what becomes of it.")
@click.argument("method")
@click.argument("path")
@click.option("--body", "body", type=click.Path(path_type=Path), metavar="FILE", help="Its JSON body; - reads stdin.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="One of its headers. Repeatable.")
@WORKER
@BACKEND_KIND
@RULES
@AS_JSON
def explain(
    method: str,
    path: str,
    body: Path | None,
    headers: tuple[str, ...],
    worker: Path | None,
    backend: str | None,
    rules: tuple[Path, ...],
    *,
    as_json: bool,
) -> None:
    """Show which route takes a request and why the others do not; then the call that is made of it and what goes to the
    worker, field by field, with the line of the rule that makes it.

    PATH may have a query. The worker is the sample of the route's pack, and it is not asked. Exit code 1 where the
    request is refused.
    """
    from proxy.tools import explained, explaining

    given = [header.partition(":") for header in headers]
    wrong = [name for name, colon, _ in given if not colon or not name.strip()]
    if wrong:
        fail(f"--header {wrong[0]}: expected NAME:VALUE")
    if not path.startswith("/"):
        fail(f"PATH: expected one that begins with /, got {path}")
    known = read_worker(worker)
    document = read_json(body) if body is not None else {}
    request = explaining.request_of(method, path, {name.strip(): value.strip() for name, _, value in given}, document)
    try:
        found = explaining.explain(loaded(rules, as_json=as_json), request, known, backend)
    except ValueError as error:
        fail(str(error))
    if as_json:
        say_json(explained.explanation_json(request, found))
    else:
        for line in explained.explanation_lines(request, found):
            click.echo(line)
    sys.exit(1 if found.refused is not None else 0)


@click.command(cls=RuleCommand, short_help="Put a recorded body or stream through a route.")
@click.argument("route")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--direction",
    type=click.Choice(["request", "stream", "answer"]),
    default="request",
    show_default=True,
    help="What FILE has: a client's request, or a worker's stream or answer.",
)
@click.option(
    "--request",
    "request",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The request that was answered. Default: that of the route's first test with an answer.",
)
@WORKER
@BACKEND_KIND
@click.option("--cut", is_flag=True, help="The worker's connection broke off at the end of the stream.")
@click.option("--raw", is_flag=True, help="Write a stream as the client gets it, not a line of JSON for each frame.")
@RULES
@AS_JSON
def translate(
    route: str,
    file: Path,
    direction: Direction,
    request: Path | None,
    worker: Path | None,
    backend: str | None,
    rules: tuple[Path, ...],
    *,
    cut: bool,
    raw: bool,
    as_json: bool,
) -> None:
    """Put a recorded body or stream through a route, without a network. Questions to the worker stay unanswered.

    ROUTE is a route's name, or PACK/NAME. FILE has a client's request in JSON; or with --direction the worker's stream
    as it came over the wire, or the worker's answer in JSON. - reads stdin. Exit code 1 where it ends in an error.
    """
    from proxy.tools import translating

    known = read_worker(worker)
    asked = read_json(request) if request is not None else None
    loaded_rules = loaded(rules, as_json=as_json)
    try:
        found_route = translating.find_route(loaded_rules, route, backend)
        if request is None:
            asked = translating.request_of_tests(loaded_rules, found_route)
        if direction == "stream":
            found = translating.translate_stream(found_route, read_bytes(file), asked, known, cut=cut)
        elif direction == "answer":
            found = translating.translate_answer(found_route, read_json(file), asked, known)
        else:
            found = translating.translate_request(found_route, read_json(file), known)
    except ValueError as error:
        fail(str(error))
    if as_json:
        say_json(translating.translated_json(found_route, direction, found))
    elif raw and found.raw:
        click.echo(found.raw, nl=False)
    elif direction == "stream" and isinstance(found.result, list):
        for frame in found.result:
            click.echo(orjson.dumps(frame).decode())
    elif found.error is None:
        say_json(found.result)
    if found.error is not None and not as_json:
        click.echo(f"{click.style(found.error.kind, fg='red')}: {found.error.message}", err=True)
    sys.exit(1 if found.error is not None else 0)


@click.command(cls=RuleCommand, short_help="Show which fields a pack carries, changes and drops.")
@click.argument("pack")
@BACKEND_KIND
@RULES
@AS_JSON
def compat(pack: str, backend: str | None, rules: tuple[Path, ...], *, as_json: bool) -> None:
    """Show what becomes of each field between client and worker: carried, changed, used on the way, dropped, invented.

    PACK is the folder of a rule pack or of a backend pack, or the name of one that comes with the program. A route with
    a call is shown through both halves, with the workers of one backend. The names are those of tests, expressions and
    `fields`. Exit code 1 where something dropped is not in `accepted_losses`.
    """
    from proxy.ruleset.sources import BACKENDS, found_pack
    from proxy.tools import compared, losses

    meant = (found_pack(Path(pack)), found_pack(Path(BACKENDS, pack)))
    folder = next((each for each in meant if each.is_dir()), Path(pack))
    known = loaded([folder, *rules], as_json=as_json)
    backends = [each for each in known.backends.values() if each.folder.resolve() == folder.resolve()]
    packs = [each for each in known.sources if each.folder.resolve() == folder.resolve()]
    try:
        if backends:
            found = losses.backend_compatibility(backends[0])
        elif packs:
            found = losses.compatibility(packs[0], known.backends, backend)
        else:
            fail(f"{pack}: expected one rule pack, got {len(known.sources)}: {', '.join(known.packs)}")
    except ValueError as error:
        fail(str(error))
    name = (backends or packs)[0].name
    if as_json:
        say_json(compared.compatibility_json(name, found))
    else:
        for line in compared.compatibility_lines(name, found):
            click.echo(line)
    sys.exit(1 if any(field.lost for field in found.fields) else 0)


@click.command(cls=RuleCommand, short_help="Write JSON Schema of settings and rule files, for editors.")
@click.argument("name", required=False, type=click.Choice(["settings", "rule", "pack", "errors"]))
@click.option(
    "--write", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Into DIR, as NAME.schema.json."
)
@AS_JSON
def schema(name: str | None, folder: Path | None, *, as_json: bool) -> None:
    """Write JSON Schema, for editors: of settings, of a rule file, of pack.yaml or of errors.yaml.

    Without NAME all of them, as one object or as files.
    """
    from proxy.tools import schemas

    found = schemas.schemas()
    chosen = {name: found[name]} if name is not None else found
    if folder is None:
        say_json(chosen[name] if name is not None else dict(chosen))
        return
    written = {folder / f"{each}.schema.json": document for each, document in chosen.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, document in written.items():
            file.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        fail(f"--write {folder}: {error.strerror}")
    if as_json:
        say_json({"written": [str(file) for file in written]})
    else:
        for file in written:
            click.echo(file)


@click.command(cls=RuleCommand, short_help="Write a rule pack and settings to begin with.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--extends", "extends", metavar="PACK", help=f"The shipped pack to change. Default: {FIRST_PACK}.")
@click.option(
    "--dialect", "dialect", metavar="NAME", help="Instead: a new dialect, for clients of a kind of their own."
)
@click.option(
    "--backend", "backend", metavar="NAME", help="Instead: a new backend, for workers of a kind of their own."
)
@AS_JSON
def init(folder: Path, extends: str | None, dialect: str | None, backend: str | None, *, as_json: bool) -> None:
    """Write rules to begin with, their tests, settings that serve them, and schemas for editors: a pack that changes
    one field of a shipped one, or a dialect or backend of your own, or several of these.

    Into DIR, which need not exist; nothing that is there is overwritten.
    """
    from proxy.tools import starting

    try:
        begun = starting.start(loaded([], as_json=as_json), folder, starting.Wanted(extends, dialect, backend))
    except ValueError as error:
        fail(str(error))
    there = [str(file) for file in begun.files if file.exists() or file.is_symlink()]
    if there:
        fail(f"{', '.join(there)}: there already; nothing was written")
    try:
        for file, text in begun.files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as stream:
                stream.write(text)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}")
    if as_json:
        written: list[Json] = [str(file) for file in begun.files]
        say_json({"written": written, **starting.start_json(begun)})
        return
    for file in begun.files:
        click.echo(f"wrote {file}")
    for line in starting.start_lines(begun):
        click.echo(line)
    for line in (f"check {folder}/rules", f"test {folder}/rules", f"serve --config {folder}/settings.yaml"):
        click.echo(f"  {PROGRAM} {line}")


@click.command(cls=RuleCommand, short_help="Run recorded requests through rules, and show what changes.")
@click.argument("recording", type=click.Path(path_type=Path))
@RULES
@AS_JSON
def replay(recording: Path, rules: tuple[Path, ...], *, as_json: bool) -> None:
    """Run the requests of a recording through a rule set, without a network, and show where another request would go to
    the workers, or another answer to the clients.

    RECORDING is a file that a gateway wrote (POST /record on its admin address). The workers say what they said then.
    Exit code 1 where anything differs.
    """
    from proxy.recording.reading import Recording, RecordingError
    from proxy.tools import replay_report, replaying

    found: list[replaying.Compared] = []
    left_off = 0
    summary = replaying.Summary()
    try:
        recorded = Recording(recording)
        chosen = loaded(rules, as_json=as_json)
        comparing = replaying.Comparing(chosen, recorded.head.words if recorded.head.redacted else None)
        for compared in replaying.replayed(recorded, comparing, told=sys.stderr):
            summary.add(compared)
            if not compared.differences:
                continue
            if len(found) < (replaying.LISTED_MAX if as_json else replaying.SHOWN_MAX):
                found.append(compared)
            else:
                left_off += 1
    except (RecordingError, OSError) as error:
        fail(f"{recording}: {error.strerror}" if isinstance(error, OSError) else str(error))
    if as_json:
        say_json(replay_report.replay_json(summary, recorded.head, recorded.end, found, left_off))
    else:
        for each in found:
            for line in replay_report.compared_lines(each):
                click.echo(line)
        for line in replay_report.summary_lines(summary, recorded.head, recorded.end, left_off):
            click.echo(line)
    sys.exit(1 if summary.different else 0)


RULE_COMMANDS = (check, test, explain, translate, compat, schema, init, replay)
