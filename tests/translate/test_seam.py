"""The text of a worker that goes on, whose tokenizer loses the space before it unless it repeats what stands there."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import GatewayError
from proxy.translate.plan import Route
from proxy.translate.request import resumed_request
from proxy.translate.seam import Seam, end_of_known
from proxy.translate.stream import StreamTranslator
from proxy.types import Json, JsonObject
from tests.translate.building import prepared, shipped_route
from tests.translate.pieces import IN_BYTES, SPACE, PieceWorker, decoded, in_bytes
from tests.translate.playing import judged

DIALOGUE: list[Json] = [
    {"role": "human", "content": "Hi there"},
    {"role": "ai", "content": "Hello."},
    {"role": "human", "content": "Tell me"},
]
ASKED = "Answer well. USER: Hi there ASSISTANT: Hello.</s>USER: Tell me ASSISTANT:"
WORDS = [f"{SPACE}Hello", f"{SPACE}world", f"{SPACE}again", "ly", "!", ",", f"{SPACE}.", f"{SPACE}n't", "你", "好，"]
OTHERS = [f"{SPACE}你", f"{SPACE}<b>", f"{SPACE}[1]"]
HALVES = [*[in_bytes(text) for text in IN_BYTES], [SPACE, *in_bytes("ü")], ["<0x0A>", SPACE, SPACE * 3]]
STORY = st.lists(st.one_of(st.sampled_from(WORDS + OTHERS).map(lambda piece: [piece]), st.sampled_from(HALVES))).map(
    lambda parts: [piece for part in parts for piece in part]
)


def told(route: Route, request: JsonObject, worker: PieceWorker, losses: list[int]) -> tuple[bytes, StreamTranslator]:
    """The client's stream where each worker but the last is lost after so many frames, at most when all is told."""
    asked = prepared(route, {"model": "vicuna", **request})
    (body,) = asked.built.bodies
    translator = asked.translator(resumable=True)
    out = b""
    next_body = body
    for loss in losses:
        out += translator.feed([orjson.dumps(frame) for frame in worker.frames(next_body)[:-2][:loss]])
        assert translator.lost is None, translator.lost
        received = translator.reader.received()
        next_body = resumed_request(asked.built, body, received.text, received.tokens)
        if next_body is None:
            return out + translator.conclude(), translator
        translator.resume(asked.built.scope)
    out += translator.feed([orjson.dumps(frame) for frame in worker.frames(next_body)])
    assert translator.lost is None, translator.lost
    return out + translator.end(), translator


def as_told(story: list[str], losses: list[int], interval: int, most: int) -> tuple[JsonObject, JsonObject]:
    """The last frames with the losses and without."""
    worker = PieceWorker(story, ASKED, interval=interval)
    request: JsonObject = {"messages": DIALOGUE, "max_new_tokens": most}
    ends = [judged(told(CHAT, request, worker, these)[0])[-1] for these in (losses, [])]
    return ends[0], ends[1]


CHAT = shipped_route("generate_stream")
RAW = shipped_route("worker_generate_stream")


@settings(deadline=None)
@given(STORY, st.lists(st.integers(0, 12), max_size=3))
@example([f"{SPACE}Hello", f"{SPACE}world", f"{SPACE}again", "!"], [2])
def test_losses_anywhere_change_nothing_of_the_text(story: list[str], losses: list[int]) -> None:
    """Words, other scripts, punctuation, bytes of characters: text, reason and usage are those of one worker."""
    lost, whole = as_told(story, losses, 1, 200)
    whole_usage, lost_usage = whole.get("usage"), lost.get("usage")
    assert (lost["text"], lost["finish_reason"]) == (whole["text"], whole["finish_reason"])
    assert lost["text"] == decoded(story)
    assert lost_usage == whole_usage or lost_usage is None


@settings(deadline=None)
@given(STORY, st.lists(st.integers(0, 12), max_size=3), st.integers(1, 12))
@example(["<0x0A>", SPACE, SPACE * 3, "<0x0A>", *in_bytes("é")], [4], 5)  # half of it takes the line's end along
def test_a_limit_of_tokens_is_that_of_all_parts(story: list[str], losses: list[int], most: int) -> None:
    """The text ends where that of one worker would have ended."""
    lost, whole = as_told(story, losses, 1, most)
    assert lost["text"] == whole["text"]
    assert lost["finish_reason"] == "length" or whole["finish_reason"] == "stop"


@settings(deadline=None)
@given(STORY, st.lists(st.integers(0, 12), max_size=3))
def test_frames_of_several_tokens(story: list[str], losses: list[int]) -> None:
    """A worker that sends every second token is gone on from just as well."""
    assert as_told(story, losses, 2, 200)[0]["text"] == decoded(story)


@pytest.mark.parametrize("echo", [False, True, None])
@pytest.mark.parametrize("loss", range(6))
def test_the_workers_own_clients(loss: int, echo: bool | None) -> None:
    """Their frames keep their other fields, and have all of the text, with the prompt where they asked for it."""
    story = [f"{SPACE}Hello", f"{SPACE}world", *in_bytes("🙂"), f"{SPACE}again", "!"]
    worker = PieceWorker(story, "Say:")
    request: JsonObject = {"prompt": "Say:", "max_new_tokens": 200, "echo": echo is not False}
    wire, _ = told(RAW, request, worker, [loss])
    frames = [orjson.loads(part) for part in wire.split(b"\0")[:-1]]
    whole, _ = told(RAW, request, worker, [])
    assert frames[-1] == orjson.loads(whole.split(b"\0")[-2])
    assert str(frames[-1]["text"]).endswith("Hello world🙂 again!")
    assert {"logprobs", "error_code", "usage"} <= frames[-1].keys()


def test_without_repetition_the_space_would_be_lost() -> None:
    """What all this is for: the text of a worker that repeats nothing is not taken."""
    worker = PieceWorker([f"{SPACE}Hello", f"{SPACE}world", f"{SPACE}again"], ASKED, echoes=False)
    asked = prepared(CHAT, {"model": "vicuna", "messages": DIALOGUE})
    (body,) = asked.built.bodies
    translator = asked.translator(resumable=True)
    translator.feed([orjson.dumps(frame) for frame in worker.frames(body)[:2]])
    received = translator.reader.received()
    assert received.text == "Hello world"
    body = resumed_request(asked.built, body, received.text, received.tokens)
    translator.resume(asked.built.scope)
    said = worker.frames(body)
    assert said[0]["text"] == "again"
    assert translator.feed([orjson.dumps(frame) for frame in said]) == b""
    assert str(translator.lost) == "the worker was to repeat the text that it goes on from, which is not in its answer"
    assert translator.reader.received() == received
    assert b"50001" in translator.fail(translator.lost or GatewayError("internal", ""))


LONG = "a text that is as long as it has to be to be known by its last part, and no shorter"


@pytest.mark.parametrize(
    ("known", "text", "place"),
    [
        ("Hello", "Hello world", 5),
        ("Hello", "Hello", 5),
        ("", "Hello", 0),
        ("Hello ", "Hello world", 6),
        ("Hello\n", "Hello\n world", 6),
        ("Hello ", "Hello.", None),
        (" Hello", "Hello world", 5),
        ("<s>A</s>B: C", "A B: C d", 6),
        ("<s>A</s>B: C", "AB: C d", 5),
        ("[INST] A [/INST] B", "[INST] A [/INST] B c", 18),
        ("[INST] A [/INST] B", "A B c", 3),
        ("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nha", "user\nhi\nassistant\nha ha", 20),
        ("x: List[int] = <b>", "x: List[int] = <b>bold", 18),
        ("A . B", "A. B c", 4),
        ("ha ha ha", "ha ha ha ha ha", 8),
        ("Hello", "Hell", None),
        ("Hello", "world", None),
        ("Hello 🙂", "Hello \ufffd\ufffd", None),
    ],
)
def test_where_the_known_text_ends(known: str, text: str, place: int | None) -> None:
    """Special tokens are left out of what is repeated or not, and so are spaces, but none at its end."""
    assert end_of_known(known, text) == place


@pytest.mark.parametrize(
    ("known", "said", "new"),
    [
        ("Say it, " + LONG, "y it， " + LONG + " more", " more"),
        ("ab 🙂", ["ab \ufffd\ufffd", "ab 🙂🚀"], "🚀"),
        ("ab 🙂", ["", "ab 🙂 c"], " c"),
        ("ab cd", ["ab cd e", "ab \ufffd\ufffd", "ab cd ef", ""], " ef"),
        ("ab cd", ["ab cd ef", "ab c"], " ef"),
        ("Tell it all. Hello", [" world", " world!"], " world!"),
        ("Tell it all. 你好，", "世界", "世界"),
    ],
)
def test_what_is_new(known: str, said: str | list[str], new: str) -> None:
    """Nothing is new while that is not clear, and where no space can be lost the text need not be repeated."""
    seam, found = Seam(known), ""
    for text in [said] if isinstance(said, str) else said:
        found = seam.behind(text) or found
    assert found == new


@pytest.mark.parametrize(
    ("known", "said", "why"),
    [
        ("Tell it all. Hello", "world", "is not in its answer"),
        ("Tell it all. 你好", "world", "is not in its answer"),
        ("Hello", "Oh well", "is not in its answer"),
        ("Say, " + LONG, "Say， " + LONG + LONG, "may end in several places"),
        ("Say, " + "ha " * 40, "Say， " + "ha " * 42, "may end in several places"),
        ("Tell it all. Hello ", "Tell it all. Hello.", "is not in its answer"),
    ],
)
def test_what_is_not_clear_is_refused(known: str, said: str, why: str) -> None:
    """A text with a hole or with a repetition is worse than an error."""
    with pytest.raises(GatewayError, match=why):
        Seam(known).behind(said)


def test_a_changed_beginning_is_refused() -> None:
    """What was repeated once must stay as it was."""
    seam = Seam("ab cd")
    assert seam.behind("ab cd e") == " e"
    with pytest.raises(GatewayError, match="changed the text"):
        seam.behind("xy cd ef")
    with pytest.raises(GatewayError, match="not a string but 5"):
        seam.behind(5)


def test_an_overlooked_stop_string_ends_the_text() -> None:
    """The first of several counts, and what the worker says behind it does not."""
    worker = PieceWorker([f"{SPACE}Hello", f"{SPACE}you", "!", f"{SPACE}And", ",", "!"], ASKED)
    request: JsonObject = {"messages": DIALOGUE, "stop": ["!", ","]}
    for loss in range(4):
        end = judged(told(CHAT, request, worker, [loss])[0])[-1]
        assert (end["text"], end["finish_reason"]) == ("Hello you", "stop")


@pytest.mark.parametrize("finish", ["stop", None])
@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("Hello \ufffd\ufffd", True),
        (f"{ASKED.replace('</s>', ' ')}Hello \ufffd\ufffd", False),
        (f"{ASKED.replace('</s>', ' ')}Hell\ufffd\ufffd", False),
        (f"{ASKED.replace('</s>', ' ')}Hello all\ufffd", True),
        ("\ufffd", False),
        ("", False),
    ],
)
def test_an_end_before_the_new_text(said: str, finish: str | None, lost: bool) -> None:
    """A worker that ends within half a character has ended, unless there is text that may be new."""
    asked = prepared(CHAT, {"model": "vicuna", "messages": DIALOGUE})
    translator = asked.translator(resumable=True)
    translator.feed([orjson.dumps({"text": "Hello 🙂"})])
    translator.resume(asked.built.scope)
    frame: JsonObject = {"text": said, "finish_reason": finish}
    out = translator.feed([orjson.dumps(frame)]) + translator.end()
    if lost:
        assert b"stop" not in out
        assert str(translator.lost) == "the worker ended without repeating the text that it goes on from"
    else:
        assert orjson.loads(out.split(b"\0")[-2])["text"] == "Hello 🙂"
