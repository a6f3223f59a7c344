"""The HTTP side of a FastChat controller: what workers and FastChat's clients (0.2.24 to 0.2.36) ask of one."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import orjson

from proxy.address import Address
from proxy.backends.control import EventHook, no_events
from proxy.backends.fastchat.controller import bodies
from proxy.backends.fastchat.controller.bodies import Bounds, Refusal
from proxy.backends.fastchat.controller.guard import Peer, Rejection, same_token
from proxy.backends.fastchat.controller.quiet import Quiet
from proxy.backends.fastchat.controller.registry import WorkerRegistry
from proxy.backends.fastchat.look import BACKEND
from proxy.backends.workers.network import is_own_address
from proxy.backends.workers.places import read_ip
from proxy.fleet.facts import KINDS, Kind
from proxy.fleet.memory import Key
from proxy.fleet.table import Fleet
from proxy.http import Handler, Request, Response, Streamed
from proxy.types import Json

log = logging.getLogger(__name__)

Withheld = Callable[[str, str], bool]
InService = Callable[[str, Kind], bool]

# What a reason of the guard is as an HTTP status; any other is 403, the address is not one that may be used.
_STATUS = {"malformed": 400, "credentials": 400, "unresolved": 400}
# What may be otherwise in a moment. A worker that registers anew while it runs ends its heartbeats without a word after
# any status but 200 (FastChat 0.2.36); after a 200 it asks with its next heartbeat, and registers again.
_PASSING = frozenset({"full", "unanswered"})


@dataclass(frozen=True)
class ListenerRules:
    """token: what every call but /test_connection must bring; hand_out: what /get_worker_address gives.

    own_url: under which address others reach this listener; None: the one at which the caller reached it. stopping: no
    worker is told to register any more.
    """

    token: str | None = None
    hand_out: Literal["worker", "gateway"] = "worker"
    own_url: str | None = None
    stopping: bool = False


def nothing_withheld(method: str, path: str) -> bool:
    """Nothing is withheld."""
    return False


def always_in_service(model: str, kind: Kind) -> bool:
    """No model is out of service."""
    return True


class _Call(NamedTuple):
    method: str
    answer: Callable[[Request], Awaitable[Json]]


def controller_app(
    registry: WorkerRegistry,
    fleet: Fleet,
    *,
    rules: Callable[[], ListenerRules],
    public_names: Callable[[], Mapping[str, str]],
    fall_through: Handler,
    withheld: Withheld = nothing_withheld,
    in_service: InService = always_in_service,
    bounds: Bounds | None = None,
    clock: Callable[[], float] = time.monotonic,
    on_event: EventHook = no_events,
) -> Handler:
    """What answers at the address with which workers register.

    Paths that are none of a controller go to `fall_through`, without the token in front of them; `withheld` says of a
    method and path that they do not. public_names: name for clients to the fleet's own. in_service: whether the gateway
    passes requests for a model on. on_event: "rejected_registration" (reason).
    """
    desk = _Desk(registry, fleet, rules, public_names, in_service, bounds or Bounds(), clock, on_event)
    calls = desk.calls()

    async def pass_on(request: Request, path: str) -> Response | Streamed:
        if not path.startswith("//") and not withheld(request.method, path):
            request.path = path
            return await fall_through(request)
        raise Refusal(404, "not_found", f"{path[:80]} is not served at the address where workers register")

    async def serve(request: Request) -> Response | Streamed:
        path, tokens = _path_and_tokens(request, rules().token, calls)
        call = calls.get(path)
        if call is not None and request.method != call.method:
            text = f"{path} takes {call.method}, not {request.method}"
            return _json(405, {"detail": text}, {"Allow": call.method})
        try:
            if path != "/test_connection" and not same_token(rules().token, tokens):
                raise Refusal(401, "token", "the token is missing or wrong")
            return await pass_on(request, path) if call is None else _json(200, await call.answer(request))
        except Refusal as refusal:
            desk.refused(request, path, refusal)
            return _json(refusal.status, {"detail": str(refusal)})

    return serve


class _Desk:
    """Answers the control calls. Each raises Refusal for what it cannot answer."""

    def __init__(
        self,
        registry: WorkerRegistry,
        fleet: Fleet,
        rules: Callable[[], ListenerRules],
        public_names: Callable[[], Mapping[str, str]],
        in_service: InService,
        bounds: Bounds,
        clock: Callable[[], float],
        on_event: EventHook,
    ) -> None:
        self._registry, self._fleet, self._rules = registry, fleet, rules
        self._public_names, self._in_service, self._bounds = public_names, in_service, bounds
        self._clock, self._on_event = clock, on_event
        self._quiet = Quiet(clock)

    def calls(self) -> dict[str, _Call]:
        """The paths of a controller."""
        posts = {
            "/register_worker": self.register_worker,
            "/receive_heart_beat": self.receive_heart_beat,
            "/refresh_all_workers": self.refresh_all_workers,
            "/list_models": self.list_models,
            "/list_language_models": self.list_language_models,
            "/list_multimodal_models": self.list_multimodal_models,
            "/get_worker_address": self.get_worker_address,
            "/worker_get_status": self.worker_get_status,
        }
        calls = {path: _Call("POST", answer) for path, answer in posts.items()}
        return {**calls, "/test_connection": _Call("GET", self.answer_test)}

    async def register_worker(self, request: Request) -> Json:
        posted = bodies.registration(await bodies.read_object(request, self._bounds), self._bounds)
        judged = await self._registry.register(
            posted.worker_name, _peer(request), heartbeats=posted.heartbeats, multimodal=posted.multimodal
        )
        if isinstance(judged, Rejection):
            raise _refusal(judged, passing=200)
        return None

    async def receive_heart_beat(self, request: Request) -> Json:
        """Only a worker that would be taken in is told to register: any other asks again in 5 s after an answer without
        `exist`, and must not end its heartbeats."""
        beat = bodies.heartbeat(await bodies.read_object(request, self._bounds))
        peer = _peer(request)
        if self._registry.heartbeat(beat.worker_name, peer.host, beat.queue_length):
            return {"exist": True}
        if self._rules().stopping:
            raise Refusal(503, "stopping", "the gateway is stopping; ask again in a moment")
        refused = await self._registry.refusal(beat.worker_name, peer)
        if refused is not None:
            raise _refusal(refused, passing=503)
        return {"exist": False}

    async def refresh_all_workers(self, _: Request) -> Json:
        # FastChat's controller empties its table and asks every worker; here they are asked all the time.
        return None

    async def list_models(self, _: Request) -> Json:
        return {"models": [*self._listed(self._answerable())]}

    async def list_language_models(self, _: Request) -> Json:
        image, text = self._served(multimodal=True), self._served(multimodal=False)
        return {"models": [*self._listed(self._answerable() - (image - text))]}

    async def list_multimodal_models(self, _: Request) -> Json:
        return {"models": [*self._listed(self._answerable() & self._served(multimodal=True))]}

    async def get_worker_address(self, request: Request) -> Json:
        body = await bodies.read_object(request, self._bounds)
        if "model" not in body:
            raise Refusal(400, "malformed", "model is missing")
        asked = bodies.model_name(body["model"], "model", self._bounds)
        model = self._public_names().get(asked, asked)
        answerable = self._fleet.answerable()
        elsewhere = self._elsewhere()
        if not self._is_offered(asked, model, answerable, elsewhere):
            return {"address": ""}
        if self._is_direct(asked, model, elsewhere):
            address = self._fleet.least_loaded(model, None, self._clock())
            if address is not None or not self._passes_on(model, answerable):
                return {"address": address or ""}
        return {"address": self._own_address(request)}

    async def worker_get_status(self, _: Request) -> Json:
        up = [view for view in self._fleet.workers() if view.up and not view.drained]
        return {
            "model_names": [*self._listed(self._answerable())],
            "speed": _short(sum(view.speed for view in up)),
            "queue_length": sum(max(view.queue_length, view.in_flight) for view in up),
        }

    async def answer_test(self, _: Request) -> Json:
        return "success"

    def refused(self, request: Request, path: str, refusal: Refusal) -> None:
        """Count a refused registration; tell of each refusal, of the same kind from the same peer once a minute."""
        if path == "/register_worker":
            self._on_event("rejected_registration", reason=refusal.reason)
        host = _peer_host(request)
        if self._quiet.may_say(host, refusal.reason):
            log.warning("%s from %s was refused: %s", path, host or "an unknown peer", refusal)

    def _answerable(self) -> set[str]:
        return {model for model, _ in self._fleet.answerable()}

    def _served(self, *, multimodal: bool) -> set[str]:
        return {
            facts.model
            for view in self._fleet.workers()
            if view.up and self._registry.is_multimodal(view.address) is multimodal
            for facts in view.models
        }

    def _listed(self, models: set[str]) -> Iterator[str]:
        names, answerable, elsewhere = self._public_names().items(), self._fleet.answerable(), self._elsewhere()
        yield from sorted(
            name for name, model in names if model in models and self._is_offered(name, model, answerable, elsewhere)
        )

    def _is_offered(self, name: str, model: str, answerable: frozenset[Key], elsewhere: set[str]) -> bool:
        """Whether a client is given an address where requests for this name are served.

        What the gateway took out of service it passes no requests on for. That does not concern a client that asks for
        the worker itself.
        """
        direct = self._is_direct(name, model, elsewhere)
        return any((model, kind) in answerable for kind in KINDS) if direct else self._passes_on(model, answerable)

    def _is_direct(self, name: str, model: str, elsewhere: set[str]) -> bool:
        """Whether a client goes to the workers of this model by itself.

        A worker with several models wants its own name of a model, or loses a slot, and a worker of another backend
        understands no client of this one; only the gateway translates.
        """
        return self._rules().hand_out == "worker" and name == model and model not in elsewhere

    def _elsewhere(self) -> set[str]:
        """The models that a worker of another backend serves."""
        serving = (view for view in self._fleet.workers() if view.up)
        facts = (facts for view in serving for facts in view.models)
        return {each.model for each in facts if each.document.get("backend") != BACKEND}

    def _passes_on(self, model: str, answerable: frozenset[Key]) -> bool:
        return any((model, kind) in answerable and self._in_service(model, kind) for kind in KINDS)

    def _own_address(self, request: Request) -> str:
        """Where the gateway serves the caller, who knows the token."""
        rules = self._rules()
        base = rules.own_url or _reached_at(request)
        return f"{base}/{rules.token}" if base and rules.token is not None else base


def _refusal(judged: Rejection, *, passing: int) -> Refusal:
    status = passing if judged.reason in _PASSING else _STATUS.get(judged.reason, 403)
    return Refusal(status, judged.reason, judged.text)


def _path_and_tokens(request: Request, token: str | None, calls: Mapping[str, _Call]) -> tuple[str, list[str]]:
    """The path without a token in front of it, and every token that the request brings."""
    path = request.path
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    tokens = [credentials.strip()] if scheme.lower() == "bearer" else []
    tokens += [request.headers[name] for name in ("x-gateway-token",) if name in request.headers]
    if token is not None:
        first, slash, rest = path[1:].partition("/")
        if slash and (same_token(token, [first]) or slash + rest in calls):
            return slash + rest, [*tokens, first]
    return path, tokens


def _peer(request: Request) -> Peer:
    host = _peer_host(request)
    return Peer(host, is_own_address(host), _end(request, "sockname")[1])


def _peer_host(request: Request) -> str:
    return _end(request, "peername")[0]


def _end(request: Request, which: Literal["peername", "sockname"]) -> tuple[str, int]:
    """Address and port of one end of the connection, which the caller cannot write as it likes."""
    end = request.connection.end(which)
    address = read_ip(end[0]) if end is not None else None
    return (str(address), end[1]) if address is not None and end is not None else ("", 0)


def _reached_at(request: Request) -> str:
    host, port = _end(request, "sockname")
    return f"http://{Address(host, port)}" if host else ""


def _short(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _json(status: int, body: Json, headers: dict[str, str] | None = None) -> Response:
    return Response(status, orjson.dumps(body), "application/json", headers)
