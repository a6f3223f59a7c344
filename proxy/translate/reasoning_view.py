"""What a client sees of a stream's text and of the model's thought, as the operator wants it for the model.

The thought comes between tags in the text, or apart from the text where the worker takes it out itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from proxy.translate.reasoning import Parts, ReasoningSplitter, Tags
from proxy.types import Json

Wish = Literal["field", "inline", "drop"]


class ReasoningRule(NamedTuple):
    """A model's tags, and where its thought is to be: in a field of its own, in the text, or nowhere."""

    tags: Tags
    wish: Wish


class ReasoningView(Protocol):
    """One answer. `text` and `reasoning` are what the client may see of them so far; `unopened` is set by a closing tag
    that nothing opened.
    """

    @property
    def text(self) -> str: ...

    @property
    def reasoning(self) -> str: ...

    @property
    def unopened(self) -> bool: ...

    def take(self, text: str, apart: str, *, final: bool = False) -> Parts:
        """Take the text so far and the thought that came apart from it so far, each of which begins with the one
        before, but for a final text that is shorter; what the client may see that is new.
        """


def reasoning_rule(worker: Json) -> ReasoningRule | None:
    """The rule in `worker.reasoning`, {open, close, begins_inside, as}; None where everything stays as it comes."""
    given = worker.get("reasoning") if isinstance(worker, dict) else None
    if not isinstance(given, dict):
        return None
    tags = Tags(str(given["open"]), str(given["close"]), begins_inside=given["begins_inside"] is True)
    wish = given["as"]
    return ReasoningRule(tags, "inline" if wish == "inline" else "drop" if wish == "drop" else "field")


def reasoning_view(worker: Json, *, comes_apart: bool = False) -> ReasoningView | None:
    """The view of an answer of this worker; None where the text is to be seen as it is. comes_apart: the worker takes
    the thought out of the text itself.
    """
    rule = reasoning_rule(worker)
    if rule is None:
        return ApartView() if comes_apart else None
    if rule.wish == "inline":
        return InlineView(rule.tags) if comes_apart or rule.tags.begins_inside else None
    return ApartView(rule)


class ApartView:
    """The thought beside the text. Without a rule only what came apart is; else what stands between the tags too, and
    is put behind what came before.
    """

    def __init__(self, rule: ReasoningRule | None = None) -> None:
        self._splitter = ReasoningSplitter(rule.tags) if rule is not None else None
        self._drops = rule is not None and rule.wish == "drop"
        self._plain = ""
        self._apart = 0
        self._reasoning: list[str] = []

    @property
    def text(self) -> str:
        """As in `ReasoningView`."""
        return self._plain if self._splitter is None else self._splitter.parts.text

    @property
    def reasoning(self) -> str:
        """As in `ReasoningView`."""
        self._reasoning = ["".join(self._reasoning)]
        return self._reasoning[0]

    @property
    def unopened(self) -> bool:
        """As in `ReasoningView`."""
        return self._splitter is not None and self._splitter.unopened

    def take(self, text: str, apart: str, *, final: bool = False) -> Parts:
        """As in `ReasoningView`."""
        thought, self._apart = apart[self._apart :], max(self._apart, len(apart))
        if self._splitter is None:
            said, self._plain = text[len(self._plain) :], text
        else:
            found = self._splitter.finish(text) if final else self._splitter.add(text)
            said, thought = found.text, thought + found.reasoning
        if self._drops:
            return Parts("", said)
        if thought:
            self._reasoning.append(thought)
        return Parts(thought, said)


class InlineView:
    """The thought in the text between the tags, also where it came apart or the opening one is in the prompt."""

    reasoning = ""
    unopened = False

    def __init__(self, tags: Tags) -> None:
        self._tags = tags
        self._opens = tags.begins_inside  # the opening tag may have to be put before the text
        self._inside = False  # the text so far ends in a thought that came apart
        self._apart = 0
        self._taken = 0
        self._text: list[str] = []

    @property
    def text(self) -> str:
        """As in `ReasoningView`."""
        self._text = ["".join(self._text)]
        return self._text[0]

    def take(self, text: str, apart: str, *, final: bool = False) -> Parts:
        """As in `ReasoningView`."""
        if len(text) < self._taken:
            self._text = [self.text[: len(text) - self._taken]]
        new = "".join(self._new(text, apart, final=final))
        if new:
            self._text.append(new)
        return Parts("", new)

    def _new(self, text: str, apart: str, *, final: bool) -> list[str]:
        tags, new = self._tags, []
        thought, self._apart = apart[self._apart :], max(self._apart, len(apart))
        if thought:
            new += [thought] if self._inside else [tags.open, "\n", thought]
            self._inside, self._opens = True, False
        if self._opens:
            begun = text.lstrip()
            if not final and tags.open.startswith(begun):
                return new
            new += [] if not begun or begun.startswith(tags.open) else [tags.open, "\n"]
            self._opens = False
        said, self._taken = text[self._taken :], max(self._taken, len(text))
        if self._inside and (said or final):
            new += ["\n", tags.close, "\n\n" if said else ""]
            self._inside = False
        return [*new, said]
