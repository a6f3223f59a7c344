"""The environments of the peers that are measured beside the gateway: `python -m benchmarks.peers` builds them.

They are kept in the user's cache folder, beside those of the interoperation tests, one of which is a peer too, and
named by what they hold: a pin that changes makes a new one.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from rich.console import Console

from tests.interop.environments import (
    FASTCHAT_OPENAI,
    Environment,
    EnvironmentBuildError,
    NoPythonError,
    Step,
    build,
    find_python,
    python_of,
)

LITELLM = Environment(
    name="bench-litellm",
    steps=(Step("LiteLLM's proxy", ("litellm[proxy]==1.102.4",)),),
    check="import litellm.proxy.proxy_cli, litellm.proxy.proxy_server",
)
PEERS = (FASTCHAT_OPENAI, LITELLM)


def python_for(environment: Environment) -> Path | None:
    """The interpreter of a peer's environment; None where it has not been built."""
    try:
        return python_of(environment)
    except NoPythonError:
        return None


def build_peer(environment: Environment, python: Path, console: Console) -> str | None:
    """Build a peer unless it is there; returns why it cannot be had, None where it can."""
    try:
        folder = build(environment, python, console)
    except (EnvironmentBuildError, OSError) as error:
        return f"{environment.name}: {error}"
    console.print(f"{environment.name}: ready in {folder}", soft_wrap=True)
    return None


def main() -> int:
    """0 when all peers are there, 1 with the reason for each that is not."""
    begin = time.monotonic()
    # Ended by a signal, a build also ends the pip it runs: two of them would write into one folder.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        python, console = find_python(), Console(soft_wrap=True, highlight=False)
        failed = [why for environment in PEERS if (why := build_peer(environment, python, console)) is not None]
    except NoPythonError as error:
        failed = [str(error)]
    except KeyboardInterrupt:
        print("Interrupted; the next run builds what is not complete.", file=sys.stderr)
        return 130
    for reason in failed:
        print(reason, file=sys.stderr)
    print(f"{len(PEERS) - len(failed)} of {len(PEERS)} peers are ready ({time.monotonic() - begin:.0f} s).")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
