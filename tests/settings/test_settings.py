"""The settings file and the flags: every rule, with the place of every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.backends.flags import flag_values
from proxy.documents import DocumentError
from proxy.settings import Address, Settings, load_settings

FLEET = "fastchat: {workers: ['http://127.0.0.1:21002']}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def _mistakes(file: Path, text: str) -> list[str]:
    """The mistakes of a settings file, as `LINE:COLUMN: MESSAGE`."""
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DocumentError) as caught:
        load_settings(file, {"demo": {}})
    return [str(entry).removeprefix(f"{file}:") for entry in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("listen: 8090", "1:9: listen: expected text, got 8090"),
        ("listen: localhost", "1:9: expected HOST:PORT such as 127.0.0.1:8090, got 'localhost'"),
        (
            "admin: a:b",
            "1:8: expected HOST:PORT such as 127.0.0.1:8090, got 'a:b'; the port is a number from 0 to 65535",
        ),
        ("rules: pack", "1:8: rules: expected a list, got 'pack'"),
        ("rules: [1]", "1:9: rules[0]: expected text, got 1"),
        (
            "fastchat: {workers: ['http://a:1', 'ftp://b']}",
            '1:36: "ftp://b" is not an address: expected http://HOST:PORT or https://HOST:PORT',
        ),
        (
            "fastchat: {controllers: ['http://u:p@a:1']}",
            "1:26: the address of a holds credentials: expected http://HOST:PORT without them",
        ),
        (
            "dbgpt: {controllers: ['http://a:1/x?y']}",
            '1:23: "http://a:1/x?y" is not a base address: expected nothing after the path, and no spaces',
        ),
        ("fastchat: {probe_seconds: 0}", "1:27: probe_seconds: expected greater than 0, got 0"),
        ("fastchat: {list_seconds: -1.5}", "1:26: list_seconds: expected greater than 0, got -1.5"),
        ("fastchat: {probe_seconds: 100000}", "1:27: probe_seconds: expected less than or equal to 86400, got 100000"),
        ("fastchat: {probe_embeddings: 'yes'}", "1:30: probe_embeddings: expected true or false, got 'yes'"),
        (
            "dbgpt: {advertise: '0.0.0.0:80'}",
            "1:20: expected the HOST:PORT under which DB-GPT reaches this gateway, got '0.0.0.0:80'",
        ),
        (
            "dbgpt: {advertise: 'a:0'}",
            "1:20: expected the HOST:PORT under which DB-GPT reaches this gateway, got 'a:0'",
        ),
        ("dbgpt: {heartbeat_seconds: 21}", "1:28: heartbeat_seconds: expected less than or equal to 20, got 21"),
        ("defaults: {temperature: 3}", "1:25: temperature: expected less than or equal to 2, got 3"),
        ("defaults: {top_p: 1.5}", "1:19: top_p: expected less than or equal to 1, got 1.5"),
        ("defaults: {max_new_tokens: 0}", "1:28: max_new_tokens: expected greater than or equal to 1, got 0"),
        ("models: {m: {context_length: 0}}", "1:30: context_length: expected greater than or equal to 1, got 0"),
        ("models: {m: {stop: '</s>'}}", "1:20: stop: expected a list, got '</s>'"),
        ("models: {m: {stop_token_ids: ['2']}}", "1:31: stop_token_ids[0]: expected a whole number, got '2'"),
        (
            "models: {m: {template_style: CHATLM}}",
            "1:30: template_style: 'CHATLM' is no separator style; did you mean CHATGLM?",
        ),
        (
            "models: {m: {template_style: CHATML, chat_template: x}}",
            "1:13: only one of template_style, chat_template and chat_template_file can be in force",
        ),
        ("models: {m: {reasoning: {as: fields}}}", "1:30: as: expected 'field', 'inline' or 'drop', got 'fields'"),
        ("models: {m: {reasoning: {open: ''}}}", "1:32: open: expected text that is not empty, got ''"),
        ("models: {m: {reasoning: {close: ' <'}}}", "1:25: a tag has no white space at its ends, got ' <'"),
        (
            "models: {m: {reasoning: {open: think, close: /think}}}",
            "1:25: neither tag may have the other in it, got 'think' and '/think'",
        ),
        (
            "models: {m: {chat_template_file: /no/such.jinja}}",
            "1:34: chat_template_file: /no/such.jinja: No such file or directory",
        ),
        (
            "model_ports: {first: 9000, last: 8999}",
            "1:14: expected first <= last and at most 256 ports",
        ),
        ("model_ports: {first: 9000, last: 9256}", "1:14: expected first <= last and at most 256 ports"),
        ("model_ports: {first: 0, last: 1}", "1:22: first: expected greater than or equal to 1, got 0"),
        ("model_ports: {first: 9000}", "1:14: the key 'last' is missing"),
        ("timeouts: {idle_seconds: 0}", "1:26: idle_seconds: expected greater than 0, got 0"),
        ("shutdown_seconds: soon", "1:19: shutdown_seconds: expected a number, got 'soon'"),
        ("log: {format: xml}", "1:15: format: expected 'text' or 'json', got 'xml'"),
        ("demo: {chunks_per_second: -1}", "1:27: chunks_per_second: expected greater than or equal to 0, got -1"),
        ("demo: {models: []}", "1:16: models: "),
        ("[]", "1:1: the document: expected a mapping, got []"),
        ("listen: [", "1:10: not YAML: "),
        (
            "listen: '[::1]:80'\nlisten: '[::1]:81'",
            "2:1: the key 'listen' stands here twice; first at line 1, column 1",
        ),
    ],
)
def test_a_wrong_value_is_told_with_its_place(file: Path, text: str, mistake: str) -> None:
    """Line and column of the value, the key, what was expected and what was given."""
    (told,) = _mistakes(file, text)
    assert told.startswith(mistake)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("listn: a:1", "1:1: unknown key 'listn'; did you mean 'listen'?"),
        ("fastchat: {worker: []}", "1:12: unknown key 'worker'; did you mean 'workers'?"),
        ("dbgpt: {advertize: 'a:1'}", "1:9: unknown key 'advertize'; did you mean 'advertise'?"),
        ("models: {m: {contextlength: 1}}", "1:14: unknown key 'contextlength'; did you mean 'context_length'?"),
        ("models: {m: {defaults: {temprature: 1}}}", "1:25: unknown key 'temprature'; did you mean 'temperature'?"),
        ("log: {colour: false}", "1:7: unknown key 'colour'; known: format, level"),
    ],
)
def test_an_unknown_key_has_a_suggestion(file: Path, text: str, mistake: str) -> None:
    """The nearest key at that place is suggested; where none is near, the keys that are known."""
    assert _mistakes(file, text) == [mistake]


def test_a_chat_template_that_does_not_compile_is_told(file: Path, tmp_path: Path) -> None:
    """In the settings or in a file of its own, with the template's own line."""
    (told,) = _mistakes(file, 'models: {m: {chat_template: "{% if %}"}}')
    assert told.startswith("1:29: chat template, line 1: ")
    template = tmp_path / "broken.jinja"
    template.write_text("fine\n{{ broken\n", encoding="utf-8")
    (told,) = _mistakes(file, f"models: {{m: {{chat_template_file: '{template}'}}}}")
    assert told.startswith(f"1:34: {template}: chat template, line 2: ")
    template.write_bytes(b"\xff")
    assert _mistakes(file, f"models: {{m: {{chat_template_file: '{template}'}}}}") == [
        f"1:34: chat_template_file: {template}: not UTF-8 text"
    ]


def test_all_mistakes_come_at_once(file: Path) -> None:
    """One run tells everything that is wrong in a file, in its order."""
    text = "listen: x\nadmn: a:1\nfastchat:\n  workers: [ftp://a, 'http://b:1', 'http://c:99999']\nlog: {level: loud}\n"
    places = [told.split(": ")[0] for told in _mistakes(file, text)]
    assert places == ["1:9", "2:1", "4:13", "4:36", "5:14"]


def test_an_empty_file_is_all_defaults(file: Path) -> None:
    """No key is needed beside the fleet."""
    file.write_text("# nothing yet\n", encoding="utf-8")
    assert load_settings(file, {"demo": {}}) == Settings.model_validate({"demo": {}})


def test_a_flag_beats_the_file_key_by_key(file: Path) -> None:
    """What a flag sets goes over the file; the other keys of the same section stay."""
    file.write_text(
        FLEET + "listen: 127.0.0.1:1\nadmin: 127.0.0.1:2\ndbgpt: {controllers: ['http://a:1'], heartbeat_seconds: 5}\n",
        encoding="utf-8",
    )
    settings = load_settings(file, {"listen": "127.0.0.1:3", "dbgpt": {"controllers": ["http://b:2/"]}})
    assert (settings.listen, settings.admin) == ("127.0.0.1:3", "127.0.0.1:2")
    assert settings.dbgpt.controllers == ["http://b:2"]
    assert settings.dbgpt.heartbeat_seconds == 5
    assert settings.fastchat.workers == ["http://127.0.0.1:21002"]


def test_a_flag_goes_into_an_empty_section(file: Path) -> None:
    """A section of the file without keys does not keep a flag out."""
    file.write_text("fastchat: {}\n", encoding="utf-8")
    assert load_settings(file, {"fastchat": {"workers": ["http://a:1"]}}).fastchat.workers == ["http://a:1"]


def test_wrong_flags_are_named_as_flags() -> None:
    """One line for each, with the flag that the user typed."""
    flags = {
        "listen": "x",
        "fastchat": {"controllers": ["ftp://a"], "workers": ["http://u:p@b"]},
        "dbgpt": {"controllers": ["c"], "advertise": "d"},
    }
    with pytest.raises(ValueError, match=r"^--fastchat-controller: ") as caught:
        load_settings(None, flags)
    named = sorted(line.split(":")[0] for line in str(caught.value).splitlines())
    assert named == ["--advertise", "--dbgpt-controller", "--fastchat-controller", "--fastchat-worker", "--listen"]


def test_a_gateway_without_a_fleet_does_not_start(file: Path) -> None:
    """It could never answer anything, so that is told at once, with the ways out."""
    file.write_text("listen: 127.0.0.1:0\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"there is no fleet to serve: give --fastchat-worker URL, .* or --demo"):
        load_settings(file, {})


@pytest.mark.parametrize("listen", ["0.0.0.0:8090", "[::]:8090", "[0::0]:8090", "0:8090"])
def test_an_address_that_nobody_can_call_is_not_registered(file: Path, listen: str) -> None:
    """All interfaces are no address for DB-GPT; wherever --advertise or the controllers come from, it is noticed."""
    flags: dict[str, object] = {"listen": listen, "demo": {}}
    file.write_text("dbgpt: {controllers: ['http://a:1']}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="give --advertise HOST:PORT") as caught:
        load_settings(file, flags)
    assert f"--listen {listen} " in str(caught.value)
    settings = load_settings(file, {**flags, "dbgpt": {"advertise": "10.0.0.7:8090"}})
    assert settings.advertised_address() == Address("10.0.0.7", 8090)
    assert load_settings(None, flags).advertised_address() is None


def test_a_file_that_a_flag_completes_is_no_mistake(file: Path) -> None:
    """A file with a wildcard address and controllers is right once --advertise is given."""
    file.write_text(FLEET + "listen: 0.0.0.0:8090\ndbgpt: {controllers: ['http://a:1']}\n", encoding="utf-8")
    settings = load_settings(file, {"dbgpt": {"advertise": "gateway:8090"}})
    assert settings.advertised_address() == Address("gateway", 8090)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8 text"), (..., "Is a directory")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: object, sentence: str) -> None:
    """The flag, the path and the reason, in one line."""
    file = tmp_path / "settings.yaml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is ...:
        file.mkdir()
    with pytest.raises(ValueError, match=f"^{re.escape(f'--config {file}: {sentence}')}$"):
        load_settings(file, {})


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ({"a": {"aliases": ["b"]}, "b": {}}, "models.a.aliases: 'b' means the model 'b' already"),
        ({"a": {"aliases": ["x"]}, "b": {"aliases": ["x"]}}, "models.b.aliases: 'x' means the model 'a' already"),
        ({"a": {"fallback": "a"}}, "models.a.fallback: leads back to itself: a -> a"),
        ({"a": {"fallback": "b"}, "b": {"fallback": "a"}}, "models.a.fallback: leads back to itself: a -> b -> a"),
    ],
)
def test_names_that_contradict_each_other_are_refused(models: dict[str, object], says: str) -> None:
    """One name means one model, and falling back ends somewhere."""
    with pytest.raises(ValueError, match=f"^{re.escape(says)}") as caught:
        load_settings(None, {"models": models, "demo": {}})
    assert says in str(caught.value)


def test_the_flag_of_the_controller_role_keeps_what_the_file_says_of_it(file: Path) -> None:
    """`--accept-workers` changes the address only."""
    file.write_text("fastchat: {accept: {allow: [10.1.2.3/8, GPU-1]}}\n", encoding="utf-8")
    given = flag_values({"accept_workers": "127.0.0.1:21009"})
    accept = load_settings(file, given).fastchat.accept
    assert accept is not None
    assert (accept.listen, accept.allow) == ("127.0.0.1:21009", ["10.0.0.0/8", "gpu-1"])


@pytest.mark.parametrize("allowed", ["", "http://gpu-1", "10.0.0.0/40", "gpu 1"])
def test_what_is_no_host_and_no_network_is_refused(allowed: str) -> None:
    """A mistyped network must not silently allow nothing, or anything."""
    with pytest.raises(ValueError, match="expected a network such as"):
        load_settings(None, {"fastchat": {"accept": {"allow": [allowed]}}})


def test_a_hash_field_must_be_an_expression() -> None:
    """It is found out when the settings are read, not at the first request."""
    with pytest.raises(ValueError, match="'user\\[' is no expression"):
        load_settings(None, {"demo": {}, "balance": {"hash_field": "user["}})
