from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.backends.functions import rule_functions
from proxy.documents import DocumentError
from proxy.limits import PACK_MAX_FILES, YAML_MAX_BYTES
from proxy.ruleset import load_rules, run_tests, shipped_rules

FUNCTIONS = rule_functions()
ROUTE = "route: {0}\ndescription: x\nmatch: {{method: GET, path: /{0}}}\nanswer: {{body: {{value: 1}}}}\n"
ERRORS = "kinds: {default: {status: 500}}\nbody: {fields: {detail: error.message}}\n"


def write(folder: Path, name: str, **routes: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pack.yaml").write_text(f"pack: {name}\ndescription: x\nexamples: [try {name}]\n", encoding="utf-8")
    (folder / "errors.yaml").write_text(ERRORS, encoding="utf-8")
    for route, text in routes.items():
        (folder / f"{route}.yaml").write_text(text, encoding="utf-8")
    return folder


def mistakes(*paths: Path) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_rules(paths, FUNCTIONS)
    return [f"{Path(entry.file).name}: {entry.message}" for entry in caught.value.diagnostics]


def test_the_shipped_packs_have_no_mistake_and_pass_their_own_tests() -> None:
    """What comes with the program loads, and every route has at least one test that passes."""
    rules = load_rules([shipped_rules()], FUNCTIONS)
    outcomes = list(run_tests(rules.tests))
    assert [(outcome.test.test.name, outcome.problems) for outcome in outcomes if outcome.problems] == []
    operations = {each.asking.name for backend in rules.backends.values() for each in backend.operations}
    routes = [*rules.table.routes, *(route.others for route in rules.table.routes if route.others is not None)]
    assert {route.name for route in routes} | operations == {outcome.test.route.name for outcome in outcomes}


def test_packs_and_folders_of_packs(tmp_path: Path) -> None:
    """A path is a pack or holds packs; routes may stand in folders of their own; hidden files are an editor's."""
    one = write(tmp_path / "many/one", "one", a=ROUTE.format("a"))
    write(one / "inner", "ignored", b=ROUTE.format("b"))
    for name in ("pack.yaml", "errors.yaml"):
        (one / "inner" / name).unlink()
    (one / ".hidden.yaml").write_text("[", encoding="utf-8")
    write(tmp_path / "many/two", "two", a=ROUTE.format("c"))
    three = write(tmp_path / "three", "three", a=ROUTE.format("d"))
    rules = load_rules([tmp_path / "many", three], FUNCTIONS)
    assert rules.packs == ("one", "two", "three")
    assert [route.name for route in rules.table.routes] == ["a", "b", "c", "d"]
    assert rules.examples == ("try one", "try two", "try three")


def test_two_packs_of_one_name_or_one_path_are_a_mistake(tmp_path: Path) -> None:
    """Across packs too, a request has one route."""
    first = write(tmp_path / "first", "same", a=ROUTE.format("a"))
    second = write(tmp_path / "second", "same", a=ROUTE.format("a"))
    assert mistakes(first, second) == [
        f"a.yaml: GET /a is taken by the route 'a' at {first / 'a.yaml'}:1 already",
        f"a.yaml: a second route of this pack is named 'a'; first at {first / 'a.yaml'}:1",
        "pack.yaml: a second pack is named 'same'",
    ]


def test_what_is_no_pack(tmp_path: Path) -> None:
    """A folder without packs, a file, and a path that leads nowhere are told apart from an empty rule set."""
    (tmp_path / "plain").mkdir()
    (tmp_path / "file.yaml").write_text("route: x\n", encoding="utf-8")
    file, nowhere, plain = mistakes(tmp_path / "plain", tmp_path / "file.yaml", tmp_path / "nowhere")
    for name, told in (("file.yaml", file), ("nowhere", nowhere)):
        assert told.startswith(f"{name}: there is no such folder; expected a rule pack, a folder of packs, or one that")
        assert "dbgpt-worker" in told
    assert plain == "plain: no pack.yaml here or one level below"


def test_a_shipped_pack_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside packs of one's own; a folder of that name here is the one that is meant."""
    own = write(tmp_path / "own", "own", a=ROUTE.format("a"))
    assert load_rules([own, Path("fastchat-worker")], rule_functions()).packs == ("own", "fastchat-worker")
    write(tmp_path / "fastchat-worker", "mine", b=ROUTE.format("b"))
    monkeypatch.chdir(tmp_path)
    assert load_rules([Path("fastchat-worker")], rule_functions()).packs == ("mine",)


def test_sizes_are_bounded(tmp_path: Path) -> None:
    """A file and a pack that nobody wrote by hand are refused unread."""
    pack = write(tmp_path / "big", "big", a=ROUTE.format("a") + "#" * YAML_MAX_BYTES)
    assert mistakes(pack) == [f"a.yaml: the file is over the limit of {YAML_MAX_BYTES} bytes"]
    for number in range(PACK_MAX_FILES):
        (pack / f"r{number}.yaml").write_text("[", encoding="utf-8")
    assert mistakes(pack) == [f"big: {PACK_MAX_FILES + 1} files in one pack; the limit is {PACK_MAX_FILES}"]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder or a dangling link in the place of a file is one sentence."""
    pack = write(tmp_path / "odd", "odd", a=ROUTE.format("a"))
    (pack / "b.yaml").symlink_to(pack / "gone")
    (pack / "c.yaml").mkdir()
    assert mistakes(pack) == [
        "b.yaml: cannot be read: No such file or directory",
        "c.yaml: cannot be read: Is a directory",
    ]


LIKE = """
route: {0}
description: x
match: {{method: POST, path: /{0}}}
like: base
{1}
"""
BASE = """
route: base
description: x
match: {method: POST, path: /base}
worker: {kind: llm, model: body.model, exclusive: true}
steps: [{set: prompt, value: body.prompt}]
request: {path: /x, body: {fields: {prompt: steps.prompt}}}
stream:
  from: {framing: nul, text: cumulative, missing_finish: stop, read: {text: chunk.text}}
  to: {framing: nul, text: cumulative, chunk: {fields: {text: text}}}
"""


def test_a_route_like_another_shares_all_but_how_it_answers(tmp_path: Path) -> None:
    """One request with several answers is written once, as a stream of another kind or as one answer."""
    pack = write(
        tmp_path / "like",
        "like",
        a_whole=LIKE.format("whole", "answer: {body: {fields: {text: text, asked: steps.prompt}}}"),
        b_lines=LIKE.format(
            "lines", "stream: {to: {framing: ndjson, text: incremental, chunk: {fields: {text: text}}}}"
        ),
        c_base=BASE,
    )
    errors = ERRORS + "frame: {fields: {text: error.message}}\nstream_status: 200\n"
    (pack / "errors.yaml").write_text(errors, encoding="utf-8")
    rules = load_rules([pack], FUNCTIONS)
    routes = {route.name: route for route in rules.table.routes}
    base = routes["base"]
    for other in (routes["whole"], routes["lines"]):
        assert (other.kind, other.model, other.steps, other.upstream) == (
            base.kind,
            base.model,
            base.steps,
            base.upstream,
        )
        assert (other.source, other.exclusive, other.selection) == (base.source, True, "lease")
    assert routes["whole"].target is None
    assert routes["lines"].target is not None
    assert (routes["whole"].errors_as_frame, routes["lines"].errors_as_frame) == (False, True)


def test_the_documented_rule_works(tmp_path: Path) -> None:
    """The example of the rule language's description compiles, and the test beside it passes."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    route, tests = re.findall(r"^```yaml\n([a-z].*?)^```", text, re.DOTALL | re.MULTILINE)
    pack = write(tmp_path / "docs", "docs", route=route + tests)
    errors = ERRORS + "frame: {fields: {text: error.message}}\nstream_status: 200\n"
    (pack / "errors.yaml").write_text(errors, encoding="utf-8")
    (pack / "pack.yaml").write_text("pack: docs\ndescription: x\nsample: {model: vicuna}\n", encoding="utf-8")
    rules = load_rules([pack], FUNCTIONS)
    assert [outcome.problems for outcome in run_tests(rules.tests)] == [()]


def test_the_documented_resumption(tmp_path: Path) -> None:
    """The example of how a lost stream goes on does what the text around it says."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```yaml\n# in a route\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    route = (
        "route: a\ndescription: x\nmatch: {method: POST, path: /a}\nworker: {kind: llm, model: body.model}\n"
        f"{example}tests:\n  - name: x\n    given:\n      request: {{prompt: Say, most: 9}}\n"
        "      received: {text: Hello world, tokens: 2}\n"
        "      chunks: [{text: SayHello world again}, {text: SayHello world again!, end: stop}]\n"
        "    expect:\n      upstream: {prompt: SayHello world, most: 7, echo: true}\n"
        "      chunks: [{text: Hello world again}, {text: Hello world again!, end: stop}]\n"
    )
    pack = write(tmp_path / "docs", "docs", a=route)
    (pack / "errors.yaml").write_text(ERRORS + FRAMES, encoding="utf-8")
    assert [outcome.problems for outcome in run_tests(load_rules([pack], FUNCTIONS).tests)] == [()]


RESUMED = """
route: a
description: x
match: {method: POST, path: /a}
worker: {kind: llm, model: body.model}
request:
  path: /x
  body: body
  resume: {prompt: RESUME}
stream:
  from: {framing: nul, text: cumulative, read: {text: chunk.text}}
  to: {framing: nul, text: cumulative, chunk: {fields: {text: text}}}
"""
FRAMES = "frame: {fields: {text: error.message}}\nstream_status: 200\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (RESUMED.replace("RESUME", "request.prompt"), []),
        (
            RESUMED.replace("RESUME", "chunk.text"),
            [
                "a.yaml: expression 'chunk.text' reads 'chunk', which does not exist here; known: body, gateway, "
                "headers, listener, models, now, path, query, request, request_id, steps, text, tokens, worker"
            ],
        ),
        (
            RESUMED.replace("{prompt: RESUME}", "{}"),
            ["a.yaml: request.resume names no field; expected what differs where another worker goes on"],
        ),
        (
            RESUMED.replace("RESUME", "text").partition("stream:")[0] + "answer: {body: upstream}\n",
            ["a.yaml: request.resume is for a stream of the worker; there is no stream here"],
        ),
        (
            RESUMED.replace("  resume: {prompt: RESUME}\n", "")
            + "tests: [{name: x, given: {received: {text: a, tokens: 1}}, expect: {upstream: null}}]\n",
            ["a.yaml: this route has no request.resume, with which a lost stream goes on"],
        ),
        (RESUMED.replace("RESUME", "text").replace("cumulative, read", "cumulative, echoed: text, read"), []),
        (
            RESUMED.replace("RESUME", "text").replace("fields: {text: text}}", "fields: {text: text}}, resumed: chunk"),
            [],
        ),
        (
            RESUMED.replace("RESUME", "text").replace("cumulative, read", "cumulative, echoed: tokens, read"),
            [
                "a.yaml: expression 'tokens' reads 'tokens', which does not exist here; known: body, gateway, headers, "
                "listener, models, now, path, query, request_id, steps, text, worker"
            ],
        ),
        (
            RESUMED.replace("RESUME", "text").replace("cumulative, read", "incremental, echoed: text, read"),
            ["a.yaml: stream.from.echoed is cut off each frame's whole text; it needs text: cumulative"],
        ),
        (
            RESUMED.replace("  resume: {prompt: RESUME}\n", "").replace(
                "cumulative, read", "cumulative, echoed: x, read"
            ),
            ["a.yaml: stream.from.echoed is for a stream that goes on; there is no request.resume here"],
        ),
        (
            RESUMED.replace("  resume: {prompt: RESUME}\n", "").replace("text}}}", "text}}, resumed: chunk}"),
            ["a.yaml: this route has no request.resume, so no frame is a resumed one"],
        ),
    ],
)
def test_how_a_lost_stream_goes_on_is_checked(tmp_path: Path, text: str, problems: list[str]) -> None:
    """It stands with a stream, says something, and reads what there is."""
    pack = write(tmp_path / "one", "one", a=text)
    (pack / "errors.yaml").write_text(ERRORS + FRAMES, encoding="utf-8")
    if problems:
        assert mistakes(pack) == problems
    else:
        load_rules([pack], FUNCTIONS)


def test_a_pack_that_wants_keys_says_what_it_tells_those_without(tmp_path: Path) -> None:
    """Otherwise they would be told of a fault of the gateway."""
    folder = write(tmp_path / "p", "p", a=ROUTE.format("a"))
    (folder / "pack.yaml").write_text("pack: p\ndescription: x\nkeys: bearer\n", encoding="utf-8")
    assert mistakes(folder) == [
        "pack.yaml: keys: errors.yaml says nothing of the kind unauthorized, which is told to those without a key"
    ]
    (folder / "errors.yaml").write_text(ERRORS.replace("{default:", "{unauthorized: {status: 401}, default:"))
    assert [route.needs_key for route in load_rules([folder], FUNCTIONS).table.routes] == [True]


@pytest.mark.parametrize(
    "source", ["headers.authorization", 'headers."proxy-authorization"', "to_string(headers.authorization)"]
)
def test_a_header_that_holds_a_secret_is_not_for_rules(tmp_path: Path, source: str) -> None:
    """It would always be null; the mistake is told instead. A field of that name elsewhere is like any other."""
    route = ROUTE.format("a").replace("{value: 1}", f"{{from: '{source}'}}")
    (told,) = mistakes(write(tmp_path / "p", "p", a=route))
    assert told.endswith("which holds a secret and is hidden")
    load_rules([write(tmp_path / "q", "q", a=route.replace("headers.", "body."))], FUNCTIONS)
    matched = ROUTE.format("a").replace("path: /a}", "path: /a, headers: {Authorization: '*'}}")
    assert mistakes(write(tmp_path / "r", "r", a=matched)) == [
        "a.yaml: 'Authorization' holds a secret and is hidden from rules; pack.yaml can ask for a key (keys)"
    ]
