"""Model names as DB-GPT can carry them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
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


def assign_public_names(models: Iterable[str], aliases: Mapping[str, str] | None = None) -> PublicNames:
    """A public name for each model and each of its aliases (alias to model), never one for two models.

    Of two models with the same public name the one that is really called so gets it, else the first in order of names;
    an alias never takes the name of a model. The answer depends on the set of names only, not on who came first.
    An alias of none of these models is left out.
    """
    names: dict[str, str] = {}
    rejected: dict[str, str] = {}
    own = {model: model for model in models}
    for group in (own, {alias: model for alias, model in (aliases or {}).items() if model in own}):
        for called in sorted(group, key=lambda called: (public_name(called) != called, called)):
            name = public_name(called)
            if not name:
                rejected[called] = "nothing of its name can be registered"
            elif names.setdefault(name, group[called]) != group[called]:
                rejected[called] = f"it would be registered as {name!r}, as the model {names[name]!r} is"
    return PublicNames(names, rejected)
