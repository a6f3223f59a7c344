from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Literal

import pytest

from proxy.telemetry.log import configure_logging

FORGED = "x\n2024-01-01T00:00:00.000Z INFO proxy - all is well"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    level, handlers = root.level, root.handlers.copy()
    yield io.StringIO()
    root.setLevel(level)
    root.handlers[:] = handlers


def lines(output: io.StringIO) -> list[str]:
    return output.getvalue().splitlines()


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("break_", ["\n", "\r\n", "\v", "\x85", "\u2028", "\x1b[2K", "\x00", "\u202e"])
def test_a_caller_cannot_forge_a_line(output: io.StringIO, style: Literal["text", "json"], break_: str) -> None:
    """Line breaks, terminal sequences and direction marks of a value or a message appear as escapes on one line."""
    configure_logging("info", style, stream=output)
    logging.getLogger("proxy.test").info("no model %s", f"a{break_}b", extra={"model": f"c{break_}d"})
    assert len(lines(output)) == 1
    assert all(character.isprintable() for character in lines(output)[0])


def test_a_value_cannot_forge_a_field(output: io.StringIO) -> None:
    """A value with spaces, quotes or a last backslash stays inside its quotes, and a message comes after the fields."""
    configure_logging("info", stream=output)
    logger = logging.getLogger("proxy.test")
    logger.info("done] outcome=ok", extra={"model": 'm outcome=ok "x"', "outcome": "refused"})
    logger.info("done", extra={"model": "m\\", "worker": '" outcome=ok'})
    first, second = lines(output)
    assert first.endswith(r'INFO proxy.test [model="m outcome=ok \"x\"" outcome=refused] done] outcome=ok')
    assert second.endswith(r'[model="m\\" worker="\" outcome=ok"] done')


def test_text_lines_have_fields_in_a_fixed_order(output: io.StringIO) -> None:
    """Time, level, logger, the well-known fields in order, others by name, empty ones left out, then the message."""
    configure_logging("info", stream=output)
    extra = {"zone": 1, "seconds": 0.1234567, "outcome": "ok", "request_id": "r1", "route": "generate", "span": None}
    logging.getLogger("proxy.test").info("answered", extra=extra)
    logging.getLogger("proxy.test").info("plain")
    first, second = lines(output)
    assert first[24:] == " INFO proxy.test [request_id=r1 route=generate outcome=ok seconds=0.123457 zone=1] answered"
    assert first[10] == "T"
    assert first[23] == "Z"
    assert second[24:] == " INFO proxy.test - plain"


def test_json_lines_keep_the_values(output: io.StringIO) -> None:
    """A log collector reads back what was logged, numbers as numbers; a field cannot replace level or message."""
    configure_logging("info", "json", stream=output)
    extra = {"model": FORGED, "seconds": 0.5, "worker": "http://w:1", "level": "debug", "time": "never"}
    logging.getLogger("proxy.test").warning("über %d", 7, extra=extra)
    document = json.loads(lines(output)[0])
    assert document.pop("time").endswith("Z")
    assert document == {
        "level": "warning",
        "logger": "proxy.test",
        "message": "über 7",
        "model": FORGED,
        "seconds": 0.5,
        "worker": "http://w:1",
    }


@pytest.mark.parametrize("style", ["text", "json"])
def test_lengths_are_bounded(output: io.StringIO, style: Literal["text", "json"]) -> None:
    """A megabyte in a value or a message, and any number of fields, make a line of bounded length."""
    configure_logging("info", style, stream=output, text_limit=100)
    extra: dict[str, object] = {f"field{number}": "y\n" * 1000 for number in range(100)}
    logging.getLogger("proxy.test").info("x" * 1_000_000, extra={"model": "m" * 1_000_000, **extra})
    assert len(lines(output)) == 1
    assert len(lines(output)[0]) < 24 * (100 * 2 + 60) + 500
    assert "x" * 100 + "...(999900 more)" in lines(output)[0]


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_traceback_is_one_bounded_line(output: io.StringIO, style: Literal["text", "json"]) -> None:
    """An exception is one record too, and a long one keeps its end, where the cause stands."""
    configure_logging("info", style, stream=output, text_limit=200)
    try:
        raise ValueError("a\nlong " + "z" * 5000 + " cause")
    except ValueError:
        logging.getLogger("proxy.test").exception("failed")
    assert len(lines(output)) == 1
    assert len(lines(output)[0]) < 1500
    assert "zzz cause" in lines(output)[0]


def test_a_second_call_replaces_the_first(output: io.StringIO) -> None:
    """Records come once however often logging was configured, and below the level not at all."""
    before = io.StringIO()
    configure_logging("debug", stream=before)
    configure_logging("WARNING", stream=output)
    logging.getLogger("proxy.test").info("quiet")
    logging.getLogger("proxy.test").warning("loud")
    assert [line.rsplit(" ", 1)[1] for line in lines(output)] == ["loud"]
    assert lines(before) == []


def test_the_default_is_standard_error(output: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is left to the commands."""
    monkeypatch.setattr(sys, "stderr", output)
    configure_logging("info")
    logging.getLogger("proxy.test").info("here")
    assert lines(output)[0].endswith(" here")


def test_wrong_settings_are_named() -> None:
    """A wrong level or format is refused with the value and what may stand there."""
    with pytest.raises(ValueError, match="log level is 'loud', expected one of debug, info"):
        configure_logging("loud")
    with pytest.raises(ValueError, match="log format is 'xml', expected one of text, json"):
        configure_logging("info", "xml")  # type: ignore[arg-type]
