"""Starts and stops the real programs on free loopback ports, each in a process group and with a log of its own.

Waiting is bounded everywhere, only groups started here are ended, and each failure carries the end of the log of the
program it concerns.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from proxy.types import Json
from tests.interop.wire import HttpError, get_json

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
"""A worker imports PyTorch first: 8 s on two idle cores, several times that on a busy or cold machine."""
STOP_SECONDS = 10.0
TAIL_LINES = 30


class ProgramError(AssertionError):
    """A program did not do what a test waited for; ``str()`` ends with its log's last lines."""


@dataclass(frozen=True)
class Pythons:
    """The interpreters of the finished environments, and the models' folders by kind."""

    fastchat: Path
    fastchat_openai: Path
    dbgpt: Path
    clients: Path
    """The OpenAI and Ollama clients."""
    models: Mapping[str, Path]


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def program_environment(folder: Path) -> dict[str, str]:
    """The surroundings of each program: no proxies, no network, no GPU, one thread, its files in ``folder``.

    A program must not notice that it is tested: DB-GPT 0.8.2 prints a line and seeds its random numbers where ``CI``
    is set.
    """
    hidden = ("CI", "PYTHONPATH", "PYTEST_CURRENT_TEST", "PYTEST_VERSION")
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    kept = {key: value for key, value in kept.items() if not key.lower().endswith("_proxy")}
    return kept | {
        "NO_PROXY": "*",
        "no_proxy": "*",
        "HOME": str(folder),
        "LOGDIR": str(folder),
        "DBGPT_LOG_DIR": str(folder),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "LANGUAGE": "en",
        "COLUMNS": "5000",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }


class Program:
    """A started process with its log; a context of its own process group, so its children end with it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        cwd: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.command = list(command)
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=cwd or folder,
                env=program_environment(folder) | dict(more or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def logged(self) -> str:
        """Everything it has printed so far."""
        return self.log.read_text(errors="replace")

    def tail(self) -> str:
        """The last lines of the log, under the program's name."""
        lines = self.logged().splitlines()[-TAIL_LINES:]
        return f"\n--- the last lines of {self.name} ({self.log}) ---\n" + "\n".join(lines)

    def wait_ready(self, probe: Callable[[], bool], seconds: float = START_SECONDS) -> None:
        """Wait until ``probe`` is true; raises ProgramError when the process ends or the time is over."""

        def ready() -> bool:
            code = self.process.poll()
            if code is not None:
                raise ProgramError(
                    f"{self.name} ended with code {code} before it was ready: {shlex.join(self.command)}"
                )
            return probe()

        try:
            wait_until(f"{self.name} is ready", ready, seconds)
        except ProgramError as error:
            self.kill()
            raise ProgramError(f"{error}{self.tail()}") from None

    def reload(self) -> None:
        """Ask the process to read its files again (SIGHUP)."""
        self.process.send_signal(signal.SIGHUP)

    def ask_to_stop(self) -> None:
        """SIGTERM. A second one would end the gateway at once."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask the process to end (SIGTERM) and wait; returns its exit code. Raises ProgramError if it stays."""
        if self.running:
            self.ask_to_stop()
        return self.wait_end()

    def wait_end(self) -> int:
        """Wait for a process that was asked to end; returns its exit code. Raises ProgramError if it stays."""
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ProgramError(f"{self.name} did not end {STOP_SECONDS:.0f} s after SIGTERM{self.tail()}") from None

    def kill(self) -> None:
        """End the whole group at once, as a crash would."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def wait_until(what: str, probe: Callable[[], bool], seconds: float, interval: float = 0.1) -> float:
    """Ask ``probe`` until it is true; returns the seconds it took, raises ProgramError when they are over."""
    started = time.monotonic()
    while True:
        if probe():
            return time.monotonic() - started
        if time.monotonic() - started > seconds:
            raise ProgramError(f"waited {seconds:.0f} s in vain until {what}")
        time.sleep(interval)


def answers(request: Callable[[], T], accept: Callable[[T], bool] = lambda _: True) -> bool:
    """Whether a request gets a good answer now; a refused connection or an error status is a no."""
    try:
        return accept(request())
    except (HttpError, OSError):
        return False


def dbgpt_controller(pythons: Pythons, folder: Path, port: int) -> Program:
    """DB-GPT's controller with its own defaults for heartbeats, answering."""
    toml = f'[service.model.controller]\nhost = "127.0.0.1"\nport = {port}\n'
    program = dbgpt_program(pythons, folder, "controller", toml)
    program.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{port}/api/health")))
    return program


def dbgpt_api_server(pythons: Pythons, folder: Path, port: int, controller: str) -> Program:
    """DB-GPT's API server, answering; its controller must be there."""
    toml = f'[service.model.api]\nhost = "127.0.0.1"\nport = {port}\ncontroller_addr = "{controller}"\n'
    program = dbgpt_program(pythons, folder, "apiserver", toml)
    program.wait_ready(lambda: answers(lambda: get_json(f"http://127.0.0.1:{port}/api/v1/models")))
    return program


def dbgpt_worker(pythons: Pythons, folder: Path, port: int, controller: str, model: str, server: str) -> Program:
    """A worker of DB-GPT being started; its chat model is that of the same name of an OpenAI-compatible server."""
    toml = (
        f'[service.model.worker]\nhost = "127.0.0.1"\nport = {port}\ncontroller_addr = "{controller}"\n'
        f'[[models.llms]]\nname = "{model}"\nprovider = "proxy/openai"\napi_base = "{server}"\napi_key = "none"\n'
    )
    return dbgpt_program(pythons, folder, "worker", toml)


def dbgpt_embedder(pythons: Pythons, folder: Path, port: int, controller: str, model: str, server: str) -> Program:
    """As `dbgpt_worker`, with an embedding model. A process has one model."""
    toml = (
        f'[service.model.worker]\nhost = "127.0.0.1"\nport = {port}\ncontroller_addr = "{controller}"\n'
        f'[[models.embeddings]]\nname = "{model}"\nprovider = "proxy/openai"\n'
        f'api_url = "{server}/embeddings"\napi_key = "none"\n'
    )
    return dbgpt_program(pythons, folder, "worker", toml)


def dbgpt_program(pythons: Pythons, folder: Path, role: str, toml: str) -> Program:
    """``dbgpt start ROLE`` with a configuration file, as its operators type it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{role}-{time.monotonic_ns()}.toml"
    file.write_text(toml)
    return Program(f"dbgpt-{role}", [*dbgpt_command(pythons), "start", role, "-c", str(file)], folder)


def dbgpt_command(pythons: Pythons) -> list[str]:
    """The ``dbgpt`` command line (the environment was renamed when complete, so its scripts' first lines are wrong)."""
    return [str(pythons.dbgpt), "-c", "from dbgpt.cli.cli_scripts import main; main()"]


@dataclass(frozen=True)
class GatewayPlan:
    """How the gateway is started, and the addresses it then has."""

    port: int
    admin_port: int
    dbgpt_controller: str
    fastchat: tuple[str, ...]
    """``--fastchat-controller URL``, ``--fastchat-worker URL`` or ``--accept-workers HOST:PORT``."""
    settings: str = ""
    """More lines of the settings file."""
    empty: bool = False
    """It has no worker when it is started, so it is not waited for until it has."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api/worker"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"


def write_settings(folder: Path, plan: GatewayPlan) -> Path:
    """The settings file of this plan."""
    settings = folder / f"gateway-{plan.port}.yaml"
    # The models here rarely end by themselves, and their words come back as more tokens than they were.
    text = f"defaults: {{max_new_tokens: 256}}\n{plan.settings}"
    # In one step: the gateway may look at any moment.
    unfinished = settings.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(settings)
    return settings


def gateway(folder: Path, plan: GatewayPlan) -> Program:
    """The gateway, ready. ``GATEWAY_COMMAND`` names another one than this checkout's, such as an installed wheel's."""
    command = shlex.split(os.environ.get("GATEWAY_COMMAND", "")) or [sys.executable, "-m", "proxy"]
    command += ["serve", "--listen", f"127.0.0.1:{plan.port}", "--admin", f"127.0.0.1:{plan.admin_port}"]
    command += ["--config", str(write_settings(folder, plan))]
    command += ["--dbgpt-controller", plan.dbgpt_controller, "--advertise", f"127.0.0.1:{plan.port}", *plan.fastchat]
    program = Program("gateway", command, folder, cwd=REPOSITORY)
    page = "healthz" if plan.empty else "readyz"
    program.wait_ready(lambda: answers(lambda: get_json(f"{plan.admin}/{page}")))
    return program


def registered(controller: str, *, healthy_only: bool = True) -> set[tuple[str, int]]:
    """What a DB-GPT controller has: (``model@type``, port) of each instance."""
    listed = get_json(f"{controller}/api/controller/models?healthy_only={str(healthy_only).lower()}")
    found = set()
    for each in as_list(listed):
        assert isinstance(each, dict), each
        name, port = each["model_name"], each["port"]
        assert isinstance(name, str), each
        assert isinstance(port, int), each
        found.add((name, port))
    return found


def wait_registered(controller: str, names: set[str], port: int, seconds: float, *blamed: Program) -> float:
    """Wait until exactly these names are healthy at ``port``; a failure shows what is there, and ``blamed``'s logs."""
    last: set[str] = set()

    def there() -> bool:
        nonlocal last
        try:
            last = {name for name, at in registered(controller) if at == port}
        except (HttpError, OSError):
            return False
        return last == names

    try:
        return wait_until(f"{controller} has {sorted(names)} at port {port}", there, seconds)
    except ProgramError as error:
        raise ProgramError(f"{error}; it has {sorted(last)}{''.join(each.tail() for each in blamed)}") from None


def as_list(value: Json) -> list[Json]:
    """The value as a list; an assertion error shows anything else."""
    assert isinstance(value, list), value
    return value
