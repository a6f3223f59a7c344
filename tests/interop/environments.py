"""Builds the environments of the real programs: ``python -m tests.interop.environments``.

Each product gets a virtual environment of its own, because their requirements contradict each other and the gateway's.
They live in the user's cache folder and are kept between runs. A folder's name holds a hash of the packages asked for
and of the Python that runs them, so a changed pin builds a new one and never repairs an old one. pip's own settings
(``PIP_INDEX_URL``, ``PIP_FIND_LINKS``, ``PIP_CONSTRAINT``...) are honoured: where they offer a CPU build of PyTorch,
the FastChat environment takes 1.2 GB instead of several.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

PYTHON_VERSIONS = ("3.11", "3.10")
"""The versions both stacks run on (FastChat 0.2.36 and its transformers 4.44.2 are older than Python 3.13)."""

MODEL_KINDS = ("plain", "certain", "spelled", "pieced")
TAIL_LINES = 25
PROGRESS_INTERVAL = 0.25


class EnvironmentBuildError(RuntimeError):
    """A step failed; ``str()`` is the end of its output and one sentence that names the step."""


class NoPythonError(RuntimeError):
    """There is no Python here that the real programs run on."""


@dataclass(frozen=True)
class Step:
    title: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """One product's environment: what is installed, and the statement that must run once it is."""

    name: str
    steps: tuple[Step, ...]
    check: str


FASTCHAT = Environment(
    name="fastchat",
    steps=(
        Step("PyTorch", ("torch==2.13.0", "numpy<2")),
        Step("FastChat", ("fschat==0.2.36", "transformers==4.44.2", "numpy<2", "sentencepiece", "accelerate")),
    ),
    check="import torch, uvicorn, fastchat.serve.model_worker, fastchat.serve.controller",
)

FASTCHAT_OPENAI = Environment(
    name="fastchat-openai",
    steps=(
        # With pydantic 2 the stream of openai_api_server 0.2.36 breaks off at its first chunk.
        Step("FastChat's OpenAI server", ("fschat==0.2.36", "pydantic<2", "fastapi<0.100", "httpx<0.28")),
    ),
    check="import uvicorn, fastchat.serve.openai_api_server",
)

DBGPT = Environment(
    name="dbgpt",
    steps=(
        Step(
            "DB-GPT",
            (
                "dbgpt[cli,framework,client,proxy-openai]==0.8.2",
                "dbgpt-ext==0.8.2",
                "dbgpt-serve==0.8.2",
                "dbgpt-client==0.8.2",
                "cloudpickle",
                "sqlparse==0.4.4",
                "uvicorn",
                "bs4",
            ),
        ),
    ),
    check="import dbgpt.model.cluster.apiserver.api, dbgpt.model.cluster.embedding.remote_embedding",
)

CLIENTS = Environment(
    name="clients",
    # DB-GPT's own client (dbgpt-client) needs all of DB-GPT, so it stays in DB-GPT's environment.
    steps=(Step("The OpenAI and Ollama clients", ("openai==3.57.0", "ollama==0.6.3")),),
    check="import openai, ollama",
)

ENVIRONMENTS = (FASTCHAT, FASTCHAT_OPENAI, DBGPT, CLIENTS)


def cache_folder() -> Path:
    """Where everything is kept: ``XDG_CACHE_HOME`` or ``~/.cache``, then a folder of this project."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "dbgpt-fastchat-gateway" / "interop"


def find_python() -> Path:
    """The Python for the real programs: the running one if it fits, else the first on ``PATH`` that truly starts."""
    if ".".join(map(str, sys.version_info[:2])) in PYTHON_VERSIONS:
        return Path(sys.executable)
    for version in PYTHON_VERSIONS:
        found = shutil.which(f"python{version}")
        # A version manager's shim is on PATH also where the version behind it is not chosen, and then fails.
        if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
            return Path(found)
    wanted = " or ".join(PYTHON_VERSIONS)
    raise NoPythonError(f"the real programs need Python {wanted}; this is {platform.python_version()}, none on PATH")


def folder_of(environment: Environment, python: Path) -> Path:
    """The folder an environment has with this Python; its name changes with anything that changes the content."""
    code = "import platform; print(platform.python_version(), platform.system(), platform.machine())"
    described = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    content = json.dumps([described, [step.packages for step in environment.steps]])
    return cache_folder() / f"{environment.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def python_of(environment: Environment) -> Path | None:
    """The interpreter of a finished environment, or None where it has not been built."""
    python = folder_of(environment, find_python()) / "bin" / "python"
    return python if python.exists() else None


def model_folder(environment_folder: Path, kind: str) -> Path:
    """Where a model of ``tiny_model.py`` lies; the name changes with that file and with the environment."""
    source = Path(__file__).with_name("tiny_model.py").read_bytes() + environment_folder.name.encode()
    return cache_folder() / f"tiny-{kind}-{hashlib.sha256(source).hexdigest()[:12]}"


@contextmanager
def locked(path: Path, console: Console) -> Iterator[None]:
    """Hold an exclusive lock on a file; the operating system releases it also when the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another process builds here; waiting for {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def run_step(title: str, command: Sequence[str], log: Path, console: Console) -> None:
    """Run one command with its output in ``log``, showing the seconds it takes; raises EnvironmentBuildError."""
    started = time.monotonic()
    if not console.is_terminal:
        console.print(f"{title} ...")
    with log.open("ab") as output, console.status(title) as status:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                time.sleep(PROGRESS_INTERVAL)
                status.update(f"{title}  [dim]{time.monotonic() - started:.0f} s  {last_line(log)}[/dim]")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    seconds = time.monotonic() - started
    if process.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        raise EnvironmentBuildError(
            f"{tail}\n\n{title} failed with exit code {process.returncode} after {seconds:.0f} s."
        )
    console.print(f"{title}: done in {seconds:.0f} s")


def last_line(log: Path, width: int = 60) -> str:
    """What the step printed last, short enough for a status line and safe to show."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        lines = file.read().decode(errors="replace").split("\n")
    shown = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return shown[:width].replace("[", "(").replace("]", ")")


def build(environment: Environment, python: Path, console: Console) -> Path:
    """Build an environment unless it is there; returns its folder. An interrupted build never looks complete.

    Scripts in ``bin`` hold the folder's temporary name after the rename: start programs with ``python -m``.
    """
    folder = folder_of(environment, python)
    if (folder / "bin" / "python").exists():
        return folder
    with locked(folder.with_suffix(".lock"), console):
        if (folder / "bin" / "python").exists():
            return folder
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        # A folder without a working interpreter: its base Python has been removed since.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        fill(environment, python, unfinished, folder.with_suffix(".log"), console)
        os.replace(unfinished, folder)
    return folder


def fill(environment: Environment, python: Path, folder: Path, log: Path, console: Console) -> None:
    """Run the steps of a build in ``folder``; raises EnvironmentBuildError and leaves the folder for the next run."""
    log.unlink(missing_ok=True)
    inner = str(folder / "bin" / "python")
    name = environment.name
    run_step(f"{name}: virtual environment", [str(python), "-m", "venv", str(folder)], log, console)
    pip = [inner, "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    for step in environment.steps:
        run_step(f"{name}: {step.title}", [*pip, *step.packages], log, console)
    run_step(f"{name}: first import", [inner, "-c", environment.check], log, console)


def promtool() -> Path | None:
    """Prometheus' checker: on PATH, else as ``unpack_promtool`` left it; None where there is neither."""
    found = shutil.which("promtool")
    unpacked = cache_folder() / "prometheus" / "usr" / "bin" / "promtool"
    return Path(found) if found else unpacked if unpacked.exists() else None


def unpack_promtool(console: Console) -> None:
    """Take promtool out of Debian's package without installing it, which would start a Prometheus server.

    Raises EnvironmentBuildError where the package cannot be had; only root can bring apt's lists up to date.
    """
    folder = cache_folder() / "prometheus"
    with locked(folder.with_suffix(".lock"), console):
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        download = "apt-get -q download prometheus"
        retry = f"apt-get -q update && {download}" if os.geteuid() == 0 else "false"
        script = f"cd {shlex.quote(str(unfinished))} && ({download} || ({retry})) && dpkg -x prometheus_*.deb ."
        try:
            log = folder.with_suffix(".log")
            log.unlink(missing_ok=True)
            run_step("promtool", ["sh", "-c", script], log, console)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def provide_promtool(console: Console) -> None:
    """Have promtool if this machine can; prints why not, because its one test is then skipped."""
    if promtool() is None and shutil.which("apt-get") and shutil.which("dpkg"):
        try:
            unpack_promtool(console)
        except EnvironmentBuildError as error:
            console.print(str(error))
    console.print(f"promtool: ready in {promtool()}" if promtool() else "promtool: not here; its test will be skipped")


def build_all(console: Console) -> None:
    """Build the environments and the models; prints one line for each that is there already."""
    python = find_python()
    for environment in ENVIRONMENTS:
        folder = build(environment, python, console)
        console.print(f"{environment.name}: ready in {folder}", soft_wrap=True)
    for kind in MODEL_KINDS:
        make_model(folder_of(FASTCHAT, python), kind, console)
    provide_promtool(console)


def make_model(fastchat: Path, kind: str, console: Console) -> None:
    """Make one of the tiny models with the FastChat environment's Python unless it is there."""
    model = model_folder(fastchat, kind)
    if not model.exists():
        with locked(model.with_suffix(".lock"), console):
            script = str(Path(__file__).with_name("tiny_model.py"))
            command = [str(fastchat / "bin" / "python"), script, str(model), kind]
            run_step(f"tiny model ({kind})", command, model.with_suffix(".log"), console)
    console.print(f"tiny model ({kind}): ready in {model}", soft_wrap=True)


def main() -> int:
    """Build everything; 0 when it is there, 1 with the reason on the error output."""
    started = time.monotonic()
    # Ended by a signal, a build also ends the pip it runs: two of them would write into one folder.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        build_all(Console(soft_wrap=True, highlight=False))
    except (EnvironmentBuildError, NoPythonError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the next run builds what is not complete.", file=sys.stderr)
        return 130
    print(f"The real programs are ready ({time.monotonic() - started:.0f} s).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
