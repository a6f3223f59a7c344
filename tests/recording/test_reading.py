"""A recording that is none is refused with file and line, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.recording import reading
from proxy.recording.reading import Recording, RecordingError
from proxy.types import JsonObject

HEAD: JsonObject = {"recording": 1, "gateway": "1", "began": "2026-01-01T00:00:00Z"}
CLIENT: JsonObject = {"status": 200, "content_type": "application/json", "said": {"text": "1"}, "complete": True}
REQUEST: JsonObject = {
    "at": "2026-01-01T00:00:00Z",
    "seconds": 0.1,
    "method": "POST",
    "path": "/chat",
    "scope": {},
    "route": "sample/chat",
    "outcome": "ok",
    "client": CLIENT,
}
END: JsonObject = {"ended": "2026-01-01T00:01:00Z", "requests": 1, "left_out": 0, "why": "time"}


def write(folder: Path, *lines: JsonObject | str | bytes) -> Path:
    file = folder / "r.jsonl"
    texts = [each if isinstance(each, (str, bytes)) else json.dumps(each) for each in lines]
    file.write_bytes(b"".join((each.encode() if isinstance(each, str) else each) + b"\n" for each in texts))
    return file


def problem(file: Path) -> str:
    """Why a file is refused, without its folder."""
    with pytest.raises(RecordingError) as refused:
        list(Recording(file).requests())
    return str(refused.value).replace(f"{file.parent}/", "")


def test_a_whole_recording(tmp_path: Path) -> None:
    """Its head, each request with its line, and its end."""
    recording = Recording(write(tmp_path, HEAD, REQUEST, REQUEST, END))
    found = list(recording.requests())
    assert [each.line for each in found] == [2, 3]
    assert (recording.head.gateway, found[0].request.path) == ("1", "/chat")
    assert recording.end is not None
    assert found[-1].read < recording.size


def test_one_that_was_cut_off(tmp_path: Path) -> None:
    """What is there is read; that its end is missing is known."""
    recording = Recording(write(tmp_path, HEAD, REQUEST))
    assert len(list(recording.requests())) == 1
    assert recording.end is None


DEEP = '{"at": "", "seconds": 1, "method": "G", "path": "/", "scope": {"body": %s}, "outcome": "ok", "client": {}}'
HOSTILE: dict[str, tuple[list[JsonObject | str | bytes], str]] = {
    "nothing": ([b""], "r.jsonl:1: not JSON: "),
    "no JSON": ([HEAD, "{"], "r.jsonl:2: not JSON: "),
    "no UTF-8": ([HEAD, b'{"at": "\xff"}'], "r.jsonl:2: not JSON: "),
    "another file": ([{"a": 1}], "r.jsonl:1: this is no recording: its first line has no key 'recording'"),
    "a list": (["[]"], "r.jsonl:1: this is no recording"),
    "another version": (
        [{**HEAD, "recording": 2}],
        "r.jsonl:1: a recording of version 2; this program reads version 1",
    ),
    "a strange key": ([HEAD, {**REQUEST, "x": 1}], "r.jsonl:2: x: Extra inputs are not permitted"),
    "a missing key": ([HEAD, {"at": "x"}], "r.jsonl:2: seconds: Field required"),
    "a wrong type": ([HEAD, {**REQUEST, "path": 5}], "r.jsonl:2: path: Input should be a valid string"),
    "inside": (
        [HEAD, {**REQUEST, "attempts": [{"worker": {}, "exchanges": [{"method": "GET", "path": "/", "said": {}}]}]}],
        "r.jsonl:2: attempts.0.exchanges.0.said: expected either text or base64",
    ),
    "no base64": ([HEAD, {**REQUEST, "client": {**CLIENT, "said": {"base64": "%%"}}}], "said: base64: expected base64"),
    "behind the end": ([HEAD, END, REQUEST], "r.jsonl:3: a line behind the end of the recording"),
    "deep": ([HEAD, DEEP % ("[" * 900 + "]" * 900)], "r.jsonl:2: "),
    "very deep": ([HEAD, DEEP % ("[" * 100_000 + "]" * 100_000)], "r.jsonl:2: not JSON: "),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_recording(tmp_path: Path, kind: str) -> None:
    """One sentence that names the file, the line, and what was expected there."""
    lines, told = HOSTILE[kind]
    found = problem(write(tmp_path, *lines))
    assert told in found
    assert "\n" not in found


def test_an_empty_file(tmp_path: Path) -> None:
    """Not even a head."""
    file = tmp_path / "r.jsonl"
    file.touch()
    assert problem(file) == "r.jsonl:1: the file is empty; expected a recording"


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge line is never read whole, nor are more requests than a recording can have."""
    monkeypatch.setattr(reading, "RECORDING_LINE_MAX_BYTES", 2_000)
    assert problem(write(tmp_path, HEAD, '"' + "x" * 3_000)) == "r.jsonl:2: longer than 2000 bytes"
    monkeypatch.setattr(reading, "RECORDING_REQUESTS_MAX", 2)
    assert problem(write(tmp_path, HEAD, *[REQUEST] * 5)) == "r.jsonl:5: more than 2 requests"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """As for any file."""
    with pytest.raises(FileNotFoundError):
        Recording(tmp_path / "none.jsonl")
