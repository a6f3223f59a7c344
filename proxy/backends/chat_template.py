"""A chat template in Jinja, of the kind that Hugging Face models carry, given by the user for one model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from types import TracebackType
from typing import NoReturn, cast

from jinja2 import TemplateError, TemplateSyntaxError, nodes

from proxy.backends.chat_meter import METER, LimitError, Meter
from proxy.backends.chat_sandbox import MeteredEnvironment, guard
from proxy.types import Json

MAX_SOURCE_CHARS = 65_536
"""The longest published chat templates have about 15,000 characters."""
MAX_OUTPUT_CHARS = 4_000_000
"""More than the context of any served model holds."""
MAX_WORK_UNITS = 2_000_000
"""About a second in the worst case; a dialogue of 1000 messages in a long template needs less than a third of it."""

# Levels of the syntax tree. The time to compile grows steeply with them, and Python takes no more than 20 nested loops
# and 200 nested brackets. A long template has 15.
_MAX_NESTING = 50

_REACHING_OUT = {nodes.Include: "include", nodes.Import: "import", nodes.FromImport: "from", nodes.Extends: "extends"}


class ChatTemplateError(ValueError):
    """A template that does not compile or cannot be rendered; the text names its line and the reason."""

    def __init__(self, reason: str, line: int | None) -> None:
        super().__init__(f"chat template, line {line}: {reason}" if line else f"chat template: {reason}")
        self.reason = reason
        self.line = line


class ChatTemplateRefusedError(ChatTemplateError):
    """The template called raise_exception: it takes no such dialogue, which is a mistake of the request."""


class _RaisedError(Exception):
    pass


class ChatTemplate:
    """A compiled chat template. Rendering is bounded in time and memory and reaches no file.

    Compiled as Hugging Face's transformers does it (trimmed blocks, break and continue, tojson without ASCII escapes).
    Not supported: include, import, extends, block; str.format and %; filters that chat templates do not use;
    strftime_now is undefined, so that the same dialogue always gives the same prompt.
    Raises ChatTemplateError.
    """

    def __init__(self, source: str, *, max_source: int = MAX_SOURCE_CHARS) -> None:
        if len(source) > max_source:
            raise ChatTemplateError(f"{len(source)} characters, at most {max_source} are accepted", None)
        environment = MeteredEnvironment()
        environment.globals["raise_exception"] = _raise_exception
        try:
            tree = environment.parse(source)
            _refuse_reaching_out(tree)
            _refuse_deep_nesting(tree)
            guard(tree, environment)
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise ChatTemplateError(error.message or "it cannot be read", error.lineno) from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            if isinstance(error, ChatTemplateError):
                raise
            raise ChatTemplateError(f"it is nested too deeply or holds too large a number ({error})", None) from None

    def render(
        self,
        messages: Json,
        *,
        bos_token: str = "",
        eos_token: str = "",
        add_generation_prompt: bool = True,
        max_output: int = MAX_OUTPUT_CHARS,
        max_work: int = MAX_WORK_UNITS,
    ) -> str:
        """The prompt for `messages` (a list of {"role", "content"}).

        `tools` and `documents` are null for the template. Raises ChatTemplateRefusedError when the template called
        raise_exception, ChatTemplateError when it failed or went over a limit (max_output in characters, max_work in
        units of a microsecond at most).
        """
        context = self._template.new_context(
            {
                "messages": messages,
                "tools": None,
                "documents": None,
                "bos_token": bos_token,
                "eos_token": eos_token,
                "add_generation_prompt": add_generation_prompt,
                METER: Meter(max_work, max_output),
            }
        )
        try:
            return _collected(self._template.root_render_func(context), max_output)
        except _RaisedError as error:
            raise ChatTemplateRefusedError(str(error), _line(error.__traceback__)) from None
        except RecursionError as error:
            raise ChatTemplateError("macros or loops call themselves too deeply", _line(error.__traceback__)) from None
        except (LimitError, TemplateError) as error:
            raise ChatTemplateError(str(error), _line(error.__traceback__)) from None
        except Exception as error:
            # Anything a template's expressions can raise: a wrong operand, a key that is not there, a division by zero.
            reason = f"{type(error).__name__}: {error}"
            raise ChatTemplateError(reason, _line(error.__traceback__)) from error


def _collected(output: Iterator[str], max_output: int) -> str:
    pieces = []
    length = 0
    for piece in output:
        length += len(piece)
        if length > max_output:
            error = LimitError(f"the prompt has more than {max_output} characters")
            # Thrown into the template's own frame, so that the error knows its line.
            cast("Generator[str, None, None]", output).throw(error)
        pieces.append(piece)
    return "".join(pieces)


def _raise_exception(message: object) -> NoReturn:
    raise _RaisedError(str(message)[:500])


def _refuse_reaching_out(tree: nodes.Template) -> None:
    for kind, word in _REACHING_OUT.items():
        for node in tree.find_all(kind):
            raise ChatTemplateError(f"{word}: a chat template is one text, it cannot read others", node.lineno)
    for block in tree.find_all(nodes.Block):
        raise ChatTemplateError(f"block {block.name}: blocks are not supported, use a macro", block.lineno)


def _refuse_deep_nesting(tree: nodes.Template) -> None:
    below: list[tuple[nodes.Node, int]] = [(tree, 0)]
    while below:
        node, depth = below.pop()
        if depth > _MAX_NESTING:
            raise ChatTemplateError(
                f"loops, conditions and operators are nested more than {_MAX_NESTING} deep", node.lineno
            )
        below.extend((child, depth + 1) for child in node.iter_child_nodes())


def _line(traceback: TracebackType | None) -> int | None:
    """The line of the template in which an error arose: that of the innermost frame of compiled template code."""
    line = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if template is not None:
            line = template.get_corresponding_lineno(traceback.tb_lineno)
        traceback = traceback.tb_next
    return line
