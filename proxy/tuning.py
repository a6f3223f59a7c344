"""What the data path makes of the settings: rules of the fleet, timers, keys of a request. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxy.backends.assembly import worker_limits
from proxy.backends.settings import ModelSettings
from proxy.expr import STANDARD, Expression, ExpressionError, compile_expression
from proxy.fleet.rules import BreakerRules, FleetRules, ModelRules
from proxy.server.keys import ApiKeys
from proxy.server.traffic import Traffic
from proxy.settings import Settings
from proxy.translate.mapping import Read, Scope
from proxy.translate.plan import Side, Spread
from proxy.translate.routes import HIDDEN_HEADERS
from proxy.types import Json
from proxy.upstream import Timeouts

HashKey = Callable[[str, Scope], "str | None"]


class Tuning(NamedTuple):
    """fleet: how workers are chosen; timeouts: by the fleet's name of a model; traffic: without a budget of its own;
    retries: share and burst of that budget.
    """

    fleet: FleetRules
    timeouts: Callable[[str], Timeouts]
    traffic: Traffic
    retries: tuple[float, float]


def tune(settings: Settings) -> Tuning:
    """What follows from the settings. ValueError with one sentence for one that cannot be used."""
    balance = settings.balance
    _refuse_hidden(settings)
    fleet = _fleet_rules(settings)
    resuming = frozenset(name for name, model in settings.models.items() if model.resume)
    traffic = Traffic(
        pin_header=balance.pin_header,
        hash_key=_hash_key(settings),
        attempts=balance.retries.attempts,
        resumes=resuming.__contains__,
        queue_seconds=lambda model: fleet.of(model).queue_seconds,
        spreads={name: _spread(model) for name, model in settings.models.items() if model.split or model.mirror},
        keys=ApiKeys((key.name, key.sha256) for key in settings.api_keys),
    )
    return Tuning(fleet, _timeouts(settings), traffic, (balance.retries.share, balance.retries.burst))


def _refuse_hidden(settings: Settings) -> None:
    """ValueError for a header that decides about requests and holds a secret, which is for nobody to see."""
    balance = settings.balance
    chosen = {"balance.hash_header": balance.hash_header, "balance.pin_header": balance.pin_header}
    chosen |= {f"models.{name}.hash_header": model.hash_header for name, model in settings.models.items()}
    for place, header in chosen.items():
        if header is not None and header.lower() in HIDDEN_HEADERS:
            raise ValueError(f"{place}: {header} holds a secret and is not looked at; expected another header")


def _fleet_rules(settings: Settings) -> FleetRules:
    balance = settings.balance
    default = ModelRules(balance.policy, balance.worker_limit, balance.queue_length, balance.queue_seconds)
    breaker = balance.breaker
    return FleetRules(
        default=default,
        models={name: _model_rules(model, default) for name, model in settings.models.items()},
        worker_limits=worker_limits(settings),
        breaker=BreakerRules(breaker.failures, breaker.share, breaker.open_seconds, breaker.most_open_seconds),
    )


def _model_rules(model: ModelSettings, default: ModelRules) -> ModelRules:
    return ModelRules(
        policy=model.policy or default.policy,
        worker_limit=default.worker_limit if model.worker_limit is None else model.worker_limit,
        queue_length=default.queue_length if model.queue_length is None else model.queue_length,
        queue_seconds=default.queue_seconds if model.queue_seconds is None else model.queue_seconds,
        fallback=model.fallback,
    )


def _spread(model: ModelSettings) -> Spread:
    mirror = model.mirror
    sides = tuple(Side(side.weight, side.backend, _always(side.model)) for side in model.split or [])
    return Spread(sides, None if mirror is None else Side(mirror.share, mirror.backend, _always(mirror.model)))


def _always(name: str | None) -> Read | None:
    return None if name is None else lambda scope: name


def _timeouts(settings: Settings) -> Callable[[str], Timeouts]:
    common = settings.timeouts
    default = Timeouts(common.connect_seconds, common.first_seconds, common.idle_seconds, common.total_seconds)
    by_model = {
        name: Timeouts(
            model.connect_seconds or default.connect,
            model.first_seconds or default.first,
            model.idle_seconds or default.idle,
            model.total_seconds or default.total,
        )
        for name, model in settings.models.items()
    }
    return lambda model: by_model.get(model, default)


def _hash_key(settings: Settings) -> HashKey:
    """A header that is set beats a field; a model that sets either has nothing of the common settings."""
    balance = settings.balance
    default = balance.hash_header, _compiled(balance.hash_field)
    by_model = {
        name: (model.hash_header, _compiled(model.hash_field))
        for name, model in settings.models.items()
        if model.hash_header or model.hash_field
    }

    def key(model: str, scope: Scope) -> str | None:
        header, field = by_model.get(model, default)
        headers = scope.get("headers")
        if header and isinstance(headers, dict) and (found := headers.get(header.lower())):
            return str(found)
        return None if field is None else _text(_evaluated(field, scope.get("body")))

    return key


def _compiled(source: str | None) -> Expression | None:
    return compile_expression(source, STANDARD) if source else None


def _evaluated(field: Expression, body: Json) -> Json:
    try:
        return field(body)
    except ExpressionError:  # this request has no such field; any worker will do
        return None


def _text(value: Json) -> str | None:
    """Arrays and objects are no key: to write them down could cost more than the request."""
    return str(value) if isinstance(value, (str, int, float)) and value != "" else None
