"""The test side of clients in environments of their own: Python clients behind a pipe, and DB-GPT's command line."""

from __future__ import annotations

import json
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from proxy.types import Json, JsonObject
from tests.interop.programs import ProgramError, Pythons, dbgpt_command, program_environment

HERE = Path(__file__).parent
CALL_SECONDS = 60.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class ClientError(Exception):
    """What the client raised, as ``Type: message``."""


class PipedClients:
    """A product's Python clients in a process of their own: ``script`` of this folder, run by that product's ``python``
    with the address that they call; ``call`` sends one request and waits for its answer.
    """

    def __init__(self, python: Path, script: str, folder: Path, address: str) -> None:
        self.log = folder / f"{script}.log"
        with self.log.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(python), str(HERE / script), address],
                cwd=folder,
                env=program_environment(folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def call(self, name: str, **arguments: Json) -> Json:
        """The value of a call of that name; raises ClientError with what the client raised."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        answer: JsonObject = json.loads(self.line(name))
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["value"]

    def line(self, name: str) -> bytes:
        """The next line of answers; raises ProgramError with the log's end when none comes in time."""
        pipe = self.process.stdout
        assert pipe is not None
        end = time.monotonic() + CALL_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            if selector.select(end - time.monotonic()) and (line := pipe.readline()):
                return line
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])
        raise ProgramError(f"the client gave no answer to {name!r}\n--- {self.log} ---\n{tail}")

    def close(self) -> None:
        """End the process by ending its input."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class DbgptClients(PipedClients):
    """DB-GPT's, talking to a controller."""

    def __init__(self, pythons: Pythons, folder: Path, controller: str) -> None:
        super().__init__(pythons.dbgpt, "dbgpt_clients.py", folder, controller)


def run_dbgpt(pythons: Pythons, folder: Path, controller: str, arguments: Sequence[str], typed: str = "") -> str:
    """What a ``dbgpt`` command prints, without terminal escapes; an assertion error shows all of it when it fails."""
    done = subprocess.run(
        [*dbgpt_command(pythons), *arguments],
        cwd=folder,
        env=program_environment(folder) | {"CONTROLLER_ADDRESS": controller},
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=CALL_SECONDS,
        check=False,
    )
    output = ESCAPES.sub("", done.stdout)
    assert done.returncode == 0, output
    return output


def rendered(pythons: Pythons, template: str, dialogues: Sequence[Json]) -> list[JsonObject]:
    """Each dialogue as FastChat renders it for a template: ``{"prompt", "stop", "stop_token_ids"}``."""
    wanted: Json = [{"template": template, "messages": dialogue} for dialogue in dialogues]
    done = subprocess.run(
        [str(pythons.fastchat), str(HERE / "fastchat_prompts.py")],
        input=json.dumps(wanted),
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[JsonObject] = json.loads(done.stdout)
    return answers
