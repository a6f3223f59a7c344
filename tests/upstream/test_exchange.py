from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.upstream import Exchange, ResponseHead, Timeouts, UpstreamError, UpstreamPool
from tests.hostile import (
    Peer,
    Script,
    Visit,
    answer,
    chunked,
    close_after,
    dripping,
    flood,
    head,
    never_read,
    peer,
    reset_after,
    response,
    silent_after,
)
from tests.upstream.recorder import QUICK, Recorder, fetch, start

PIECES = [b"a", b"bc" * 700, b"\r\n0\r\n\r\n", b"d" * 70000]
WHOLE = b"".join(PIECES)


@contextlib.asynccontextmanager
async def faults() -> AsyncIterator[list[str]]:
    """What goes to the loop's exception handler, instead of to its log."""
    seen: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context["message"]))
    try:
        yield seen
    finally:
        loop.set_exception_handler(None)


@pytest.mark.parametrize(
    "script",
    [
        answer(response(WHOLE)),
        answer(chunked(PIECES)),
        answer(chunked(PIECES, extension=";a=b", trailers=["X-T: 1"])),
        answer(head("103 Early Hints") + chunked(PIECES)),
        dripping(chunked(PIECES), size=1777),
        close_after(head() + WHOLE),
        close_after(head(version="1.0") + WHOLE),
        close_after(response(WHOLE)),
    ],
    ids=["length", "chunked", "trailers", "interim", "split", "until close", "http 1.0", "close after length"],
)
async def test_a_body_is_pushed_exactly_and_ends_once(pool: UpstreamPool, script: Script) -> None:
    """The sink gets the head, the exact bytes, and one end, whatever the framing."""
    async with peer(script) as worker:
        sink = await fetch(pool, worker)
    assert sink.body == WHOLE
    assert (sink.events[0], sink.events[-1], sink.error) == ("head", "end", None)
    assert set(sink.events[1:-1]) == {"data"}


async def test_a_response_byte_by_byte_is_exact(pool: UpstreamPool) -> None:
    """A response that comes in reads of one byte is the same response."""
    async with peer(dripping(chunked([b"hello", b" ", b"world"], trailers=["X-T: 1"]))) as worker:
        sink = await fetch(pool, worker)
    assert (sink.body, sink.events[-1]) == (b"hello world", "end")


async def test_many_chunks_in_one_read_are_one_call(pool: UpstreamPool) -> None:
    """The sink is called once per socket read, not once per HTTP chunk."""
    async with peer(answer(head(headers=["Transfer-Encoding: chunked"]), b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")) as worker:
        sink = await fetch(pool, worker)
    assert sink.body == b"x" * 500
    assert sink.events.count("data") <= 3


async def test_the_request_arrives_as_it_was_given(pool: UpstreamPool) -> None:
    """The worker sees method, path, host with port, length and body, and no coding but identity is accepted."""
    async with peer(answer(response())) as worker:
        await fetch(pool, worker, body=b"x" * 300_000)
        request = worker.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/generate", b"x" * 300_000)
    assert request.headers == {
        "host": f"127.0.0.1:{worker.port}",
        "accept-encoding": "identity",
        "content-length": "300000",
    }


async def test_a_redirect_is_a_response_like_any_other(pool: UpstreamPool) -> None:
    """Redirects are not followed, so a worker cannot send the gateway elsewhere."""
    async with peer(answer(response(status="302 Found", headers=["Location: http://127.0.0.1:1/"]))) as worker:
        sink = await fetch(pool, worker)
        assert sink.head is not None
        assert (sink.head.status, len(worker.requests)) == (302, 1)


CUT_HEADS = [(b"", "reset"), (b"HTTP/1.1 200 OK\r\nContent-", "reset")]
BAD_HEADS = [
    (b"SSH-2.0-OpenSSH\r\n", "protocol"),
    (head("101 Switching Protocols"), "protocol"),
    (head(headers=["X: " + "a" * 70000]), "too_large"),
    (head(headers=["X: a"] * 101), "too_large"),
]


@pytest.mark.parametrize(
    ("script", "kind", "begun"),
    [
        *((finish(data), kind, data != b"") for finish in (close_after, reset_after) for data, kind in CUT_HEADS),
        *(
            (finish(data), kind, True)
            for finish in (close_after, reset_after, silent_after)
            for data, kind in BAD_HEADS
        ),
    ],
)
async def test_a_failure_before_the_head_is_raised(pool: UpstreamPool, script: Script, kind: str, begun: bool) -> None:
    """`open` raises with kind, address and whether bytes had come; the sink hears nothing; nothing is sent again."""
    sink = Recorder()
    async with peer(script) as worker:
        with pytest.raises(UpstreamError, match=f"127.0.0.1:{worker.port}") as caught:
            await start(pool, worker, sink)
        assert (caught.value.kind, caught.value.begun) == (kind, begun)
        assert len(worker.requests) == 1
    assert (sink.events, pool.retried_stale) == ([], 0)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (head(headers=["Content-Length: 9"]) + b"short", "reset"),
        (chunked([b"short"], end=False), "reset"),
        (chunked([b"short"], end=False) + b"0\r\n", "reset"),
        (chunked([b"short"], end=False) + b"what?\r\n", "protocol"),
        (chunked([b"short"], end=False) + b"0\r\nX: " + b"x" * 1_000_000, "too_large"),
    ],
    ids=["length", "no last chunk", "half a last chunk", "broken chunk", "endless trailer"],
)
@pytest.mark.parametrize("finish", [close_after, reset_after])
async def test_a_body_cut_short_is_an_error(
    pool: UpstreamPool, data: bytes, kind: str, finish: Callable[[bytes], Script]
) -> None:
    """What came is delivered, then one error that says bytes had come; never an end."""
    async with peer(finish(data)) as worker:
        sink = await fetch(pool, worker)
    assert sink.error is not None
    assert (sink.body, sink.events[0], sink.events[-1]) == (b"short", "head", "error")
    assert (sink.error.kind, sink.error.begun) == (kind, True)
    assert f"127.0.0.1:{worker.port}" in str(sink.error)


async def test_a_reset_does_not_end_a_body_without_length(pool: UpstreamPool) -> None:
    """A body that lasts until the connection closes ends by an orderly close only."""
    async with peer(reset_after(head() + b"part")) as worker:
        sink = await fetch(pool, worker)
    assert sink.error is not None
    assert (sink.body, sink.error.kind) == (b"part", "reset")


async def test_an_early_answer_closes_the_connection(pool: UpstreamPool) -> None:
    """A worker that answers before it has read the request gets no second request on that connection."""

    async def impatient(visit: Visit) -> None:
        await visit.read(1000)
        await visit.send(response(b"too much", status="413 Too Large"))
        await visit.gone()

    async def deaf(visit: Visit) -> None:
        await visit.read(1000)
        await visit.send(response(b"too much", status="413 Too Large"))
        await never_read(visit)

    for script in (impatient, deaf):
        async with peer(script) as worker:
            sink = Recorder()
            await start(pool, worker, sink, body=b"x" * 30_000_000)
            await sink.finished()
            assert sink.body == b"too much"
            assert pool.idle_now == 0


# Timers


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 ", head(headers=["Content-Length: 5"])])
async def test_the_first_timer_runs_until_the_first_body_byte(pool: UpstreamPool, data: bytes) -> None:
    """Silence, or a head without a body, ends after `first` seconds, and the message says so."""
    sink = Recorder()
    begun = asyncio.get_running_loop().time()
    async with peer(silent_after(data)) as worker:
        error: UpstreamError | None
        try:
            await start(pool, worker, sink, timeouts=Timeouts(first=0.05, idle=9))
            error = (await sink.finished()).error
        except UpstreamError as raised:
            error = raised
        await worker.until(lambda this: this.open == 0)
    assert error is not None
    assert (error.kind, error.begun) == ("first_timeout", bool(data))
    assert "first timeout" in str(error)
    assert f"127.0.0.1:{worker.port} within 0.05 s" in str(error)
    assert 0.04 < asyncio.get_running_loop().time() - begun < 2


async def test_what_is_no_beginning_does_not_end_the_first_timer(pool: UpstreamPool) -> None:
    """Bytes with which the sink says that nothing has begun count for nothing."""
    sink = Recorder()
    sink.begun = False
    data = head(headers=["Content-Length: 99"]) + b"\n" * 20
    begun = asyncio.get_running_loop().time()
    async with peer(dripping(data, size=1 + len(data) // 12, pause=0.02)) as worker:
        await start(pool, worker, sink, timeouts=Timeouts(first=0.2, idle=9))
        await sink.finished()
        lasted = asyncio.get_running_loop().time() - begun
    assert sink.error is not None
    assert (sink.error.kind, sink.error.begun) == ("first_timeout", True)
    assert 0.19 < lasted < 2


async def test_time_that_is_spent_already_counts(pool: UpstreamPool) -> None:
    """`total` is what several exchanges may take together, and the message says so."""
    begun = asyncio.get_running_loop().time()
    async with peer(silent_after()) as worker:
        with pytest.raises(UpstreamError, match=r"not over within 0.5 s, of which 0.4 s were over before") as caught:
            await start(pool, worker, Recorder(), timeouts=Timeouts(total=0.5, spent=0.4))
    assert caught.value.kind == "total_timeout"
    assert 0.09 < asyncio.get_running_loop().time() - begun < 0.4


async def test_the_idle_timer_runs_between_reads(pool: UpstreamPool) -> None:
    """A stream that keeps coming outlives the idle limit; one that stops does not."""
    sink = Recorder()
    data = head(headers=["Content-Length: 99"]) + b"x" * 20
    async with peer(dripping(data, size=1 + len(data) // 12, pause=0.02)) as worker:
        begun = asyncio.get_running_loop().time()
        await start(pool, worker, sink, timeouts=Timeouts(idle=0.1))
        await sink.finished()
        lasted = asyncio.get_running_loop().time() - begun
        await worker.until(lambda this: this.open == 0)
    assert sink.error is not None
    assert (sink.error.kind, sink.error.begun, sink.body) == ("idle_timeout", True, b"x" * 20)
    assert f"idle timeout: nothing came from 127.0.0.1:{worker.port} for 0.1 s" in str(sink.error)
    assert lasted > 0.25


async def test_the_total_timer_ends_a_stream_that_never_stops(pool: UpstreamPool) -> None:
    """`total` holds although bytes keep coming."""
    sink = Recorder()
    stream = chunked([b"x"] * 500)
    async with peer(dripping(stream, size=6, pause=0.01)) as worker:
        await start(pool, worker, sink, timeouts=Timeouts(total=0.15, idle=1))
        await sink.finished()
    assert sink.error is not None
    assert sink.error.kind == "total_timeout"
    assert "total timeout" in str(sink.error)
    assert f"127.0.0.1:{worker.port} was not over within 0.15 s" in str(sink.error)


async def test_a_worker_that_never_reads_runs_into_the_first_timer(pool: UpstreamPool) -> None:
    """A request that cannot be written ends by the timer and leaves no connection."""
    async with peer(never_read) as worker:
        with pytest.raises(UpstreamError) as caught:
            await start(pool, worker, Recorder(), body=b"x" * 20_000_000, timeouts=Timeouts(first=0.1))
        assert caught.value.kind == "first_timeout"


async def begin_and_pause(pool: UpstreamPool, worker: Peer, limits: Timeouts) -> tuple[Recorder, Exchange]:
    """An exchange that has its first body byte and was then paused for longer than its idle limit."""
    sink = Recorder()
    exchange = await start(pool, worker, sink, timeouts=limits)
    await worker.until(lambda _: sink.body == b"x")
    exchange.pause()
    await asyncio.sleep(2 * limits.idle)
    assert sink.error is None
    return sink, exchange


async def test_a_pause_suspends_the_idle_timer(pool: UpstreamPool) -> None:
    """While the caller holds the stream the worker is not to blame; after resume it has the whole limit again."""
    loop = asyncio.get_running_loop()
    async with peer(silent_after(head(headers=["Content-Length: 9"]) + b"x")) as worker:
        sink, exchange = await begin_and_pause(pool, worker, Timeouts(first=0.1, idle=0.1))
        resumed = loop.time()
        exchange.resume()
        await sink.finished()
    assert sink.error is not None
    assert sink.error.kind == "idle_timeout"
    assert loop.time() - resumed > 0.09


async def test_a_pause_does_not_suspend_the_total_timer(pool: UpstreamPool) -> None:
    """A caller that never resumes does not hold a worker for ever."""
    async with peer(silent_after(head(headers=["Content-Length: 9"]) + b"x")) as worker:
        sink, _ = await begin_and_pause(pool, worker, Timeouts(idle=0.05, total=0.3))
        await sink.finished()
    assert sink.error is not None
    assert sink.error.kind == "total_timeout"


# Flow control and closing


async def test_a_paused_stream_holds_the_worker_back(pool: UpstreamPool) -> None:
    """A slow consumer bounds what the worker can send; after resume the stream goes on, exact."""
    piece = bytes(range(256)) * 256
    async with peer(flood(head(), piece)) as worker:
        sink = Recorder()
        exchange = await start(pool, worker, sink)
        exchange.pause()
        held = len(sink.body)
        at_rest = -1
        while at_rest != worker.sent:
            at_rest = worker.sent
            await asyncio.sleep(0.1)
        assert len(sink.body) == held
        assert at_rest < 16_000_000, "more than the buffers of the system can hold"
        exchange.resume()
        await worker.until(lambda this: this.sent > at_rest + 4_000_000)
        exchange.close()
        await worker.until(lambda this: this.open == 0)
    body = sink.body
    assert body == (piece * (1 + len(body) // len(piece)))[: len(body)]
    assert sink.events[-1] == "data"


async def test_pausing_in_on_data_stops_at_that_read(pool: UpstreamPool) -> None:
    """A sink may pause from inside on_data; nothing more is delivered until resume, even the end."""
    async with peer(dripping(response(b"0123456789"), size=5, pause=0.002)) as worker:
        sink = Recorder()
        exchange = await start(pool, worker, sink)
        sink.when_data = lambda _: exchange.pause()
        for _ in range(20):
            before = len(sink.pieces)
            await asyncio.sleep(0.01)
            assert len(sink.pieces) <= before + 1
            if sink.over.done():
                break
            exchange.resume()
        assert (sink.body, sink.events[-1]) == (b"0123456789", "end")


async def test_a_connection_paused_at_its_end_is_used_again(pool: UpstreamPool) -> None:
    """The next request on a connection whose last exchange was paused is read normally."""
    async with peer(answer(head(headers=["Content-Length: 3"]), b"one")) as worker:
        sink = Recorder()
        exchange = await start(pool, worker, sink)
        if not sink.pieces:
            sink.when_data = lambda _: exchange.pause()
        await sink.finished()
        exchange.pause()
        exchange.resume()
        assert (await fetch(pool, worker)).body == b"one"
        assert pool.opened == 1


async def test_close_drops_the_connection_and_silences_the_sink(pool: UpstreamPool) -> None:
    """The worker sees the close at once, twice is once, and no call comes after it."""
    async with peer(flood(head(), b"x" * 1000)) as worker:
        sink = Recorder()
        exchange = await start(pool, worker, sink)
        await worker.until(lambda _: len(sink.pieces) > 3)
        exchange.close()
        exchange.close()
        exchange.pause()
        exchange.resume()
        seen = list(sink.events)
        await worker.until(lambda this: this.open == 0, seconds=1)
        assert sink.events == seen
        assert set(seen) == {"head", "data"}


async def test_closing_inside_on_data_is_the_last_call(pool: UpstreamPool) -> None:
    """A sink that closes from inside on_data hears no end, although the same read held it."""
    async with peer(dripping(response(b"x" * 50_000), size=25_100, pause=0.02)) as worker:
        sink = Recorder()
        exchange = await start(pool, worker, sink)
        sink.when_data = lambda _: exchange.close()
        await worker.until(lambda this: this.open == 0)
    assert "end" not in sink.events
    assert "error" not in sink.events


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\n"])
async def test_cancelling_open_closes_the_connection(pool: UpstreamPool, data: bytes) -> None:
    """A caller that leaves while it waits for the head leaves no connection behind."""
    async with peer(silent_after(data)) as worker:
        sink = Recorder()
        task = asyncio.ensure_future(start(pool, worker, sink))
        await worker.until(lambda this: len(this.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await worker.until(lambda this: this.open == 0, seconds=1)
    assert sink.events == []


# Faults of the sink


@pytest.mark.parametrize("method", ["on_head", "on_data"])
async def test_a_sink_that_raises_gets_one_error_and_the_loop_is_told(
    pool: UpstreamPool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is closed, on_error carries the exception as its cause, and the loop's handler has it too."""

    def broken(_: object) -> None:
        raise ZeroDivisionError("broken sink")

    sink = Recorder()
    monkeypatch.setattr(sink, method, broken)
    async with peer(answer(response(b"x"))) as worker, faults() as seen:
        await start(pool, worker, sink)
        await sink.finished()
        await worker.until(lambda this: this.open == 0)
    assert sink.error is not None
    assert sink.error.kind == "protocol"
    assert isinstance(sink.error.__cause__, ZeroDivisionError)
    assert sink.events[-1] == "error"
    assert [message for message in seen if method in message] == seen != []
    assert pool.idle_now == 0


@pytest.mark.parametrize(("raw", "method"), [(response(b"x"), "on_end"), (head() + b"x", "on_error")])
async def test_a_sink_that_raises_at_the_end_is_reported_to_the_loop(
    pool: UpstreamPool, raw: bytes, method: str
) -> None:
    """The exchange is over already, so the loop's exception handler is told and nothing else happens."""

    class Broken(Recorder):
        def on_end(self) -> None:
            super().on_end()
            raise ZeroDivisionError

        def on_error(self, error: UpstreamError) -> None:
            super().on_error(error)
            raise ZeroDivisionError

    sink = Broken()
    async with peer(answer(raw) if method == "on_end" else reset_after(raw)) as worker, faults() as seen:
        await start(pool, worker, sink)
        await sink.finished()
        assert (await fetch(pool, worker)).head is not None
    assert len(seen) == 1
    assert method in seen[0]
    assert sink.events[-1] == method[3:]


async def test_a_sink_may_begin_the_next_exchange_in_on_end(pool: UpstreamPool) -> None:
    """When on_end is called the connection is already back in the pool."""
    idle: list[int] = []

    class Watching(Recorder):
        def on_end(self) -> None:
            idle.append(pool.idle_now)
            super().on_end()

    async with peer(answer(response(b"x"))) as worker:
        sink = Watching()
        await start(pool, worker, sink, timeouts=QUICK)
        await sink.finished()
    assert idle == [1]
    assert isinstance(sink.head, ResponseHead)


async def test_a_flood_leaves_others_their_turn(pool: UpstreamPool) -> None:
    """Between two full reads from one worker everything else that is due runs."""
    waiting = 24 * 1024 * 1024
    async with peer(close_after(response(bytes(waiting)))) as worker:
        sink = Recorder()
        turns = 0
        in_one_turn = most = 0

        def tick() -> None:
            nonlocal turns, in_one_turn
            turns, in_one_turn = turns + 1, 0
            if not sink.over.done():
                asyncio.get_running_loop().call_soon(tick)

        def count(data: bytes) -> None:
            nonlocal in_one_turn, most
            time.sleep(0.002)  # slower than the worker, so that each read finds the socket full
            in_one_turn += 1
            most = max(most, in_one_turn)

        sink.when_data = count
        tick()
        await start(pool, worker, sink)
        await sink.finished()
    assert len(sink.body) == waiting
    assert most <= 2
