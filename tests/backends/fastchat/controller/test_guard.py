"""What becomes of a posted worker address."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.fastchat.controller.guard import Admission, Guard, LookUp, Peer, Rejection, same_token
from proxy.backends.workers.places import never, read_ip

HERE = Peer("127.0.0.1", same_machine=True)
LAN = Peer("192.168.1.2", same_machine=True)
OTHER = Peer("10.0.0.5")
OWN = "192.168.1.2"


def names(**known: Sequence[str]) -> LookUp:
    """A look-up that knows these names (with _ for -) and counts nothing."""

    async def look_up(host: str) -> Sequence[str]:
        if host not in known:
            raise OSError(-2, "Name or service not known")
        return known[host]

    return look_up


def guard(**settings: object) -> Guard:
    """A guard of a gateway that listens on port 21001 of 192.168.1.2."""
    return Guard(own_ports=[21001], is_own=lambda host: host == OWN, **settings)  # type: ignore[arg-type]


async def judge(name: str, peer: Peer = OTHER, look_up: LookUp | None = None, **settings: object) -> str:
    """The admitted address, or the reason of the rejection in angle brackets."""
    judged = await guard(**settings).admit(name, peer, look_up or names())
    return judged.address if isinstance(judged, Admission) else f"<{judged.reason}>"


@pytest.mark.parametrize(
    ("name", "peer", "expected"),
    [
        ("http://10.0.0.5:21002", OTHER, "http://10.0.0.5:21002"),
        ("HTTP://10.0.0.5:21002/", OTHER, "http://10.0.0.5:21002"),
        ("https://10.0.0.5:443/", OTHER, "https://10.0.0.5"),
        ("http://[::ffff:10.0.0.5]:21002", OTHER, "http://10.0.0.5:21002"),
        ("http://[fd00:0:0::5]:21002", Peer("fd00::5"), "http://[fd00::5]:21002"),
        ("http://localhost:21002", HERE, "http://127.0.0.1:21002"),
        ("https://localhost:21002", HERE, "https://localhost:21002"),
        ("http://127.0.1.1:21002", HERE, "http://127.0.1.1:21002"),
        ("http://192.168.1.2:21002", HERE, "http://192.168.1.2:21002"),
        ("http://localhost:21002", LAN, "http://127.0.0.1:21002"),
        ("http://0.0.0.0:21002", HERE, "http://127.0.0.1:21002"),
    ],
)
async def test_the_peers_own_address_is_admitted(name: str, peer: Peer, expected: str) -> None:
    """Without any setting a worker may name the address that it posts from, in one spelling for each."""
    assert await judge(name, peer) == expected


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "0.0.0.0", "[::]", "[::1]"]
)
async def test_this_machine_of_another_host_is_the_peers_address(host: str) -> None:
    """A worker that was started with its default address is used where it is, and its owner is told."""
    judged = await guard().admit(f"http://{host}:21002/", OTHER, names())
    assert isinstance(judged, Admission)
    assert judged.address == "http://10.0.0.5:21002"
    assert judged.warning.startswith(f"http://{host}:21002/ means the machine that uses it")
    assert "--worker-address http://10.0.0.5:21002" in judged.warning


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "0.0.0.0", "[::]"])
async def test_without_rewriting_such_an_address_is_refused(host: str) -> None:
    """An operator who wants no rewriting never has the gateway's own machine called for another one."""
    assert await judge(f"http://{host}:21002", OTHER, rewrite=False) == "<not_allowed>"


async def test_the_map_of_the_settings_beats_everything() -> None:
    """An address that the operator maps is used as mapped, with a warning."""
    judged = await guard(addresses={"http://localhost:21002/": "http://gpu9:21002"}).admit(
        "http://LOCALHOST:21002", OTHER, names(gpu9=["10.9.9.9"])
    )
    assert isinstance(judged, Admission)
    assert judged.address == "http://gpu9:21002"
    assert "as the settings say" in judged.warning


async def test_only_a_mapped_address_may_have_a_path() -> None:
    """One worker with a thousand paths would be a thousand; behind a proxy the operator says where each one is."""
    for path in ("/0", "/a/../b", "/a;b", "/worker/7/"):
        assert await judge(f"http://10.0.0.5:21002{path}") == "<malformed>"
        assert await judge(f"https://gpu1:443{path}", allow=["gpu1"]) == "<malformed>"
    behind = {"http://10.0.0.5:1/7": "https://10.0.0.1/worker/7"}
    assert await judge("http://10.0.0.5:1/7/", addresses=behind) == "https://10.0.0.1/worker/7"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["10.9.9.9"], ""),
        (["169.254.169.254"], "<never>"),
        (["10.9.9.9", "fe80::1"], "<never>"),
        ([OWN], "<itself>"),
        (["127.0.0.1"], "<itself>"),
        ([], "<unresolved>"),
    ],
)
async def test_the_operator_vouches_for_a_name_and_not_for_all_its_addresses(found: list[str], expected: str) -> None:
    """A listed or mapped name that leads to metadata or to this gateway is refused, and one that leads nowhere."""
    url = "http://gpu1:21001"
    assert await judge(url, OTHER, names(gpu1=found), allow=["gpu1"]) == (expected or url)
    mapped = {"http://x:1": url}
    assert await judge("http://x:1", OTHER, names(gpu1=found), addresses=mapped) == (expected or url)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254", "never"),
        ("http://metadata.google.internal", "never"),
        ("http://127.0.0.1:21001", "itself"),
        ("http://0.0.0.0:21001", "itself"),
    ],
)
async def test_no_map_leads_where_no_worker_may_be(target: str, reason: str) -> None:
    """A slip of the settings sends no prompts to a metadata service or round in a circle."""
    assert await judge("http://x:1", addresses={"http://x:1": target}) == f"<{reason}>"


async def test_a_listed_name_without_a_look_up() -> None:
    """With https the certificate tells who answers; without, the name is refused, for now if that may be over soon."""

    async def silent(host: str) -> Sequence[str]:
        raise OSError(-3, "Temporary failure in name resolution")

    assert await judge("https://gpu1:80", OTHER, silent, allow=["gpu1"]) == "https://gpu1:80"
    assert await judge("http://gpu1:80", OTHER, silent, allow=["gpu1"]) == "<unanswered>"
    assert await judge("http://gpu2:80", OTHER, silent) == "<unanswered>"
    assert await judge("http://gpu1:80", OTHER, allow=["gpu1"]) == "<unresolved>"


async def test_localhost_can_be_listed() -> None:
    """It means the address under which it is known."""
    for name in ("http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"):
        assert await judge(name, OTHER, allow=["localhost"], rewrite=False) == name.replace("localhost", "127.0.0.1")
    assert await judge("http://localhost:21001", HERE, allow=["localhost"]) == "<itself>"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("http://10.0.0.6:21002", "not_allowed"),
        ("http://192.168.1.2:21002", "not_allowed"),
        ("http://8.8.8.8", "not_allowed"),
        ("http://169.254.169.254", "never"),
        ("http://169.254.169.254/latest/meta-data", "malformed"),
        ("http://[::ffff:a9fe:a9fe]", "never"),
        ("http://[64:ff9b::169.254.169.254]:80", "never"),
        ("http://metadata.google.internal", "never"),
        ("http://METADATA.google.internal.:80", "never"),
        ("http://100.100.100.200", "never"),
        ("http://[fd00:ec2::254]", "never"),
        ("http://239.1.2.3", "never"),
        ("http://user:pass@10.0.0.5:21002", "credentials"),
        ("http://10.0.0.5:21002@169.254.169.254", "credentials"),
        ("http://10.0.0.5:21002/a@b", "credentials"),
        ("ftp://10.0.0.5", "malformed"),
        ("file:///etc/passwd", "malformed"),
        ("gopher://10.0.0.5:70", "malformed"),
        ("10.0.0.5:21002", "malformed"),
        ("", "malformed"),
        ("http://", "malformed"),
        ("http://:21002", "malformed"),
        ("http://10.0.0.5:0", "malformed"),
        ("http://10.0.0.5:99999", "malformed"),
        ("http://10.0.0.5:21002?x=1", "malformed"),
        ("http://10.0.0.5:21002#x", "malformed"),
        ("http://10.0.0.5\\.evil.example", "malformed"),
        ("http://10.0.0.5:21002/\r\nX: y", "malformed"),
        ("http://10.0.0.5:21002/\x00", "malformed"),
        ("http://10.0.0.5 :21002", "malformed"),
        ("http://[fe80::1%25eth0]:21002", "malformed"),
        ("http://gpu\u3002example", "malformed"),
        ("http://" + "a" * 10_000, "malformed"),
        ("http://-.-/", "malformed"),
        ("http://nowhere:21002", "unresolved"),
        ("https://gpu1:21002", "https_name"),
    ],
)
async def test_everything_else_is_refused(name: str, reason: str) -> None:
    """Each refusal has its reason and a sentence of bounded length."""
    judged = await guard().admit(name, OTHER, names(gpu1=["10.0.0.5"]))
    assert isinstance(judged, Rejection)
    assert judged.reason == reason
    assert 10 < len(judged.text) < 700
    assert "pass" not in judged.text or "passwd" in judged.text


@pytest.mark.parametrize("name", ["http://localhost:21001", "http://127.0.0.1:21001", "http://192.168.1.2:21001"])
async def test_the_gateway_is_no_worker_of_its_own(name: str) -> None:
    """A registration that would send prompts round in a circle is refused."""
    assert await judge(name, HERE) == "<itself>"


async def test_lists_admit_names_addresses_and_networks() -> None:
    """What the operator lists is admitted from any peer; nothing beside it."""
    allow = ["GPU1.example", "10.1.0.0/16", "fd00:1::/32", "203.0.113.7"]
    for name, expected in {
        "http://gpu1.example.:21002": "http://gpu1.example:21002",
        "https://gpu1.example": "https://gpu1.example",
        "http://10.1.200.3:1": "http://10.1.200.3:1",
        "http://[fd00:1::9]:1": "http://[fd00:1::9]:1",
        "http://203.0.113.7": "http://203.0.113.7",
        "http://10.2.0.1": "<not_allowed>",
        "http://gpu2.example": "<unresolved>",
        "http://sub.gpu1.example": "<unresolved>",
    }.items():
        assert await judge(name, OTHER, names(**{"gpu1.example": ["10.3.0.1"]}), allow=allow) == expected
    assert await judge("http://169.254.1.1", OTHER, allow=["0.0.0.0/0", "::/0"]) == "<never>"
    assert await judge("http://[64:ff9b::a9fe:1]", OTHER, allow=["0.0.0.0/0", "::/0"]) == "<never>"


@pytest.mark.parametrize("entry", ["metadata.google.internal", "10.0.0.0/33", "http://x", "a b", "", "x/y"])
def test_an_entry_that_cannot_be_meant_is_a_mistake(entry: str) -> None:
    """A list that would not do what it says is told at the start."""
    with pytest.raises(ValueError, match=entry or "''"):
        guard(allow=[entry])


async def test_a_name_is_used_as_what_it_was_when_it_was_judged() -> None:
    """A name that is not listed gives its address, so that what it means later moves no prompts."""
    assert await judge("http://gpu1:21002", OTHER, names(gpu1=["10.0.0.5"])) == "http://10.0.0.5:21002"
    answers = iter([["10.0.0.5"], ["169.254.169.254"]])

    async def changing(host: str) -> Sequence[str]:
        return next(answers)

    rules = guard()
    first, second = [await rules.admit("http://rebind.example:80", OTHER, changing) for _ in range(2)]
    assert first == Admission("http://10.0.0.5")
    assert isinstance(second, Rejection)
    assert second.reason == "never"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (["10.0.0.5", "10.0.0.6"], "<not_allowed>"),
        (["10.0.0.5", "169.254.0.1"], "<never>"),
        (["10.1.0.1", "10.0.0.5"], "http://10.0.0.5"),
        (["10.1.0.1", "10.1.0.2"], "http://10.1.0.1"),
        (["127.0.0.1"], "http://10.0.0.5"),
        (["fe80::1%eth0"], "<never>"),
        ([], "<unresolved>"),
        (["nonsense"], "<unresolved>"),
    ],
)
async def test_every_address_of_a_name_must_be_allowed(found: list[str], expected: str) -> None:
    """One address too many is enough to refuse a name; the peer's own comes first."""
    assert await judge("http://gpu:80", OTHER, names(gpu=found), allow=["10.1.0.0/16"]) == expected


HOSTS = st.one_of(
    st.ip_addresses().map(str),
    st.sampled_from(
        [
            "localhost",
            "0.0.0.0",
            "::1",
            "10.1.2.3",
            "10.2.3.4",
            "169.254.169.254",
            "evil.example",
            "metadata",
            "0x7f.1",
            "2852039166",
            "127.1",
            "gpu_1",
        ]
    ),
    st.text(max_size=20),
)
URLS = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP", "ftp", "javascript"]),
    HOSTS.map(lambda host: f"[{host}]" if ":" in host else host),
    st.sampled_from(["", ":80", ":21002", ":0", ":x"]),
    st.text(max_size=10) | st.sampled_from(["", "/", "/w", "?q", "@h"]),
)


@given(
    name=URLS | st.text(),
    peer=st.ip_addresses(v=4).map(str),
    answers=st.lists(st.ip_addresses().map(str), max_size=3),
    rewrite=st.booleans(),
)
async def test_whatever_is_posted_only_allowed_addresses_come_out(
    name: str, peer: str, answers: list[str], rewrite: bool
) -> None:
    """No input makes the guard fail, and what it admits is a plain base address of the peer or of the list."""

    async def look_up(host: str) -> Sequence[str]:
        return answers

    judged = await guard(allow=["10.1.0.0/16"], rewrite=rewrite).admit(name, Peer(peer), look_up)
    if isinstance(judged, Rejection):
        assert len(judged.text) < 700
        return
    parts = urlsplit(judged.address)
    address = read_ip(parts.hostname or "")
    assert address is not None
    assert not never(address)
    assert str(address) == peer or address in ipaddress.ip_network("10.1.0.0/16")
    assert parts.scheme in ("http", "https")
    assert not parts.username
    assert not parts.query
    again = await guard(allow=["10.1.0.0/16"], rewrite=rewrite).admit(judged.address, Peer(peer), look_up)
    assert again == Admission(judged.address), "an admitted address is admitted as it is"


def test_tokens() -> None:
    """Only the very token opens, in whichever place it came; without one in the settings everybody may."""
    assert same_token(None, [])
    assert same_token("secret-token", ["", "secret-token"])
    assert not same_token("secret-token", ["", "secret-tokeN", "secret-token ", "\udcff", "sécret"])
    assert not same_token("secret-token", [])
