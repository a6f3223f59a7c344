"""The command line. A mistake of the user is one clear sentence and exit code 2, never a traceback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

import click

from proxy import __version__, garbage
from proxy.address import Address, is_loopback
from proxy.backends.flags import FLAGS, PROGRAM, PURPOSE, flag_values
from proxy.tools.commands import RULE_COMMANDS
from proxy.tools.terminal import AS_JSON, say_json
from proxy.types import Json

if TYPE_CHECKING:
    from proxy.app import RunningGateway
    from proxy.documents import DocumentError
    from proxy.ruleset import RuleSet
    from proxy.settings import Settings
    from proxy.source import Source

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group(help=PURPOSE, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """Colours are for terminals, and not for everybody: https://no-color.org."""
    garbage.rest()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # or it looks through every installed package for some
    if os.environ.get("NO_COLOR"):
        context.color = False


for _command in RULE_COMMANDS:
    main.add_command(_command)


def _print_mistakes(error: DocumentError) -> None:
    for mistake in error.diagnostics:
        place = f"{mistake.file}:"
        if Path(mistake.file).is_file():  # a folder has no lines
            place += f"{mistake.line}:{mistake.column}:"
        click.echo(f"{click.style(place, bold=True)} {mistake.message}", err=True)
    count = len(error.diagnostics)
    click.secho(f"{count} mistake{'s' if count != 1 else ''}", fg="red", err=True)


def _backend_flags(command: Command) -> Command:
    for flag in reversed(FLAGS):
        text, metavar = f"{flag.help} Repeatable." if flag.addresses else flag.help, flag.metavar
        if flag.alone is None:
            command = click.option(flag.name, multiple=flag.addresses, metavar=metavar, help=text)(command)
        else:
            command = click.option(flag.name, is_flag=False, flag_value=flag.alone, metavar=f"[{metavar}]", help=text)(
                command
            )
    return command


@main.command()
@click.option("--config", "config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in YAML.")
@click.option(
    "--rules",
    "rules",
    multiple=True,
    metavar="PATH",
    help="Rule packs, or names of shipped ones. Repeatable. Default: all shipped.",
)
@click.option("--listen", metavar="HOST:PORT", help="Where clients call. Default 127.0.0.1:8090.")
@click.option("--admin", metavar="HOST:PORT", help="Metrics, health and state. Default 127.0.0.1:8091.")
@click.option("--workers", type=int, metavar="N", help="Processes that serve clients. Default: one for each CPU.")
@_backend_flags
@click.option("--demo", is_flag=True, help="Serve an embedded demonstration fleet.")
def serve(config: Path | None, demo: bool, **given: Any) -> None:  # noqa: FBT001  what click passes
    """Serve clients until interrupted. A flag beats the settings file."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload; the default is to end
    from proxy.source import Source

    try:
        source = Source(config, _flags(given, demo=demo))
    except ValueError as error:
        _fail(str(error))
    settings = _settings(source)
    processes = _processes(settings)
    # Late, so that a wrong flag is told at once.
    from proxy import http_library

    http_library.load()
    from proxy.app import RunningGateway, StartError, read_rules
    from proxy.documents import DocumentError
    from proxy.lifecycle import run
    from proxy.telemetry.log import configure_logging

    configure_logging(settings.log.level, settings.log.format)
    try:
        rules = read_rules(settings.rules)
        if processes > 1:
            _serve_with_processes(settings, processes, rules, source)
        run(lambda: _serve(lambda: RunningGateway(settings, rules, source)))
    except DocumentError as error:
        _print_mistakes(error)
        sys.exit(2)
    except StartError as error:
        _fail(str(error))


@main.command(short_help="Make a key for a client.")
@click.argument("name")
@AS_JSON
def key(name: str, *, as_json: bool) -> None:
    """Make a new key for the client NAME, and the line with which the settings let it in.

    The key is shown this once and kept nowhere: the settings have its digest.
    """
    import json

    from proxy.server.keys import key_digest, new_key

    made = new_key()
    entry: Json = {"name": name, "sha256": key_digest(made)}
    if as_json:
        say_json({"key": made, "api_keys": [entry]})
        return
    _say("key", made)
    # In quotes: a digest may look like a number.
    _say("api_keys", f'- {{name: {json.dumps(name, ensure_ascii=False)}, sha256: "{key_digest(made)}"}}')


def _flags(given: dict[str, Any], *, demo: bool) -> dict[str, object]:
    flags: dict[str, object] = dict(flag_values(given))
    for name in ("listen", "admin", "workers"):
        if given.get(name) is not None:
            flags[name] = given[name]
    if given.get("rules"):
        flags["rules"] = list(given["rules"])
    if demo:
        flags["demo"] = {}
    return flags


def _settings(source: Source) -> Settings:
    from proxy.documents import DocumentError

    try:
        return source.settings()
    except DocumentError as error:
        _print_mistakes(error)
        sys.exit(2)
    except ValueError as error:
        _fail(str(error))


def _processes(settings: Settings) -> int:
    from proxy.settings import serving_processes

    try:
        return serving_processes(settings)
    except ValueError as error:
        _fail(str(error))


def _fail(sentences: str) -> NoReturn:
    for sentence in sentences.splitlines():
        click.echo(f"{click.style('Error:', fg='red')} {sentence}", err=True)
    sys.exit(2)


def _serve_with_processes(settings: Settings, processes: int, rules: RuleSet, source: Source) -> NoReturn:
    from proxy.processes.start import Telling, serve_with_processes

    tell = Telling(_say_started, _say_stopping, _fail)
    sys.exit(serve_with_processes(settings, processes, rules, source, tell))


async def _serve(make: Callable[[], RunningGateway]) -> None:
    from proxy.lifecycle import run_until_signalled

    gateway = make()
    await run_until_signalled(
        gateway.serve,
        started=lambda: _started(gateway),
        stopping=_say_stopping,
    )


def _started(gateway: RunningGateway) -> None:
    garbage.work()
    _say_started(gateway)


def _say_started(gateway: RunningGateway) -> None:
    rules = gateway.rules
    _say("rules", f"{len(rules.table.routes)} routes in {', '.join(rules.packs)}; {len(rules.tests)} tests passed")
    _say("clients", f"http://{gateway.listen}")
    _say("operators", f"http://{gateway.admin}/metrics  /readyz  /healthz  /status")
    for line in _about_keys(gateway):
        _say("keys", line)
    if gateway.accepts is not None:
        _say("accepts", gateway.backends.how_to_join(gateway.accepts))
    for view in gateway.fleet.workers():
        models = ", ".join(f"{facts.model} ({'+'.join(sorted(facts.kinds))})" for facts in view.models)
        _say("worker", f"{view.address}  {models if view.up else click.style(f'down: {view.reason}', fg='yellow')}")
    if not gateway.fleet.workers():
        _say("worker", click.style("none yet; the gateway goes on looking", fg="yellow"))
    clusters = [url for url, _ in gateway.backends.registrations()]
    for url in clusters:
        _say("registers", f"with {url} as {gateway.advertised}; goes on trying while it is away")
    if not clusters:
        _say("registers", "nowhere")
    if gateway.serving_processes > 1:
        _say("processes", f"{gateway.serving_processes} for clients, one has the fleet; signals go to {os.getppid()}")
    for warning in _cannot_call_back(gateway.advertised, clusters):
        _say("warning", click.style(warning, fg="yellow"))
    for line in _try_it(gateway):
        click.echo(line)
    sys.stdout.flush()


def _about_keys(gateway: RunningGateway) -> list[str]:
    """Which packs the keys guard, and which are open all the same; nothing where there are no keys."""
    count = len(gateway.settings.api_keys)
    if not count:
        return []
    routes = gateway.rules.table.routes
    guarded = sorted({route.pack for route in routes if route.needs_key})
    open_to_all = sorted({route.pack for route in routes} - set(guarded))
    if not guarded:
        return [click.style(f"{count} in api_keys, but no rule pack wants one (pack.yaml: keys)", fg="yellow")]
    also = f"; without a key: {', '.join(open_to_all)}" if open_to_all else ""
    return [f"{count} for {', '.join(guarded)}{also}"]


def _say_stopping() -> None:
    with contextlib.suppress(OSError):  # the terminal may be what was closed
        click.echo("stopping: withdrawing, letting streams finish; a second signal ends it at once")


def _cannot_call_back(advertised: Address, clusters: list[str]) -> list[str]:
    """A sentence for each cluster on another machine when the gateway registers an address of this one only."""
    if not is_loopback(advertised.host):
        return []
    return [
        f"{url} is on another machine and cannot call {advertised}; give --listen and --advertise"
        for url in clusters
        if not is_loopback(urlsplit(url).hostname or "")
    ]


def _say(label: str, text: str) -> None:
    click.echo(f"{click.style(f'{label:<11}', bold=True)} {text}")


def _try_it(gateway: RunningGateway) -> list[str]:
    """Lines to copy for whoever runs the demonstration; each rule pack says how it is tried."""
    if not gateway.demo:
        return []
    model = gateway.demo[0].models[0]
    lines = [line.format(listen=gateway.listen, admin=gateway.admin, model=model) for line in gateway.rules.examples]
    keys = ", with -H 'Authorization: Bearer KEY' where a key is wanted" if gateway.settings.api_keys else ""
    return ["", f"Try it{keys}:", *(f"  {line}" for line in lines)] if lines else []
