"""Model names as DB-GPT can carry them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final, NamedTuple

# DB-GPT's database registry keeps 255 characters of a key; "@text2vec" is part of it.
NAME_MAX: Final = 200


def public_name(model: str) -> str:
    """The name under which a model is registered; "" when nothing usable is left.

    A registry key is split at its only "@": a second one breaks every call of the whole cluster (0.5.10 to 0.8.2), so
    it becomes "-". Control characters, invisible ones and unpaired surrogates go, and so do spaces at the ends, which
    the registry strips in some calls and keeps in others.
    """
    kept = (char for char in model if unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    return "".join(kept).replace("@", "-").strip()[:NAME_MAX].strip()


class PublicNames(NamedTuple):
    """models: public name to model; rejected: model to the reason why it stays out."""

    models: dict[str, str]
    rejected: dict[str, str]


def assign_public_names(models: Iterable[str]) -> PublicNames:
    """A public name for each model, never one for two.

    Of two models with the same public name the one that is really called so gets it, else the first in order of names;
    the answer depends on the set of models only, not on who came first.
    """
    names: dict[str, str] = {}
    rejected: dict[str, str] = {}
    for model in sorted(set(models), key=lambda model: (public_name(model) != model, model)):
        name = public_name(model)
        if not name:
            rejected[model] = "nothing of its name can be registered"
        elif name in names:
            rejected[model] = f"it would be registered as {name!r}, as the model {names[name]!r} is"
        else:
            names[name] = model
    return PublicNames(names, rejected)
