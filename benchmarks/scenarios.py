"""The loads that every program gets, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Unit = Literal["chunk", "request", "byte"]

# Between the beginnings of two streams: a rush of requests is another load than a hundred running streams.
BEGIN_MS = 5.0
EMBEDDING_TEXTS = 64


@dataclass(frozen=True)
class Scenario:
    """A load; `route` names the request in a subject's `asks`. Times are milliseconds.

    unit: what the CPU is counted for. reads_per_second: bytes that each client takes, 0 for all that come. texts: of
    an embeddings request.
    """

    name: str
    title: str
    route: str
    streams: int
    chunks: int
    interval_ms: float
    unit: Unit = "chunk"
    spread_ms: float = 0.0
    rounds: int = 1
    new_connections: bool = False
    reads_per_second: float = 0.0
    texts: int = 0

    @property
    def load(self) -> str:
        """The load in words."""
        if self.texts:
            what = f"{self.texts} texts"
        elif self.unit == "request" and self.chunks == 1:
            what = "one answer"
        elif self.unit == "request":
            what = f"an answer of {self.chunks} chunks"
        else:
            pace = f"{self.interval_ms:g} ms apart" if self.interval_ms else "flat out"
            what = f"{self.chunks:,} chunks {pace}"
        at_once = "1 stream" if self.streams == 1 else f"{self.streams:,} at once"
        rounds = f", {self.rounds} in turn" if self.rounds > 1 else ""
        return f"{at_once}{rounds}, each {what}"

    @property
    def requests(self) -> int:
        return self.streams * self.rounds

    @property
    def timeout(self) -> float:
        """Seconds after which a run is given up: 5 times its pace, 2 ms for each chunk, 50 ms for each request."""
        paced = (self.spread_ms + self.rounds * self.chunks * self.interval_ms) / 1000
        return min(20 + 5 * paced + self.requests * (self.chunks * 0.002 + 0.05), 600)

    def quick(self) -> Scenario:
        """A small load of the same kind: to see that everything works, not for figures."""
        streams = min(self.streams, 200 if self.streams > 500 else 25)
        return replace(
            self,
            streams=streams,
            chunks=min(self.chunks, 500 if self.chunks > 1000 else 50),
            rounds=min(self.rounds, 5),
            spread_ms=self.spread_ms * streams / self.streams,
        )


def _scenarios() -> list[Scenario]:
    spread = 100 * BEGIN_MS
    return [
        Scenario("worker", "Worker stream", "stream", 100, 100, 20, spread_ms=spread),
        Scenario("field", "Worker stream, a field changed in every chunk", "field", 100, 100, 20, spread_ms=spread),
        Scenario("openai", "OpenAI chat stream", "chat", 100, 100, 20, spread_ms=spread),
        Scenario("ndjson", "NDJSON stream", "lines", 100, 100, 20, spread_ms=spread),
        Scenario("long", "Long answers", "stream", 20, 2000, 2, unit="byte", spread_ms=100),
        Scenario("generate", "Answers in one piece", "generate", 16, 20, 0, unit="request", rounds=25),
        Scenario(
            "connections",
            "Answers in one piece, a new connection each",
            "generate",
            16,
            20,
            0,
            unit="request",
            rounds=25,
            new_connections=True,
        ),
        Scenario(
            "count",
            "Token counts, a new connection each",
            "count",
            16,
            1,
            0,
            unit="request",
            rounds=50,
            new_connections=True,
        ),
        Scenario(
            "embeddings",
            "Embeddings of 1,024 numbers",
            "embeddings",
            4,
            1,
            0,
            unit="request",
            rounds=10,
            texts=EMBEDDING_TEXTS,
        ),
        Scenario("one", "One stream at a time", "stream", 1, 10, 2, rounds=200),
        Scenario("half", "About half of one core's load", "stream", 100, 400, 6, spread_ms=spread),
        Scenario("thousand", "A thousand streams", "stream", 1000, 250, 20, spread_ms=4000),
        Scenario("slow", "Slow readers", "stream", 20, 2000, 0, unit="byte", reads_per_second=2e6),
        Scenario("saturation", "As fast as it goes", "stream", 100, 100, 0, rounds=15),
    ]


SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in _scenarios()}
