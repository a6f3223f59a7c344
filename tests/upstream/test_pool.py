from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from pathlib import Path

import pytest
from aiohttp import web

from proxy.upstream import Exchange, Timeouts, UpstreamError, UpstreamPool
from tests.hostile import (
    Script,
    Visit,
    answer,
    chunked,
    flood,
    hang_up,
    head,
    peer,
    refusing_port,
    response,
    silent_after,
    unconnectable_port,
)
from tests.tls import self_signed, server_tls
from tests.upstream.conftest import assert_nothing_left
from tests.upstream.recorder import Recorder, fetch, start


def counters(pool: UpstreamPool) -> tuple[int, int, int]:
    return pool.opened, pool.reused, pool.retried_stale


# Reuse


async def test_a_connection_is_used_again(pool: UpstreamPool) -> None:
    """Requests one after the other share a connection, also with another base path."""
    async with peer(answer(chunked([b"a", b"b"]))) as worker:
        for url in (worker.url, worker.url + "/", worker.url + "/base"):
            assert (await fetch(pool, url)).body == b"ab"
        assert worker.accepted == 1
        assert [request.path for request in worker.requests] == ["/generate", "/generate", "/base/generate"]
    assert counters(pool) == (1, 2, 0)


async def test_concurrent_exchanges_have_a_connection_each(pool: UpstreamPool) -> None:
    """Exchanges never share a connection at the same time, and every one gets its own bytes."""

    async def echo(visit: Visit) -> None:
        while True:
            request = await visit.request()
            await visit.send(response(request.body * 100))

    async with peer(echo) as worker:
        sinks = await asyncio.gather(*(fetch(pool, worker, body=b"%04d" % n) for n in range(40)))
        assert [sink.body for sink in sinks] == [b"%04d" % n * 100 for n in range(40)]
        assert pool.open_now == pool.idle_now == 40


@pytest.mark.parametrize(
    "raw",
    [
        response(b"x", headers=["Connection: close"]),
        head(headers=["Content-Length: 1"], version="1.0") + b"x",
        response(b"x") + b"surplus",
    ],
    ids=["connection close", "http 1.0", "bytes after the end"],
)
async def test_a_connection_that_ends_with_its_response_is_not_kept(pool: UpstreamPool, raw: bytes) -> None:
    """The client closes it, although the worker leaves it open, and the next request gets a fresh one."""
    async with peer(answer(raw)) as worker:
        for _ in range(2):
            assert (await fetch(pool, worker)).body == b"x"
            assert pool.idle_now == 0
            await worker.until(lambda this: this.open == 0)
        assert worker.accepted == 2


async def test_the_answer_to_head_has_no_body(pool: UpstreamPool) -> None:
    """A HEAD request ends at the head, and the next request is not confused by it."""
    async with peer(answer(head(headers=["Content-Length: 5"])), answer(response(b"hello"))) as worker:
        sink = await fetch(pool, worker, method="HEAD", body=b"")
        assert sink.events == ["head", "end"]
        assert (await fetch(pool, worker)).body == b"hello"


async def test_idle_connections_are_closed_after_their_time() -> None:
    """The client closes first, before the worker's own keep-alive limit can hit a request."""
    pool = UpstreamPool(idle_seconds=0.05)
    async with peer(answer(response())) as worker:
        await fetch(pool, worker)
        assert (pool.open_now, pool.idle_now) == (1, 1)
        await worker.until(lambda this: this.open == 0, seconds=1)
        assert (pool.open_now, pool.idle_now) == (0, 0)
    await assert_nothing_left(pool)


async def test_each_idle_connection_has_its_own_time() -> None:
    """Those of one worker and of several are closed one after the other, the one that is used again later."""
    pool = UpstreamPool(idle_seconds=0.2)
    async with peer(answer(response(b"a"))) as one, peer(answer(response(b"a"))) as two:
        await fetch(pool, one)
        await asyncio.sleep(0.1)
        await asyncio.gather(fetch(pool, one), fetch(pool, one), fetch(pool, two))
        assert (pool.open_now, pool.idle_now, pool.opened) == (3, 3, 3)
        await asyncio.sleep(0.13)
        assert (pool.open_now, pool.idle_now) == (3, 3)  # the first one was used again meanwhile
        await one.until(lambda _: pool.open_now == 0)
        assert pool.idle_now == 0
    await pool.close()


async def test_idle_connections_are_limited_per_target_and_in_all() -> None:
    """What is above a limit is closed when its exchange ends."""
    pool = UpstreamPool(max_idle_per_target=2, max_idle=3)
    async with peer(answer(response())) as one, peer(answer(response())) as two:
        for worker, idle in ((one, 2), (two, 3)):
            await asyncio.gather(*(fetch(pool, worker) for _ in range(5)))
            assert pool.idle_now == idle
            await worker.until(lambda _: pool.open_now == pool.idle_now)
        await two.until(lambda this: this.open == 1)
    await assert_nothing_left(pool)


@pytest.mark.parametrize("unasked", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_a_worker_that_closes_or_talks_while_idle_loses_its_connection(
    pool: UpstreamPool, unasked: bytes
) -> None:
    """The connection leaves the pool at once, and what was said is not taken for the next answer."""

    async def once(visit: Visit) -> None:
        await visit.request()
        await visit.send(response(b"first"))
        if unasked:
            await asyncio.sleep(0.02)
            await visit.send(unasked)
            await visit.gone()

    async with peer(once, answer(response(b"second"))) as worker:
        assert (await fetch(pool, worker)).body == b"first"
        await worker.until(lambda _: pool.idle_now == 0)
        assert pool.open_now == 0
        assert (await fetch(pool, worker)).body == b"second"
    assert counters(pool) == (2, 0, 0)


# Stale connections


def answers_once(then: bytes = b"", *, reset: bool = False) -> Script:
    """Answer the first request, and at the second one send `then` and close."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response(b"first"))
        await visit.request()
        await visit.send(then)
        if reset:
            visit.reset()

    return script


@pytest.mark.parametrize("reset", [False, True])
async def test_a_stale_connection_is_replaced_unseen(pool: UpstreamPool, reset: bool) -> None:
    """A reused connection that dies before any byte of the answer costs one retry and no error."""
    async with peer(answers_once(reset=reset), answer(response(b"second"))) as worker:
        await fetch(pool, worker)
        sink = await fetch(pool, worker, body=b"important")
        assert (sink.body, sink.events) == (b"second", ["head", "data", "end"])
        assert [(request.connection, request.body) for request in worker.requests[1:]] == [
            (1, b"important"),
            (2, b"important"),
        ]
    assert counters(pool) == (2, 1, 1)


async def test_a_failed_write_on_a_stale_connection_is_retried(pool: UpstreamPool) -> None:
    """The worker reset the connection and the client has not noticed before it writes."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def serve() -> socket.socket:
            connection, _ = await loop.sock_accept(listener)
            await loop.sock_recv(connection, 65536)
            await loop.sock_sendall(connection, response(b"x"))
            return connection

        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        for expected in ((1, 0, 0), (2, 1, 1)):
            server = asyncio.ensure_future(serve())
            assert (await fetch(pool, url)).body == b"x"
            assert counters(pool) == expected
            connection = await server
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


async def test_the_retry_is_done_once(pool: UpstreamPool) -> None:
    """A fresh connection that dies too is an error, not a third attempt."""
    async with peer(answers_once(), hang_up) as worker:
        await fetch(pool, worker)
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder())
        assert (caught.value.kind, caught.value.begun, worker.accepted) == ("reset", False, 2)


async def test_nothing_is_retried_after_a_byte_of_the_answer(pool: UpstreamPool) -> None:
    """The worker has begun to act, so the request must not be sent twice."""
    async with peer(answers_once(b"H")) as worker:
        await fetch(pool, worker)
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder())
        assert (caught.value.kind, caught.value.begun, len(worker.requests)) == ("reset", True, 2)


async def test_a_connection_that_dies_later_was_not_stale(pool: UpstreamPool) -> None:
    """Without a byte of an answer too: the worker had the request for a while, and may have acted on it."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response())
        await visit.request()
        await asyncio.sleep(0.1)

    async with peer(script) as worker:
        await fetch(pool, worker)
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder())
        assert (caught.value.kind, caught.value.begun, len(worker.requests)) == ("reset", False, 2)
    assert counters(pool) == (1, 1, 0)


async def test_silence_on_a_reused_connection_is_not_retried(pool: UpstreamPool) -> None:
    """A timer that ends a request on a reused connection is an error: the worker may be at work."""

    async def script(visit: Visit) -> None:
        await visit.request()
        await visit.send(response())
        await silent_after()(visit)

    async with peer(script) as worker:
        await fetch(pool, worker)
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder(), timeouts=Timeouts(first=0.05))
        assert (caught.value.kind, len(worker.requests)) == ("first_timeout", 2)
    assert counters(pool) == (1, 1, 0)


# Connecting


async def test_a_refused_connection_names_the_address(pool: UpstreamPool) -> None:
    """Nobody listens: kind refused, at once, nothing begun."""
    with refusing_port() as port, pytest.raises(UpstreamError, match=f"127.0.0.1:{port}") as caught:
        await start(pool, f"http://127.0.0.1:{port}", Recorder())
    assert (caught.value.kind, caught.value.begun) == ("refused", False)


@pytest.mark.parametrize(
    ("timeouts", "kind", "words"),
    [
        (Timeouts(connect=0.05), "connect_timeout", "connect timeout: no connection to 127.0.0.1:{} within 0.05 s"),
        (Timeouts(total=0.05), "total_timeout", "total timeout: .* 127.0.0.1:{} was not over within 0.05 s"),
    ],
)
async def test_connecting_is_limited(pool: UpstreamPool, timeouts: Timeouts, kind: str, words: str) -> None:
    """A host that swallows packets ends by the connect timer, or by the total one when that is shorter."""
    with unconnectable_port() as port, pytest.raises(UpstreamError, match=words.format(port)) as caught:
        await start(pool, f"http://127.0.0.1:{port}", Recorder(), timeouts=timeouts)
    assert (caught.value.kind, caught.value.begun) == (kind, False)


async def test_cancelling_while_connecting_leaves_nothing(pool: UpstreamPool) -> None:
    """The attempt to connect ends with its caller."""
    with unconnectable_port() as port:
        task = asyncio.ensure_future(start(pool, f"http://127.0.0.1:{port}", Recorder()))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.01)
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("steps", range(8))
async def test_cancelling_at_any_moment_leaves_nothing(pool: UpstreamPool, steps: int) -> None:
    """Whichever loop iteration the cancellation falls into, the worker sees its connection closed."""
    async with peer(silent_after(head())) as worker:
        task = asyncio.ensure_future(start(pool, worker, Recorder()))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                assert isinstance(outcome, Exchange)
                outcome.close()
        await worker.until(lambda this: this.open == 0 and pool.open_now == 0)


async def test_a_peer_that_greets_first_is_no_http_server(pool: UpstreamPool) -> None:
    """A banner before the request is kind protocol."""

    async def greet(visit: Visit) -> None:
        await visit.send(b"220 mail.example ESMTP\r\n")
        await visit.gone()

    async with peer(greet) as worker:
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder())
        assert (caught.value.kind, caught.value.begun) == ("protocol", True)


async def test_ipv6_targets_work(pool: UpstreamPool) -> None:
    """A target in brackets is connected to, and its Host header has the brackets."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        async with peer(answer(response(b"six")), host="::1") as worker:
            assert (await fetch(pool, worker)).body == b"six"
            assert worker.requests[0].headers["host"] == f"[::1]:{worker.port}"
    except OSError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")


async def test_proxies_of_the_environment_are_not_used(pool: UpstreamPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts go to the worker and nowhere else."""
    with refusing_port() as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        async with peer(answer(response(b"direct"))) as worker:
            assert (await fetch(pool, worker)).body == b"direct"


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, made for this run."""
    return self_signed(tmp_path_factory.mktemp("tls"))


async def test_tls_is_spoken_and_the_certificate_verified(certificate: tuple[Path, Path]) -> None:
    """A trusted certificate works, with reuse and with pause; an unknown one is refused before anything is sent."""
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    body = b"secret" * 50_000
    async with peer(answer(chunked([body])), tls=server_tls(certificate)) as worker:
        pool = UpstreamPool(ssl_context=trusting)
        for _ in range(2):
            sink = Recorder()
            exchange = await start(pool, worker, sink)
            exchange.pause()
            await asyncio.sleep(0.01)
            exchange.resume()
            assert (await sink.finished()).body == body
        assert counters(pool) == (1, 1, 0)
        suspicious = UpstreamPool()
        with pytest.raises(UpstreamError, match="certificate") as caught:
            await start(suspicious, worker, Recorder())
        assert (caught.value.kind, len(worker.requests)) == ("refused", 2)
    await assert_nothing_left(pool)
    await assert_nothing_left(suspicious)


async def test_tls_to_a_plain_server_is_refused(pool: UpstreamPool) -> None:
    """A handshake that fails is a connection that could not be made."""
    async with peer(answer(response())) as worker:
        with pytest.raises(UpstreamError) as caught:
            await start(
                pool, worker.url.replace("http:", "https:"), Recorder(), timeouts=Timeouts(connect=0.3, total=5)
            )
        assert caught.value.kind in ("refused", "connect_timeout")


# Closing the pool


async def test_close_ends_every_exchange(pool: UpstreamPool) -> None:
    """Waiting, streaming and connecting exchanges all end with an error, and a later one is refused."""
    sink = Recorder()
    with unconnectable_port() as port:
        async with peer(silent_after()) as mute, peer(flood(head(), b"x" * 100)) as talking:
            waiting = asyncio.ensure_future(start(pool, mute, Recorder()))
            connecting = asyncio.ensure_future(start(pool, f"http://127.0.0.1:{port}", Recorder()))
            await start(pool, talking, sink)
            await mute.until(lambda this: len(this.requests) == 1)
            await pool.close()
            assert (pool.open_now, pool.idle_now) == (0, 0)
            await mute.until(lambda this: this.open == talking.open == 0)
        results = await asyncio.gather(waiting, connecting, return_exceptions=True)
    assert [getattr(result, "kind", result) for result in results] == ["reset", "refused"]
    assert sink.error is not None
    assert sink.error.kind == "reset"
    with pytest.raises(UpstreamError, match="closing") as caught:
        await start(pool, "http://127.0.0.1:1", Recorder())
    assert caught.value.kind == "refused"


@pytest.mark.parametrize("steps", range(8))
async def test_close_at_any_moment_leaves_nothing(pool: UpstreamPool, steps: int) -> None:
    """Whichever loop iteration the close falls into, the exchange under way ends with an error."""
    async with peer(silent_after()) as worker:
        task = asyncio.ensure_future(start(pool, worker, Recorder()))
        for _ in range(steps):
            await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(UpstreamError) as caught:
            await asyncio.wait_for(task, 2)
        assert caught.value.kind in ("refused", "reset")
        await worker.until(lambda this: this.open == 0 and pool.open_now == 0)


# A normal server


async def test_an_aiohttp_server_is_a_normal_peer(pool: UpstreamPool) -> None:
    """Stream, plain body, no content and HEAD from a real server, on one connection as far as HTTP allows."""

    async def stream(request: web.Request) -> web.StreamResponse:
        out = web.StreamResponse()
        await out.prepare(request)
        for number in range(50):
            await out.write(b"%d\0" % number)
        await out.write_eof(await request.read())
        return out

    async def plain(_: web.Request) -> web.Response:
        return web.json_response({"a": 1})

    async def nothing(_: web.Request) -> web.Response:
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/stream/generate", stream)
    app.router.add_get("/plain/generate", plain)
    app.router.add_post("/nothing/generate", nothing)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        for _ in range(3):
            streamed = await fetch(pool, url + "/stream", body=b"tail")
            assert streamed.body == b"".join(b"%d\0" % number for number in range(50)) + b"tail"
        assert (await fetch(pool, url + "/plain", method="GET", body=b"")).body == b'{"a": 1}'
        assert (await fetch(pool, url + "/nothing")).events == ["head", "end"]
        assert counters(pool) == (1, 4, 0)
        assert (await fetch(pool, url + "/plain", method="HEAD", body=b"")).events == ["head", "end"]
        missing = await fetch(pool, url + "/nowhere")
        assert missing.head is not None
        assert missing.head.status == 404
    finally:
        await pool.close()
        await runner.cleanup()
