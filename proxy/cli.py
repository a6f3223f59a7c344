"""The command line. A mistake of the user is one clear sentence and exit code 2, never a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy import __version__

if TYPE_CHECKING:
    from proxy.app import RunningGateway
    from proxy.documents import DocumentError
    from proxy.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

_PATHS = click.argument("paths", nargs=-1, type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
def main() -> None:
    """A gateway that makes a FastChat fleet a member of a DB-GPT cluster."""


@main.command()
@_PATHS
def check(paths: tuple[Path, ...]) -> None:
    """Look for mistakes in rule packs: all of them, each with file, line and column.

    PATHS are rule packs or folders of them; default: the packs that come with the program.
    """
    rules = _load(paths)
    click.echo(f"{len(rules.table.routes)} routes in {', '.join(rules.packs)}: no mistakes")


@main.command()
@_PATHS
def test(paths: tuple[Path, ...]) -> None:
    """Run the tests inside rule packs.

    PATHS are rule packs or folders of them; default: the packs that come with the program.
    """
    from proxy.ruleset import run_tests

    failed = passed = 0
    for outcome in run_tests(_load(paths).tests):
        if outcome.problems:
            failed += 1
            click.secho(f"FAIL {outcome.test.route.name}: {outcome.test.test.name}  ({outcome.test.file})", fg="red")
            for problem in outcome.problems:
                click.echo(f"     {problem}")
        else:
            passed += 1
            click.echo(f"{click.style('ok', fg='green')}   {outcome.test.route.name}: {outcome.test.test.name}")
    click.echo(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def _load(paths: tuple[Path, ...]) -> Any:
    from proxy.backends.functions import rule_functions
    from proxy.documents import DocumentError
    from proxy.ruleset import load_rules, shipped_rules

    try:
        return load_rules(paths or [shipped_rules()], rule_functions())
    except DocumentError as error:
        _print_mistakes(error)
        sys.exit(1)


def _print_mistakes(error: DocumentError) -> None:
    for mistake in error.diagnostics:
        place = click.style(f"{mistake.file}:{mistake.line}:{mistake.column}:", bold=True)
        click.echo(f"{place} {mistake.message}", err=True)
    count = len(error.diagnostics)
    click.secho(f"{count} mistake{'s' if count != 1 else ''}", fg="red", err=True)


def _backend_flags(command: Command) -> Command:
    from proxy.backends.settings import FLAGS

    for flag in reversed(FLAGS):
        command = click.option(flag.name, multiple=flag.multiple, metavar=flag.metavar, help=flag.help)(command)
    return command


@main.command()
@click.option("--config", "config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in YAML.")
@click.option("--rules", "rules", multiple=True, metavar="PATH", help="Rule packs. Default: the shipped ones.")
@click.option("--listen", metavar="HOST:PORT", help="Where clients call. Default 127.0.0.1:8090.")
@click.option("--admin", metavar="HOST:PORT", help="Metrics, health and state. Default 127.0.0.1:8091.")
@_backend_flags
@click.option("--demo", is_flag=True, help="Serve an embedded demonstration fleet.")
def serve(config: Path | None, demo: bool, **given: Any) -> None:  # noqa: FBT001  what click passes
    """Serve clients until interrupted. A flag beats the settings file."""
    from proxy.app import StartError, read_rules
    from proxy.documents import DocumentError
    from proxy.telemetry.log import configure_logging

    try:
        settings = _settings(config, given, demo=demo)
        rules = read_rules(settings.rules)
    except DocumentError as error:
        _print_mistakes(error)
        sys.exit(2)
    except (ValueError, StartError) as error:
        _fail(str(error))
    configure_logging(settings.log.level, settings.log.format)
    try:
        _run(lambda: _serve(settings, rules))
    except StartError as error:
        _fail(str(error))


def _settings(config: Path | None, given: dict[str, Any], *, demo: bool) -> Settings:
    from proxy.backends.settings import flag_values
    from proxy.settings import load_settings

    flags: dict[str, object] = dict(flag_values(given))
    for name in ("listen", "admin"):
        if given.get(name) is not None:
            flags[name] = given[name]
    if given.get("rules"):
        flags["rules"] = list(given["rules"])
    if demo:
        flags["demo"] = {}
    return load_settings(config, flags)


def _run(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On uvloop where it exists: half the CPU of a stream is the event loop's."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(program())
    else:
        uvloop.run(program())


def _fail(sentence: str) -> None:
    click.secho(f"Error: {sentence}", fg="red", err=True)
    sys.exit(2)


async def _serve(settings: Settings, rules: Any) -> None:
    from proxy.app import RunningGateway

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(name, stop.set)
    async with RunningGateway(settings, rules).serve() as gateway:
        _say_started(gateway)
        await stop.wait()
        click.echo("stopping: withdrawing, letting streams finish")


def _say_started(gateway: RunningGateway) -> None:
    rules = gateway.rules
    say = click.echo
    say(f"rules       {len(rules.table.routes)} routes in {', '.join(rules.packs)}; {len(rules.tests)} tests passed")
    say(f"clients     http://{gateway.listen}")
    say(f"operators   http://{gateway.admin}/metrics  /readyz  /healthz  /status")
    for view in gateway.fleet.workers():
        models = ", ".join(f"{facts.model} ({'+'.join(sorted(facts.kinds))})" for facts in view.models)
        say(f"worker      {view.address}  {models if view.up else f'down: {view.reason}'}")
    if not gateway.fleet.workers():
        say("worker      none yet")
    for url, _ in gateway.backends.registrations():
        say(f"registers   with {url} as {gateway.advertised}")
    for line in _try_it(gateway):
        say(line)
    sys.stdout.flush()


def _try_it(gateway: RunningGateway) -> list[str]:
    """Lines to copy for whoever runs the demonstration; each rule pack says how it is tried."""
    if not gateway.demo:
        return []
    model = gateway.demo[0].models[0]
    lines = [line.format(listen=gateway.listen, admin=gateway.admin, model=model) for line in gateway.rules.examples]
    return ["", "Try it:", *(f"  {line}" for line in lines)] if lines else []
