"""What an operator wants recorded is noted where it comes and goes; nothing of this is in the way of other requests."""

from __future__ import annotations

from proxy.http import Response
from proxy.recording.tape import Said, Tape, TapedExchange
from proxy.server.output import ClientOutput
from proxy.translate.plan import Route
from proxy.upstream import ResponseHead, Sink, UpstreamError


class TapedSink:
    """A worker's response on its way to another sink."""

    def __init__(self, sink: Sink, exchange: TapedExchange) -> None:
        self._sink, self._exchange = sink, exchange

    @property
    def begun(self) -> bool:
        """As the other one says."""
        return self._sink.begun

    def on_head(self, head: ResponseHead) -> None:
        """Called by the upstream, as the rest."""
        self._exchange.status = head.status
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        """Noted first: the other one may end the exchange."""
        self._exchange.said.add(data)
        self._sink.on_data(data)

    def on_end(self) -> None:
        """The body was complete."""
        self._exchange.complete = True
        self._sink.on_end()

    def on_error(self, error: UpstreamError) -> None:
        """It was not."""
        self._sink.on_error(error)


class TapedOutput(ClientOutput):
    """The body of a stream, noted as it goes out."""

    def __init__(self, told: Said) -> None:
        super().__init__()
        self._told = told

    def send(self, data: bytes) -> None:
        """What is kept until there is a writer comes again then, or never."""
        if self._transport is not None:
            self._told.add(data)
        super().send(data)


def tape_answer(tape: Tape, response: Response, route: Route) -> None:
    """A whole response; a stream was noted on its way."""
    framing = route.target.framing if route.target is not None else None
    told = tape.said(framing if framing is not None and framing.content_type == response.content_type else None)
    told.add(response.body)
    tape.answered(response.status, response.content_type, told)
