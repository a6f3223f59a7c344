"""Settings of this package that only a restart can change."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel

from proxy.backends.settings import BackendSettings

Some = TypeVar("Some", bound=BackendSettings)


def needs_restart(name: str, now: object, then: object) -> str:
    """The sentence for a setting that was changed in vain."""
    return f"{name} needs a restart: it stays {_shown(now)}, the settings now say {_shown(then)}"


def keep_fixed_parts(running: Some, wanted: Some) -> tuple[Some, tuple[str, ...]]:
    """`wanted` with the listening address for workers and the advertised addresses as they are in `running`.

    A role as a controller that was not there at the start is not taken up, and one that was is not laid down.
    """
    now, then = running.fastchat.accept, wanted.fastchat.accept
    fixed: list[tuple[str, object, object]] = []
    accept = now
    if now is not None and then is not None:
        accept = then.model_copy(update={"listen": now.listen, "state_file": now.state_file})
        fixed += [
            ("fastchat.accept.listen", now.listen, then.listen),
            ("fastchat.accept.state_file", now.state_file, then.state_file),
        ]
    else:
        fixed.append(("fastchat.accept.listen", now and now.listen, then and then.listen))
    advertise, base = running.dbgpt.advertise, running.fastchat.advertise
    fixed.append(("dbgpt.advertise", advertise, wanted.dbgpt.advertise))
    fixed.append(("fastchat.advertise", base, wanted.fastchat.advertise))
    kept = wanted.model_copy(
        update={
            "fastchat": wanted.fastchat.model_copy(update={"accept": accept, "advertise": base}),
            "dbgpt": wanted.dbgpt.model_copy(update={"advertise": advertise}),
        }
    )
    return kept, tuple(needs_restart(*each) for each in fixed if each[1] != each[2])


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return str(value.model_dump()) if isinstance(value, BaseModel) else str(value)
