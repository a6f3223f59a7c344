"""The fake worker and the load client on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from benchmarks.answers import MARK_BLANK, MODEL
from benchmarks.delays import all_delays
from benchmarks.fake_replies import Answer, Worker
from benchmarks.fake_worker import WorkerProtocol
from benchmarks.load_client import beginnings, percentile, run_load
from benchmarks.load_protocol import Load, Measured
from benchmarks.measure import LoadError, run_once
from benchmarks.process import CpuClock, Process, StartError, family, memory_bytes, started
from benchmarks.scenarios import Scenario
from benchmarks.subjects import Ask, Subject

CHUNKS = 5
INTERVAL = 0.002
BODY = orjson.dumps({"model": MODEL, "prompt": MARK_BLANK.decode()})
STREAM = "/worker_generate_stream"
needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="CPU time is read from /proc")


@contextlib.asynccontextmanager
async def _serving(worker: Worker) -> AsyncIterator[str]:
    """A fake worker in this process; after the block all its clients must be gone, and their streams with them."""
    server = await asyncio.get_running_loop().create_server(lambda: WorkerProtocol(worker), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for _ in range(200):
            if not worker.connections:
                break
            await asyncio.sleep(0.005)
        assert (worker.connections, worker.streams) == (0, 0)
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture
def worker() -> Worker:
    """A worker with frames 2 ms apart."""
    return Worker(Answer(CHUNKS, INTERVAL))


@pytest_asyncio.fixture
async def worker_url(worker: Worker) -> AsyncIterator[str]:
    async with _serving(worker) as url:
        yield url


async def _measured(
    url: str,
    *,
    body: bytes = BODY,
    form: str = "nul",
    chunks: int = CHUNKS,
    rounds: int = 1,
    timeout: float = 5,
    new: bool = False,
    read_rate: float = 0,
) -> Measured:
    load = Load(url, body, 3, chunks, INTERVAL, form, rounds, timeout=timeout, new_connections=new, read_rate=read_rate)
    measured = await run_load(load)
    measured.judge()
    return measured


@pytest.mark.parametrize("new", [False, True])
async def test_three_streams_of_five_chunks_come_back_byte_exact(worker_url: str, worker: Worker, new: bool) -> None:
    """Worker and client agree on every chunk and on when it was sent, with kept and with new connections."""
    measured = await _measured(worker_url + STREAM, rounds=2, new=new)
    assert (measured.complete, measured.failures) == (6, {})
    assert len(measured.first_byte) == len(measured.first_text) == 6
    delays = all_delays(measured.progress, worker.sent)
    assert len(delays) == 6 * (CHUNKS - 1)
    assert all(0 <= delay < 1 for delay in delays)


async def test_an_openai_stream_is_timed_like_any_other(worker_url: str, worker: Worker) -> None:
    """Incremental events are counted in the worker's chunks."""
    body = orjson.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "answer-@@@@@@@@"}]})
    measured = await _measured(worker_url + "/v1/chat/completions", body=body, form="sse")
    assert (measured.complete, measured.failures) == (3, {})
    assert len(all_delays(measured.progress, worker.sent)) == 3 * (CHUNKS - 1)


async def test_an_answer_other_than_the_expected_one_is_a_failure(worker_url: str) -> None:
    """A shorter answer than expected is not counted as complete."""
    measured = await _measured(worker_url + STREAM, chunks=CHUNKS + 1)
    assert (measured.complete, measured.progress) == (0, {})
    assert measured.failures == {"the text differs from the expected one": 3}


async def test_a_refused_path_and_a_closed_port_are_failures(worker_url: str) -> None:
    """Status and connect error are named."""
    assert (await _measured(worker_url + "/nowhere")).failures == {"status 404": 3}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        refused = await _measured(f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert [name.startswith("cannot connect") for name in refused.failures] == [True]


async def test_a_stream_that_stalls_is_given_up_in_time() -> None:
    """A load never outlasts its time limit, and leaves nothing open."""
    async with _serving(Worker(Answer(CHUNKS, 60))) as url:
        measured = await _measured(url + STREAM, timeout=0.2)
        assert measured.failures == {"not complete after 0.2 s": 3}


async def test_a_slow_reader_takes_its_time_and_loses_nothing() -> None:
    """The worker is held up by the reader, and the answer is whole in the end."""
    async with _serving(Worker(Answer(800, 0))) as url:
        begin = asyncio.get_running_loop().time()
        measured = await _measured(url + STREAM, chunks=800, read_rate=8e6)
        seconds = asyncio.get_running_loop().time() - begin
    assert (measured.complete, measured.failures) == (3, {})
    assert seconds > 0.8 * measured.bytes / 3 / 8e6


def test_streams_begin_spread_over_time_and_phase() -> None:
    """No two streams are in step unless that is asked for."""
    begins = beginnings(20, 0.02, 1.0)
    assert begins[0] == 0
    assert 0.9 < max(begins) < 1.02
    assert len({round(begin % 0.02, 4) for begin in begins}) > 15
    assert beginnings(3, 0.02, 0) == [0.0, 0.0, 0.0]


def test_percentiles_are_values_that_occurred() -> None:
    """Nearest rank; none of nothing."""
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([], 0.5) is None


@pytest.fixture
def worker_process(tmp_path: Path) -> Iterator[Process]:
    """A fake worker as the benchmark starts it."""
    with started("fake_worker", [sys.executable, "-m", "benchmarks.fake_worker", "--chunks", "5"], tmp_path) as process:
        yield process


def test_the_worker_answers_what_is_asked_of_it(worker_process: Process) -> None:
    """Every endpoint of a FastChat worker, its controller and an OpenAI server that a program here needs is there."""

    def ask(path: str, **body: object) -> dict[str, object]:
        with urllib.request.urlopen(url + path, data=orjson.dumps(body), timeout=5) as response:
            document: dict[str, object] = orjson.loads(response.read())
            return document

    url = worker_process.wait_for_address()
    assert ask("/worker_get_status") == {"model_names": [MODEL], "speed": 1, "queue_length": 0}
    assert ask("/count_token", prompt="three small words") == {"count": 3, "error_code": 0}
    assert ask("/model_details").keys() == {"context_length"}
    assert ask("/worker_generate")["finish_reason"] == "stop"
    assert ask("/list_models") == {"models": [MODEL]}
    assert ask("/get_worker_address", model=MODEL) == {"address": url}
    assert ask("/v1/chat/completions")["object"] == "chat.completion"
    conversation = ask("/worker_get_conv_template")["conv"]
    assert isinstance(conversation, dict)
    assert conversation["sep_style"] == 2
    vectors = ask("/worker_get_embeddings", input=["text 0", "text 1"])["embedding"]
    assert isinstance(vectors, list)
    assert [(len(vector), vector[0]) for vector in vectors] == [(1024, 0.5), (1024, 1.5)]
    data = ask("/v1/embeddings", input=["text 0", "text 1"])["data"]
    assert isinstance(data, list)
    assert [item["embedding"] for item in data] == vectors


SMALL = Scenario("small", "Small", "right", 3, CHUNKS, 1)


@needs_proc
def test_a_run_gives_the_figures_and_refuses_wrong_answers(worker_process: Process) -> None:
    """CPU and memory are those of the program named; a run whose answers are wrong gives no figures."""
    asks = {"right": Ask(STREAM, BODY), "wrong": Ask("/nowhere", b"{}")}
    url = worker_process.wait_for_address()
    subject = Subject("worker", url, worker_process, asks, family(worker_process.pid))
    figures = run_once(subject, worker_process, url, SMALL)
    assert figures["cpu_us"] > 0
    assert figures["memory_kb"] * 3000 == pytest.approx(memory_bytes(subject.pids), rel=0.2)
    assert figures["chunks_per_second"] == pytest.approx(figures["requests_per_second"] * CHUNKS)
    assert 0 <= figures["delay_ms_p50"] < 1000
    wrong = Scenario("small", "Small", "wrong", 3, CHUNKS, 1)
    with pytest.raises(LoadError, match=r"0 of 3 answers were right.*status 404"):
        run_once(subject, worker_process, url, wrong)


_BURN = """
import time
while time.process_time() < 0.3:
    pass
print("burnt", flush=True)
input()
"""
_PARENT = f"import subprocess, sys; input(); subprocess.run([sys.executable, '-c', {_BURN!r}])"


@needs_proc
def test_the_cpu_clock_sees_what_a_child_process_burns() -> None:
    """A program's CPU time includes its workers', as with nginx."""
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        clock = CpuClock(parent.pid)
        parent.stdin.write(b"begin\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"burnt\n"
        assert 0.29 <= clock.seconds() < 1
        assert len(family(parent.pid)) == 2
        parent.stdin.write(b"end\n")


def test_a_program_that_does_not_start_is_named_with_its_last_words(tmp_path: Path) -> None:
    """The reason for a skipped program is readable."""
    command = [sys.executable, "-c", "raise SystemExit('no such option')"]
    with (
        pytest.raises(StartError, match="broken ended with status 1: no such option"),
        started("broken", command, tmp_path) as process,
    ):
        process.wait_for_address()


@needs_proc
def test_a_program_that_is_stopped_leaves_no_child_behind(tmp_path: Path) -> None:
    """Also one that does not end its own children."""
    sleeping = "import time; time.sleep(60)"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeping!r}])"
    parent = f"{child}; print('listening x:1', flush=True); {sleeping}"
    with started("parent", [sys.executable, "-c", parent], tmp_path) as process:
        process.wait_for_address()
        pids = family(process.pid)
    assert len(pids) == 2
    end = time.monotonic() + 5
    # The system takes a moment to end what was killed.
    while any(_runs(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    assert [pid for pid in pids if _runs(pid)] == []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
