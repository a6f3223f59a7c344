"""Ollama's own Python client behind a pipe: runs inside the clients' environment, one JSON request and answer a line.

``python ollama_clients.py URL``; a request is ``{"call": NAME, ...}`` with the arguments of the client's method of that
name, its answer ``{"value": ...}`` or ``{"error": "Type: message", "status": ...}``. A stream is the list of its parts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import ollama


def plain(value: Any) -> Any:
    """The client's own objects as JSON; what they cannot read has raised before."""
    if isinstance(value, Iterator):
        return [plain(part) for part in value]
    return value.model_dump(mode="json", by_alias=True, exclude_none=True) if hasattr(value, "model_dump") else value


def answer(client: ollama.Client, line: str) -> dict[str, Any]:
    """The answer to one line; whatever the client raises is the answer's error."""
    wanted = json.loads(line)
    try:
        return {"value": plain(getattr(client, wanted.pop("call"))(**wanted))}
    except Exception as error:  # the tests look at the error a user of this client would get
        return {"error": f"{type(error).__name__}: {error}", "status": getattr(error, "status_code", None)}


def main(url: str) -> None:
    """Answer line by line until the input ends."""
    client = ollama.Client(url)
    for line in sys.stdin:
        print(json.dumps(answer(client, line)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
