"""Recordings are made when an operator asks for one, and end: after their time, their requests, their bytes."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from proxy.recording import recorder as recorders
from proxy.recording.recorder import Recorder, Recording, RecordingRefused, Wanted, wanted
from proxy.recording.tape import Said, Tape
from proxy.types import Json, JsonObject

ASKED = Wanted(60.0, 10, "r.jsonl", redact=False)


def recorder(folder: Path | None) -> Recorder:
    return Recorder(lambda: folder, lambda: ["user"], lambda: ["x-trace"], "1.2")


def claimed(recording: Recording | None, size: int = 10) -> Tape | None:
    assert recording is not None
    scope: JsonObject = {
        "body": {"text": "Hello"},
        "headers": {"cookie": "c", "x-trace": "t"},
        "query": {"api_key": "k", "said": "Hello"},
    }
    return recording.begin("POST", "/chat", scope, size, "sample/chat")


def keep(recording: Recording | None, size: int = 10) -> Tape:
    """One request from its beginning to its end."""
    tape = claimed(recording, size)
    assert tape is not None
    assert recording is not None
    tape.over("ok", None, 0.1, complete=True)
    recording.keep(tape)
    return tape


def lines(folder: Path) -> list[JsonObject]:
    return [json.loads(line) for line in (folder / "r.jsonl").read_text().splitlines()]


async def ended(made: Recorder) -> JsonObject:
    """The recording that ended by itself, once it is written."""
    for _ in range(500):
        found = made.state()["last"]
        if isinstance(found, dict):
            return found
        await asyncio.sleep(0.01)
    raise AssertionError(made.state())


async def test_a_recording_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    """In a file that only its owner can read; while one is made there is no second."""
    made = recorder(tmp_path / "new")
    assert made.state() == {"now": None, "last": None}
    begun = await made.begin(ASKED)
    assert (begun["file"], begun["ended"]) == (str(tmp_path / "new" / "r.jsonl"), None)
    with pytest.raises(RecordingRefused, match="a recording is being made"):
        await made.begin(ASKED)
    keep(made.now)
    told = await made.end("an operator ended it")
    assert told is not None
    assert (told["kept"], told["left_out"], told["ended"]) == (1, 0, "an operator ended it")
    head, request, end = lines(tmp_path / "new")
    assert (head["recording"], head["gateway"], head["redacted"]) == (1, "1.2", False)
    assert (request["method"], request["body"], request["outcome"]) == ("POST", {"text": "Hello"}, "ok")
    assert (end["requests"], end["left_out"], end["why"]) == (1, 0, "an operator ended it")
    assert stat.S_IMODE((tmp_path / "new" / "r.jsonl").stat().st_mode) == 0o600
    assert await made.end("again") is None


async def test_secrets_stay_out(tmp_path: Path) -> None:
    """Keys of workers, of clients, cookies, what stands in a query; a header that rules read is no secret."""
    made = recorder(tmp_path)
    await made.begin(ASKED)
    tape = claimed(made.now)
    assert tape is not None
    assert made.now is not None
    part = tape.part(0)
    part.tried({"model": "m", "key": "SECRET"})
    part.sent("POST", "/generate", {"Authorization": "Bearer SECRET"}, {"api_key": "SECRET", "prompt": "Hi"}, 9, None)
    tape.over("ok", None, 0.1, complete=True)
    made.now.keep(tape)
    await made.end("enough")
    text = (tmp_path / "r.jsonl").read_text()
    assert "SECRET" not in text
    scope = lines(tmp_path)[1]["scope"]
    assert isinstance(scope, dict)
    assert scope["headers"] == {"cookie": "redacted", "x-trace": "t"}
    assert scope["query"] == {"api_key": "redacted", "said": "Hello"}


async def test_texts_are_replaced_where_it_is_wanted(tmp_path: Path) -> None:
    """Those of the request, of what is sent, said and told, and of errors; the words that stay are in the head."""
    made = recorder(tmp_path)
    await made.begin(ASKED._replace(redact=True))
    tape = claimed(made.now)
    assert tape is not None
    assert made.now is not None
    part = tape.part(0)
    part.tried({"model": "user"})
    part.asked("count", "/count", {"prompt": "Hello"}, {"text": "Hello"})
    exchange = part.sent("POST", "/generate", {}, {"prompt": "Hello", "role": "user"}, 9, None)
    exchange.said.add(b'{"text": "Hello"}')
    told = Said(None)
    told.add(b"Hello, this is no JSON")
    tape.answered(200, "text/plain", told)
    tape.over("ok", None, 0.1, complete=True)
    made.now.keep(tape)
    await made.end("enough")
    text = (tmp_path / "r.jsonl").read_text()
    assert "Hello" not in text
    assert text.count("Xxxxx") == 6
    assert lines(tmp_path)[0]["words"] == ["user"]
    assert '"role":"user"' in text


async def test_it_ends_after_as_many_requests_as_were_wanted(tmp_path: Path) -> None:
    """Those that were begun and are under way are left out, and counted."""
    made = recorder(tmp_path)
    await made.begin(ASKED._replace(requests=2))
    recording = made.now
    assert recording is not None
    keep(recording)
    late = claimed(recording)
    assert late is not None
    assert claimed(recording) is None
    recording.keep(late)
    recording.keep(late)
    told = await ended(made)
    assert (told["kept"], told["ended"]) == (2, "it has as many requests as were wanted")
    assert len(lines(tmp_path)) == 4
    assert made.now is None


async def test_it_ends_after_its_time(tmp_path: Path) -> None:
    """Whatever came until then; what is under way then is left out."""
    made = recorder(tmp_path)
    await made.begin(ASKED._replace(seconds=0.05))
    claimed(made.now)
    told = await ended(made)
    assert (told["kept"], told["left_out"], told["ended"]) == (0, 1, "its time is over")


async def test_it_ends_when_it_is_large_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording never fills a disk."""
    monkeypatch.setattr(recorders, "RECORDING_MAX_BYTES", 1_000)
    made = recorder(tmp_path)
    await made.begin(ASKED)
    while made.now is not None and not made.now.why:
        keep(made.now)
        await asyncio.sleep(0.01)
    told = await ended(made)
    assert told["ended"] == "it has 1000 bytes, as many as a recording may have"
    assert 0 < int(str(told["kept"])) < 10


async def test_what_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge request, and those that the disk is too slow for; they do not count as recorded."""
    monkeypatch.setattr(recorders, "RECORDED_REQUEST_MAX_BYTES", 100)
    made = recorder(tmp_path)
    await made.begin(ASKED)
    keep(made.now, size=101)
    keep(made.now, size=99)
    told = await made.end("enough")
    assert told is not None
    assert (told["kept"], told["left_out"]) == (1, 1)
    monkeypatch.setattr(recorders, "RECORDING_WAITING_BYTES", 150)
    await made.begin(ASKED._replace(file="s.jsonl"))
    for _ in range(3):
        keep(made.now, size=90)
    told = await made.end("enough")
    assert told is not None
    assert (told["kept"], told["left_out"]) == (1, 2)


async def test_requests_under_way_hold_so_much_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would make it more is left out and holds nothing; those that end make room, and so does the end."""
    monkeypatch.setattr(recorders, "RECORDING_UNDER_WAY_BYTES", 25)
    made = recorder(tmp_path)
    await made.begin(ASKED)
    recording = made.now
    assert recording is not None
    tapes = [claimed(recording) for _ in range(4)]
    for tape in tapes[:3]:
        assert tape is not None
        said = tape.said(None)
        said.add(b"{}" * 5)
        tape.answered(200, "application/json", said)
    for tape in tapes[:3]:
        assert tape is not None
        tape.over("ok", None, 0.1, complete=True)
        recording.keep(tape)
    last = tapes[3]
    assert last is not None
    part = last.part(0)
    part.tried({"model": "m"})
    assert part.sent("POST", "/generate", {}, {"prompt": "Hello"}, 20, None).body
    assert not last.lost
    told = await made.end("enough")
    assert told is not None
    assert (told["kept"], told["left_out"]) == (2, 2)
    last.said(None).add(b"{}")
    assert last.lost


async def test_a_request_nested_too_deep_to_be_written(tmp_path: Path) -> None:
    """It is left out, and the others are not."""
    made = recorder(tmp_path)
    await made.begin(ASKED)
    assert made.now is not None
    deep: Json = []
    for _ in range(400):
        deep = [deep]
    tape = made.now.begin("POST", "/chat", {"body": deep}, 10, "sample/chat")
    assert tape is not None
    made.now.keep(tape)
    keep(made.now)
    told = await made.end("enough")
    assert told is not None
    assert (told["kept"], told["left_out"]) == (1, 1)
    assert [line.get("method") for line in lines(tmp_path)] == [None, "POST", None]


async def test_where_nothing_can_be_recorded(tmp_path: Path) -> None:
    """Without a folder in the settings, over a file that is there, in a place that is no folder."""
    with pytest.raises(RecordingRefused, match="no recordings are made here: 'recordings' in the settings"):
        await recorder(None).begin(ASKED)
    (tmp_path / "r.jsonl").write_text("mine")
    with pytest.raises(RecordingRefused, match=r"r\.jsonl: File exists"):
        await recorder(tmp_path).begin(ASKED)
    assert (tmp_path / "r.jsonl").read_text() == "mine"
    made = recorder(tmp_path / "r.jsonl")
    with pytest.raises(RecordingRefused, match=r"Not a directory|File exists"):
        await made.begin(ASKED)
    assert made.state() == {"now": None, "last": None}


async def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recording ends with the reason; requests go on."""

    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorders, "_opened", lambda _: Full())
    made = recorder(tmp_path)
    await made.begin(ASKED)
    told = await ended(made)
    assert told["ended"] == "it could not be written: [Errno 28] No space left on device"
    assert made.now is None


def test_what_an_operator_may_ask_for() -> None:
    """Everything can be left out."""
    assert wanted({}) == Wanted(60.0, 200, None, redact=False)
    asked: Json = {"seconds": 5, "requests": 3, "file": "a.jsonl", "redact": True}
    assert wanted(asked) == Wanted(5.0, 3, "a.jsonl", redact=True)


WRONG: list[tuple[Json, str]] = [
    ([], "expected a JSON object"),
    ({"second": 5}, "second: unknown; expected some of seconds, requests, file, redact"),
    ({"seconds": 0}, "seconds: expected a number above 0, at most 3600"),
    ({"seconds": 3601}, "seconds: "),
    ({"seconds": True}, "seconds: "),
    ({"seconds": "5"}, "seconds: "),
    ({"requests": 0}, "requests: expected a number from 1 to 10000"),
    ({"requests": 1.5}, "requests: "),
    ({"requests": 10_001}, "requests: "),
    ({"redact": 1}, "redact: expected true or false"),
    ({"file": 5}, "file: expected a name that ends with .jsonl, without a folder"),
]
NO_FILES = (
    "a",
    "../a.jsonl",
    "/tmp/a.jsonl",
    ".a.jsonl",
    "a/b.jsonl",
    "a\0.jsonl",
    "",
    "a.jsonl\n",
    "x" * 200 + ".jsonl",
)


@pytest.mark.parametrize(("asked", "told"), [*WRONG, *(({"file": name}, "file: expected") for name in NO_FILES)])
def test_what_an_operator_may_not_ask_for(asked: Json, told: str) -> None:
    """Each slip is one sentence, and none reaches a file."""
    with pytest.raises(RecordingRefused) as refused:
        wanted(asked)
    assert str(refused.value).startswith(told)
    assert refused.value.mistake
