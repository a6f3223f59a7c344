"""Which address a registration may name, and what becomes of it.

An address that is registered decides where prompts go, and the gateway calls it. FastChat's own controller (0.2.36)
takes any string from anybody.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from proxy.backends.base_url import normalise_base_url
from proxy.backends.workers.places import IP, Network, is_here, is_metadata_name, never, read_ip

# malformed: no base address of http or https without a path; credentials; never: link-local, metadata, multicast;
# itself: this gateway; not_allowed: neither allowed nor the peer's own; unresolved: a name without an address;
# unanswered: a name of which nobody said in time whether it has one; https_name: a name that has to be listed because
# its certificate is for the name.
GuardReason = Literal[
    "malformed", "credentials", "never", "itself", "not_allowed", "unresolved", "unanswered", "https_name"
]

# The addresses of a host name as text. OSError with a reason when there are none, or no answer in time.
LookUp = Callable[[str], Awaitable[Sequence[str]]]

_LOOPBACK: Final = ipaddress.IPv4Address("127.0.0.1")
_URL_CHARACTERS: Final = re.compile(r"[!-~]+")
_NO_URL_CHARACTERS: Final = frozenset('\\"<>^`{|}#?')
# The name service is sure that there is no address; any other failure of a look-up may be over in a moment.
_NO_SUCH_NAME: Final = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
_HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*")


@dataclass(frozen=True)
class Admission:
    """The address to use, and a sentence where its owner meant another one."""

    address: str
    warning: str = ""


class Rejection(NamedTuple):
    """Why a registration is refused: a word for counting, and one sentence for whoever sent it and for the log."""

    reason: str
    text: str


class Peer(NamedTuple):
    """Who posted. host: its IP address; same_machine: it runs where the gateway runs; port: of ours that it called."""

    host: str
    same_machine: bool = False
    port: int = 0


class _Refused(Exception):
    def __init__(self, reason: GuardReason, text: str) -> None:
        super().__init__(text)
        self.rejection = Rejection(reason, text)


class Guard:
    """The rules for registered addresses.

    allow: host names, IP addresses and networks beside the peer's own address, and loopback for peers on this machine.
    rewrite: an address that means "this machine" becomes the peer's where the peer is another one.
    addresses: registered address to the one that is used instead; only these may have a path. What is listed or mapped
    by name is looked up all the same: the operator vouches for the name, not for every address that it ever has.
    own_ports: where this gateway listens on this machine; is_own: whether an IP address is one of this machine's.
    ValueError with one sentence for an entry that cannot be read.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] = (),
        rewrite: bool = True,
        addresses: Mapping[str, str] | None = None,
        own_ports: Iterable[int] = (),
        is_own: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self._names: set[str] = set()
        self._networks: list[Network] = []
        for entry in allow:
            self._allow(entry)
        self._rewrite = rewrite
        self._addresses = {
            normalise_base_url(name): normalise_base_url(used) for name, used in (addresses or {}).items()
        }
        self._own_ports = frozenset(own_ports)
        self._is_own = is_own

    async def admit(self, worker_name: str, peer: Peer, look_up: LookUp) -> Admission | Rejection:
        """What becomes of a posted address. Nothing is called but `look_up`, for a host name."""
        posted = worker_name.strip(" ")
        try:
            parts = _parts(posted)
            mapped = self._addresses.get(parts.geturl())
            if mapped is not None:
                await self._check_vouched(urlsplit(mapped), peer, look_up)
                return Admission(mapped, f"{posted} is used as {mapped}, as the settings say")
            if parts.path:
                text = f"{posted} has a path, which only an address that fastchat.accept.addresses maps may have"
                raise _Refused("malformed", text)
            if parts.hostname in self._names:
                await self._check_vouched(parts, peer, look_up)
                return Admission(parts.geturl())
            return await self._judge(parts, posted, peer, look_up)
        except _Refused as refused:
            return refused.rejection

    async def _judge(self, parts: SplitResult, posted: str, peer: Peer, look_up: LookUp) -> Admission:
        host = parts.hostname or ""
        literal = read_ip(host)
        local_name = host == "localhost" or host.endswith(".localhost")
        if literal is not None:
            found = [literal]
        elif local_name:
            found = [_LOOPBACK]
        else:
            if parts.scheme == "https":
                text = f"the certificate of {parts.geturl()} is for its name: list {host} in fastchat.accept.allow"
                raise _Refused("https_name", text)
            found = await _looked_up(host, look_up)
        placed = {address: self._usable(address, host, peer) for address in found}
        for address in placed.values():
            self._check_not_itself(address, parts, peer)
        named, address = next(
            (pair for pair in placed.items() if str(pair[1]) == peer.host), next(iter(placed.items()))
        )
        used = _with_host(parts, str(address))
        if named != address:
            where = "this machine" if address.is_loopback else "where the registration came from"
            text = f"{posted} means the machine that uses it, so it is used as {used}, which is {where}"
            return Admission(used, f"{text}; start the worker with --worker-address {used}")
        # A certificate for "localhost" is for the name.
        return Admission(parts.geturl() if local_name and parts.scheme == "https" else used)

    def _usable(self, address: IP, host: str, peer: Peer) -> IP:
        """What an address of a worker is for the gateway. _Refused when it may not be used."""
        what = never(address)
        if what:
            raise _Refused("never", f"{_shown(host, address)} is {what}, where no worker may be")
        if is_here(address):
            return self._place_of(address, host, peer)
        if str(address) == peer.host or self._is_listed(address) or (peer.same_machine and self._is_own(str(address))):
            return address
        raise _Refused(
            "not_allowed",
            f"{_shown(host, address)} is neither the address that the registration came from ({peer.host}) nor "
            "listed in fastchat.accept.allow",
        )

    def _place_of(self, address: IP, host: str, peer: Peer) -> IP:
        origin = read_ip(peer.host)
        if not peer.same_machine and self._rewrite and origin is not None and not is_here(origin):
            if never(origin):
                raise _Refused("never", f"the registration came from {origin}, which is {never(origin)}")
            return origin
        if not address.is_loopback:
            if peer.same_machine and self._rewrite:
                return _LOOPBACK if address.version == 4 else ipaddress.IPv6Address("::1")
            raise _Refused("not_allowed", f"{_shown(host, address)} can be listened on and not be called")
        if peer.same_machine or self._is_listed(address):
            return address
        raise _Refused("not_allowed", f"{_shown(host, address)} is this gateway's own machine as seen from here")

    def _check_not_itself(self, address: IP, parts: SplitResult, peer: Peer) -> None:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if port in {peer.port, *self._own_ports} and (is_here(address) or self._is_own(str(address))):
            raise _Refused("itself", f"{parts.geturl()} is this gateway, which cannot be a worker of its own")

    async def _check_vouched(self, parts: SplitResult, peer: Peer, look_up: LookUp) -> None:
        """What holds for an address that the settings list or map by name, too: where it leads is not forbidden."""
        host = parts.hostname or ""
        literal = read_ip(host)
        if is_metadata_name(host):
            raise _Refused("never", f"{host} is a metadata service, where no worker may be")
        try:
            found = [literal] if literal is not None else await _looked_up(host, look_up)
        except _Refused:
            if parts.scheme == "https":
                return  # whoever answers there has to show the certificate of that name
            raise
        for address in found:
            what = never(address)
            if what:
                raise _Refused("never", f"{_shown(host, address)} is {what}, where no worker may be")
            self._check_not_itself(address, parts, peer)

    def _is_listed(self, address: IP) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)

    def _allow(self, entry: str) -> None:
        text = entry.strip().lower().rstrip(".")
        try:
            network: Network = ipaddress.ip_network(text.strip("[]"), strict=False)
        except ValueError:
            if not _HOST_NAME.fullmatch(text) or "/" in text:
                raise ValueError(f"'{entry}' is no host name, IP address or network such as 10.0.0.0/8") from None
            if is_metadata_name(text):
                raise ValueError(f"'{entry}' gives out a machine's credentials and cannot be a worker") from None
            self._names.add(text)
            if text == "localhost":  # for http it is known as its address
                self._networks += [ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("::1")]
        else:
            self._networks.append(network)


def same_token(expected: str | None, given: Iterable[str]) -> bool:
    """Whether one of the given tokens is the expected one (any will do where none is); takes the same time for each."""
    if expected is None:
        return True
    wanted = expected.encode()
    return sum(hmac.compare_digest(wanted, token.encode("utf-8", "surrogateescape")) for token in given) > 0


def _parts(name: str) -> SplitResult:
    if "@" in name:
        raise _Refused("credentials", "an address with an @ holds credentials: expected http://HOST:PORT without them")
    if not _URL_CHARACTERS.fullmatch(name) or not _NO_URL_CHARACTERS.isdisjoint(name):
        raise _Refused("malformed", f"{name[:80]!r} is not an address: expected http://HOST:PORT in plain ASCII")
    try:
        parts = urlsplit(normalise_base_url(name))
    except ValueError as error:
        raise _Refused("malformed", str(error)) from None
    host = (parts.hostname or "").rstrip(".")
    if read_ip(host) is None and not _HOST_NAME.fullmatch(host):
        raise _Refused("malformed", f"{host[:80]!r} is no host name or IP address")
    if is_metadata_name(host):
        raise _Refused("never", f"{host} is a metadata service, where no worker may be")
    return urlsplit(_with_host(parts, host))


async def _looked_up(host: str, look_up: LookUp) -> list[IP]:
    try:
        answers = await look_up(host)
    except OSError as error:
        why = error.strerror or error
        if error.errno in _NO_SUCH_NAME:
            raise _Refused("unresolved", f"the host name {host} has no address: {why}") from None
        raise _Refused("unanswered", f"the host name {host} cannot be looked up now: {why}") from None
    found = [address for address in map(read_ip, answers) if address is not None]
    if not found or len(found) < len(answers):
        raise _Refused("unresolved", f"the host name {host} has no usable address")
    return found


def _with_host(parts: SplitResult, host: str) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if parts.port is None else f':{parts.port}'}{parts.path}"


def _shown(host: str, address: IP) -> str:
    return str(address) if host == str(address) else f"{host} ({address})"
