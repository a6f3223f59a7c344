"""Requests as a test means them, and as any client may write them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st


@dataclass(frozen=True)
class Ask:
    """One legal request. chunks: the body's parts; framing: how its length is told; spelled: the header's names."""

    method: str = "POST"
    target: str = "/"
    version: Literal["1.0", "1.1"] = "1.1"
    framing: Literal["none", "length", "chunked"] = "none"
    chunks: tuple[bytes, ...] = ()
    extension: bytes = b""
    trailers: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    connection: str = ""
    offers: bool = False
    expects: bool = False
    upper: bool = False

    @property
    def body(self) -> bytes:
        return b"" if self.framing == "none" else b"".join(self.chunks)

    @property
    def keeps(self) -> bool:
        """Whether the client may send another request behind it."""
        return self.connection == "keep-alive" if self.version == "1.0" else self.connection != "close"

    def written(self) -> bytes:
        """The request as bytes."""
        tokens = [self.connection] if self.connection else []
        fields = [("Host", "h"), *self.headers]
        if self.offers:
            tokens += ["Upgrade", "HTTP2-Settings"]
            fields += [("Upgrade", "h2c"), ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA")]
        if tokens:
            fields.append(("Connection", ", ".join(tokens)))
        if self.expects:
            fields.append(("Expect", "100-continue"))
        if self.framing == "length":
            fields.append(("Content-Length", str(len(self.body))))
        if self.framing == "chunked":
            fields.append(("Transfer-Encoding", "chunked"))
        lines = "".join(f"{name.upper() if self.upper else name}: {value}\r\n" for name, value in fields)
        return f"{self.method} {self.target} HTTP/{self.version}\r\n{lines}\r\n".encode() + self._framed()

    def _framed(self) -> bytes:
        if self.framing != "chunked":
            return self.body
        chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), self.extension, chunk) for chunk in self.chunks)
        return chunks + b"0\r\n" + "".join(f"{line}\r\n" for line in self.trailers).encode() + b"\r\n"


TARGETS = ["/", "/a/b?c=d&e", "/%e4%bd%a0?%00", "http://h:80/a?b#c", "/a;b=c//d", "/" + "p" * 300]
FIELDS = st.tuples(st.sampled_from(["X-A", "X-B", "Accept"]), st.sampled_from(["", "1", "ä b"]))


@st.composite
def asks(draw: st.DrawFn, *, last: bool) -> Ask:
    """Any legal request; one that is not the last keeps the connection."""
    version: Literal["1.0", "1.1"] = draw(st.sampled_from(["1.1", "1.1", "1.0"]))
    framings: list[Literal["none", "length", "chunked"]] = ["none", "length"]
    if version == "1.1":
        framings.append("chunked")
    closing = draw(st.booleans()) if last else False
    return Ask(
        method=draw(st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS"])),
        target=draw(st.sampled_from(TARGETS)),
        version=version,
        framing=draw(st.sampled_from(framings)),
        chunks=tuple(draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))),
        extension=draw(st.sampled_from([b"", b";a", b';a="b c"'])),
        trailers=draw(st.sampled_from([(), ("X-T: 1",), ("Host: other", "X-Sum: a b")])),
        headers=tuple(draw(st.lists(FIELDS, max_size=3))),
        connection="close" if closing else "keep-alive" if version == "1.0" else "",
        offers=draw(st.booleans()),
        expects=draw(st.booleans()),
        upper=draw(st.booleans()),
    )


@st.composite
def conversations(draw: st.DrawFn) -> list[Ask]:
    """Requests of one client, of which the last may close the connection."""
    before = draw(st.lists(asks(last=False), max_size=4))
    return [*before, draw(asks(last=True))]


@st.composite
def split(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The data in pieces: as single bytes, or cut anywhere."""
    if draw(st.booleans()) and len(data) < 600:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if begin < end]
