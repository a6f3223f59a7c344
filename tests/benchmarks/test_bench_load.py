"""The fake worker and the load client on real sockets, and the commands around them."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import orjson
import pytest
import pytest_asyncio

from benchmarks import run as bench
from benchmarks.answers import MODEL
from benchmarks.fake_worker import Answer, Worker, WorkerProtocol
from benchmarks.load_client import Load, Measured, beginnings, percentile, run_load
from benchmarks.measure import LoadError, Scenario, run_once
from benchmarks.process import CpuClock, Process, StartError, started
from benchmarks.subjects import Ask, Subject

CHUNKS = 5
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


@pytest_asyncio.fixture
async def worker_url() -> AsyncIterator[str]:
    """A worker with frames 2 ms apart."""
    async with _serving(Worker(Answer(CHUNKS, 0.002))) as url:
        yield url


def _load(url: str, *, chunks: int = CHUNKS, rounds: int = 1, timeout: float = 5, new: bool = False) -> Load:
    return Load(url, b"{}", 3, chunks, 0.002, rounds=rounds, timeout=timeout, new_connections=new)


@pytest.mark.parametrize("new", [False, True])
async def test_three_streams_of_five_chunks_come_back_byte_exact(worker_url: str, new: bool) -> None:
    """Worker and client agree on every chunk, with kept and with new connections."""
    measured = await run_load(_load(worker_url + "/worker_generate_stream", rounds=2, new=new))
    assert (measured.complete, measured.failures) == (6, {})
    assert measured.chunks == len(measured.delays) == 6 * CHUNKS
    assert len(measured.first_byte) == 6
    assert max(measured.delays) < 1


async def test_an_answer_other_than_the_expected_one_is_a_failure(worker_url: str) -> None:
    """A shorter answer than expected is not counted as complete."""
    measured = await run_load(_load(worker_url + "/worker_generate_stream", chunks=CHUNKS + 1))
    assert (measured.complete, sum(measured.failures.values())) == (0, 3)


async def test_a_refused_path_and_a_closed_port_are_failures(worker_url: str) -> None:
    """Status and connect error are named."""
    assert (await run_load(_load(worker_url + "/nowhere"))).failures == {"status 404": 3}
    refused = await run_load(_load("http://127.0.0.1:9"))
    assert [name.startswith("cannot connect") for name in refused.failures] == [True]


async def test_a_stream_that_stalls_is_given_up_in_time() -> None:
    """A load never outlasts its time limit, and leaves nothing open."""
    async with _serving(Worker(Answer(CHUNKS, 60))) as url:
        measured = await run_load(_load(url + "/worker_generate_stream", timeout=0.2))
        assert measured.failures == {"not complete after 0.2 s": 3}


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
    assert Measured().chunks == 0


@pytest.fixture
def worker_process(tmp_path: Path) -> Iterator[Process]:
    """A fake worker as the benchmark starts it."""
    command = [sys.executable, "-m", "benchmarks.fake_worker", "--chunks", "5", "--interval", "1"]
    with started("fake_worker", command, tmp_path) as process:
        yield process


def test_the_worker_answers_what_a_gateway_asks(worker_process: Process) -> None:
    """Every endpoint of a FastChat worker is there, in FastChat's shapes."""

    def ask(path: str, **body: object) -> dict[str, object]:
        with urllib.request.urlopen(url + path, data=orjson.dumps(body), timeout=5) as response:
            document: dict[str, object] = orjson.loads(response.read())
            return document

    url = worker_process.wait_for_address()
    assert ask("/worker_get_status") == {"model_names": [MODEL], "speed": 1, "queue_length": 0}
    assert ask("/count_token", prompt="three small words") == {"count": 3, "error_code": 0}
    assert ask("/model_details").keys() == {"context_length"}
    assert ask("/worker_generate")["finish_reason"] == "stop"
    conversation = ask("/worker_get_conv_template")["conv"]
    assert isinstance(conversation, dict)
    assert conversation["sep_style"] == 2
    vectors = ask("/worker_get_embeddings", input=["a", "b"])["embedding"]
    assert isinstance(vectors, list)
    assert [len(vector) for vector in vectors] == [1024, 1024]


@needs_proc
def test_a_run_gives_the_figures_and_refuses_wrong_answers(worker_process: Process) -> None:
    """CPU is that of the program named; a run whose answers are wrong gives no figures."""
    asks = {"right": Ask("/worker_generate_stream", b"{}"), "wrong": Ask("/nowhere", b"{}")}
    subject = Subject("worker", worker_process.wait_for_address(), worker_process, asks)
    figures = run_once(subject, worker_process, Scenario("small", "right", 3, CHUNKS, 1))
    assert figures["cpu_us"] > 0
    assert figures["chunks_per_second"] > 0
    assert figures["delay_ms_p50"] < 1000
    with pytest.raises(LoadError, match=r"0 of 3 answers were right.*status 404"):
        run_once(subject, worker_process, Scenario("small", "wrong", 3, CHUNKS, 1))


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
def test_the_command_measures_and_writes_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One small run gives a table in which each program stands beside the other, and the same as JSON."""
    file = tmp_path / "results.json"
    small = ["--streams", "3", "--chunks", "5", "--interval", "1", "--repeats", "2"]
    assert bench.main([*small, "--only", "direct,relay", "--json", str(file)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| direct", "| relay"))]
    assert len(rows) == 2
    programs = orjson.loads(file.read_bytes())["results"][0]["programs"]
    assert len(programs["relay"]["runs"]) == 2
    assert programs["relay"]["figures"]["cpu_us"]["median"] > 0


@pytest.mark.parametrize("arguments", [["--streams", "0"], ["--only", "direct,apache"], ["--repeats", "many"]])
def test_a_wrong_argument_is_refused_with_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The option is named and the status is 2."""
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err
