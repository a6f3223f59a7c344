"""Streams that are read in the background, with the moment of each frame; and what the metrics page says."""

from __future__ import annotations

import json
import threading
import time

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from proxy.types import Json, JsonObject
from tests.interop.programs import GatewayPlan, ProgramError, wait_until
from tests.interop.wire import Reply, text_at

STREAM_SECONDS = 60.0
SAID: list[Json] = [{"role": "human", "content": "Tell me everything"}]


def asked(model: str, tokens: int) -> JsonObject:
    """A request that says `SAID` and takes the most likely answer of at most so many tokens."""
    return {"model": model, "messages": SAID, "temperature": 0.0, "max_new_tokens": tokens}


class Stream(threading.Thread):
    """A POST whose NUL-terminated frames are read as they come. ``begun``: the first frame's ``time.monotonic()``."""

    def __init__(self, url: str, body: Json) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.body = body
        self.frames: list[JsonObject] = []
        self.begun: float | None = None
        self.ended: float | None = None
        self.fault: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with Reply("POST", self.url, self.body) as reply:
                assert reply.status == 200, reply.text()
                for piece in reply.pieces(b"\0"):
                    if self.begun is None:
                        self.begun = time.monotonic()
                    self.frames.append(json.loads(piece))
        except Exception as error:  # told to whoever asks for the result
            self.fault = error
        self.ended = time.monotonic()

    def wait_begun(self, frames: int = 1) -> None:
        wait_until(f"{self.url} sends {frames} frames", lambda: len(self.frames) >= frames or not self.is_alive(), 30)
        assert len(self.frames) >= frames, (self.fault, self.frames)

    def wait(self) -> Stream:
        """Wait for the end, whatever it is."""
        self.join(STREAM_SECONDS)
        if self.is_alive():
            raise ProgramError(f"{self.url} still sends after {STREAM_SECONDS:.0f} s: {self.frames[-1:]}")
        return self

    def last(self) -> JsonObject:
        """The last frame of a stream that ended as a stream ends."""
        self.wait()
        if self.fault is not None:
            raise self.fault
        assert self.frames, "the stream ended without a frame"
        return self.frames[-1]

    def text(self) -> str:
        """The whole text of a stream without an error."""
        last = self.last()
        assert last["error_code"] == 0, last
        return text_at(last, "text")


def metrics_page(plan: GatewayPlan) -> str:
    with Reply("GET", f"{plan.admin}/metrics") as reply:
        return reply.text()


def samples(page: str, name: str, **labels: str) -> list[Sample]:
    """All samples of this name with these labels on a metrics page."""
    every = [each for family in text_string_to_metric_families(page) for each in family.samples]
    return [each for each in every if each.name == name and labels.items() <= each.labels.items()]


def total(page: str, sample: str, **labels: str) -> float:
    """The sum of all samples of this name with these labels on a metrics page."""
    return sum(each.value for each in samples(page, sample, **labels))


def metric(plan: GatewayPlan, sample: str, **labels: str) -> float:
    """That sum on the gateway's page as it is now."""
    return total(metrics_page(plan), sample, **labels)


def most(counts: list[int]) -> int:
    """The most of a worker's counts but for moments: it frees a slot a little after the answer's last byte."""
    return sorted(counts)[len(counts) * 9 // 10]
