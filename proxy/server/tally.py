"""What the rules did for one request, counted once at its end, however many workers it was tried on."""

from __future__ import annotations

from proxy.errors import Fault, GatewayError, Side
from proxy.telemetry.rules import RuleTable
from proxy.translate.fields import Named
from proxy.translate.mapping import Scope
from proxy.translate.plan import Asking, Route
from proxy.translate.reader import StreamReader
from proxy.translate.request import Built
from proxy.types import Json, JsonObject


class RuleTally:
    """Making one counts that the route took a request. `close` has to follow."""

    def __init__(self, rules: RuleTable, route: Route, scope: Scope) -> None:
        self._rules, self._route, self._scope = rules, route, scope
        self._way = route
        self._rule = rules.of(route.pack, route.name)
        self._rule.applied()
        self._written = False
        self._asking: Asking | None = None
        self._told: list[Fault] = []
        self._dropped: dict[tuple[str, str, Side], tuple[Named, set[str]]] = {}

    def written(self) -> None:
        """The request was taken, and written for a worker where it needs one."""
        self._written = True

    def built(self, built: Built) -> None:
        """The request is written for a worker, by the rule of its backend where the route has a call."""
        self._written = True
        others = self._route.others
        self._way = self._route
        if others is not None and built.route.name == others.name:
            self._way = others
            self._rules.of(others.pack, others.name).applied()
        self._asking = asking = built.route.asking
        if asking is None:
            return
        for other in self._way.variants.get(asking.backend, ()):
            if other.asking is asking:
                break
            if other.asking is not None:
                self._rules.of(other.asking.pack, other.asking.name).skipped()
        self._rules.of(asking.pack, asking.name).applied()
        self._look(asking, "call", asking.named.call, built.scope.get("call"))

    def streamed(self, reader: StreamReader, asking: Asking | None) -> None:
        """A worker's stream is over."""
        rule = asking or self._way
        for frame in (reader.first, reader.ending):
            self._look(rule, "answer", rule.named.answer, frame)
        self.resulted({"usage": reader.usage, "logprobs": reader.logprobs})

    def answered(self, answer: Json, asking: Asking | None) -> None:
        """A worker gave a whole answer."""
        rule = asking or self._way
        self._look(rule, "answer", rule.named.answer, answer)

    def resulted(self, results: JsonObject) -> None:
        """What the answers meant. What is not told the client is lost of the answer, as packs that accept it say."""
        self._look(self._way, "answer", self._way.named.result, results)

    def failed(self, error: GatewayError | None) -> None:
        """Count it where a rule failed itself, once however often the error is told."""
        fault = None if error is None else error.fault
        if fault is None or any(told is fault for told in self._told):
            return
        self._told.append(fault)
        rule = self._way if fault.side in {"request", "result"} else self._asking or self._way
        self._rules.of(fault.pack or rule.pack, fault.rule or rule.name).failed(fault.side)

    def close(self, error: GatewayError | None) -> None:
        """The request is over. What was not written for a worker has lost nothing: its client knows."""
        self.failed(error)
        if self._written:
            self._look(self._way, "request", self._way.named.request, self._scope.get("body"))
        for (pack, name, side), (named, fields) in self._dropped.items():
            own = (pack, name) == (self._route.pack, self._route.name)
            rule = self._rule if own else self._rules.of(pack, name)
            rule.dropped(side, fields, named.accepted)

    def _look(self, rule: Route | Asking, side: Side, named: Named | None, value: Json) -> None:
        if named is None:
            return
        fields = named.dropped(value)
        if fields:
            self._dropped.setdefault((rule.pack, rule.name, side), (named, set()))[1].update(fields)
