"""How a worker's stream is read, and what a client gets: the parts of rule files about answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from proxy.ruleset.mapping_documents import Spec
from proxy.ruleset.strict import Expression, Message, Name, Strict, Text
from proxy.translate.text import Mode


class ReadDoc(Strict):
    """`read`: what a frame of the worker means."""

    text: Expression
    """The text."""
    finish: Spec | None = None
    """Why the answer ended; null before its end."""
    usage: Spec | None = None
    """The tokens of prompt and answer."""
    error_code: Expression | None = None
    """Neither null nor 0 in a frame that is an error."""
    error_message: Expression | None = None
    """What the worker says of it."""
    error_status: Expression | None = None
    """The HTTP status that such an error would have come with, by which it is known as by that of a refusal."""
    reasoning: Expression | None = None
    """A thought that comes apart from the text."""
    logprobs: Expression | None = None
    """The probabilities of tokens."""


class FromDoc(Strict):
    """`stream.from`: the worker's stream."""

    framing: Name
    """nul, sse, ndjson or json."""
    text: Mode
    """cumulative: each frame has the whole text so far; incremental: what is new."""
    read: ReadDoc
    stops: Expression | None = None
    """The stop strings, by which a text that was cut short is told from one that was lost."""
    prefix: Expression | None = None
    """Text before the worker's own."""
    missing_finish: Text | None = None
    """The finish of a worker that never says why it ended. Left out: such an end is an error."""
    echoed: Expression | None = None
    """What a worker that goes on with another one's stream repeats before the new text."""
    finish_at_end: bool = False
    """Frames that still tell something follow the one that has the finish, so the client is told at the end of the
    stream.
    """
    keeps_stops: bool = False
    """One of `stops` that ended the text is still at its end, and is cut off."""

    @model_validator(mode="after")
    def _goes_together(self) -> FromDoc:
        if self.echoed is not None and self.text != "cumulative":
            raise ValueError("stream.from.echoed is cut off each frame's whole text; it needs text: cumulative")
        if self.keeps_stops and self.stops is None:
            raise ValueError("stream.from.keeps_stops is about stop strings; it needs stops")
        return self


class ToDoc(Strict):
    """`stream.to`: the client's stream."""

    framing: Name
    """nul, sse, ndjson or json."""
    also: list[Name] = []
    """Further framings: the client's Accept header chooses, and gets `framing` where it accepts all or none of them."""
    text: Mode
    """cumulative: `text` is the whole text so far in each frame; incremental: what is new."""
    hold_back: Annotated[int, Field(ge=0, le=64)] = 0
    """So many characters are kept back until the last frame."""
    first: Spec | None = None
    """A frame before the first one."""
    chunk: Spec
    """Each frame."""
    last: Spec | None = None
    """The finishing frame, where it differs."""
    final: Spec | None = None
    """One more frame behind the last."""
    resumed: Spec | None = None
    """What `chunk` is in a stream that another worker went on with, for rules that pass it on."""


class StreamDoc(Strict):
    """`stream`: an answer in parts."""

    from_: FromDoc | None = Field(None, alias="from")
    """How the worker's stream is read."""
    to: ToDoc | None = None
    """What the client gets. Left out: the stream is collected into `answer`."""


class AnswerCheckDoc(Strict):
    """A condition on what the worker answered; where it does not hold, the answer is not passed on."""

    check: Expression
    """What has to hold."""
    message: Message
    """What the caller is told."""


class AnswerDoc(Strict):
    """`answer`: a whole answer to the client."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
    """Its HTTP status."""
    headers: dict[str, Expression] = {}
    """Its headers; one that is null is left out. Its type, date and end are the gateway's to say."""
    checks: list[AnswerCheckDoc] = []
    """What has to hold of the worker's answer."""
    body: Spec
    """Its body."""
