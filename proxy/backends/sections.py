"""The kinds of values that several sections of the settings have."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from proxy.address import is_wildcard, parse_address
from proxy.backends.base_url import normalise_base_url
from proxy.expr import STANDARD, ExpressionSyntaxError, compile_expression
from proxy.limits import QUEUE_LENGTH_MAX


def _callable_address(text: str) -> str:
    host, port = parse_address(text)
    if is_wildcard(host) or port == 0:
        raise ValueError(f"expected the HOST:PORT under which DB-GPT reaches this gateway, got '{text}'")
    return text


def _listen_address(text: str) -> str:
    parse_address(text)
    return text


def _allowed(text: str) -> str:
    """A network, an address, or the name of a host."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        pass
    if not text or "/" in text or ":" in text or any(char.isspace() for char in text):
        raise ValueError(f"expected a network such as 10.0.0.0/8, an address or the name of a host, got '{text}'")
    return text.lower()


def _expression(text: str) -> str:
    try:
        compile_expression(text, STANDARD)
    except ExpressionSyntaxError as error:
        raise ValueError(f"'{text}' is no expression: {error}") from None
    return text


# A title says in a word or two what text or number is expected, where its type does not.
Seconds = Annotated[float, Field(gt=0, le=86_400, title="seconds")]
ListenAddress = Annotated[str, AfterValidator(_listen_address), Field(title="HOST:PORT")]
Allowed = Annotated[str, AfterValidator(_allowed), Field(title="network, address or host")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Token = Annotated[str, Field(min_length=8, max_length=200, pattern=r"^[A-Za-z0-9._~-]+$")]
Header = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,100}$", title="name of a header")]
Expression = Annotated[str, AfterValidator(_expression), Field(title="expression")]
Tag = Annotated[str, Field(min_length=1, max_length=200)]
Limit = Annotated[int, Field(ge=1, le=100_000)]
QueueLength = Annotated[int, Field(ge=0, le=QUEUE_LENGTH_MAX)]
BaseUrl = Annotated[str, AfterValidator(normalise_base_url), Field(title="URL")]
CallableAddress = Annotated[str, AfterValidator(_callable_address), Field(title="HOST:PORT")]


class Section(BaseModel):
    """A part of the settings file; an unknown key is a mistake."""

    # Most sections are only parts of another one, which has all of it: what is not asked for by itself is not built.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, defer_build=True)
