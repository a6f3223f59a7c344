from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from proxy.backends.functions import rule_functions
from proxy.documents import DocumentError, parse_yaml
from proxy.ruleset import RuleSet, load_rules, run_tests, shipped_rules
from proxy.ruleset.documents import RouteDoc
from proxy.ruleset.extending import Extension, parse_path, shown_path
from proxy.ruleset.pack_documents import ErrorsDoc, PackDoc
from proxy.ruleset.tree import tree_of

FUNCTIONS = rule_functions()
SHIPPED = sorted(shipped_rules().rglob("*.yaml"))
BASE = {
    "pack.yaml": """
        pack: base
        description: x
        tables: {roles: {a: b}}
        sample: {model: vicuna, defaults: {top_p: 0.5}}
        """,
    "errors.yaml": """
        kinds: {busy: {status: 503, code: 1}, default: {status: 500, code: 2}}
        body: {fields: {detail: error.message, code: error.code}}
        """,
    "chat.yaml": """
        route: chat
        description: x
        match: {method: POST, path: /chat}
        worker: {kind: llm, model: body.model}
        steps:
          - {check: body.text, field: text, message: text is missing}
          - {set: text, value: {from: body.text, type: string}}
          - {set: size, value: length(steps.text)}
        request:
          path: /x
          body:
            fields:
              text: steps.text
              size: steps.size
              heat: {from: body.heat, type: number, min: 0, max: 2}
              top_p: body.top_p
        answer: {body: {fields: {answer: upstream.text}}}
        tests:
          - {name: the text goes on, given: {request: {text: abc, heat: 1}}, expect: {upstream: {text: abc, size: 3}}}
          - {name: it is needed, given: {request: {}}, expect: {error: {kind: invalid_request, field: text}}}
        """,
    "whole.yaml": """
        route: whole
        description: x
        match: {method: POST, path: /whole}
        like: chat
        answer: {body: upstream}
        """,
    "ping.yaml": """
        route: ping
        description: x
        match: {method: GET, path: /ping}
        answer: {body: {value: {pong: true}}}
        tests: [{name: it answers, given: {}, expect: {answer: {pong: true}}}]
        """,
}


def write(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        lines = [line[8:] for line in text.strip("\n").splitlines()]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def extended(tmp_path: Path, files: dict[str, str]) -> Path:
    write(tmp_path / "base", BASE)
    return write(tmp_path / "mine", {"pack.yaml": "        extends: ../base\n", **files})


def load(tmp_path: Path, files: dict[str, str]) -> RuleSet:
    return load_rules([extended(tmp_path, files)], FUNCTIONS)


def mistakes(tmp_path: Path, files: dict[str, str]) -> list[str]:
    mine = extended(tmp_path, files)
    with pytest.raises(DocumentError) as caught:
        load_rules([mine], FUNCTIONS)
    return [
        f"{Path(entry.file).parent.name}/{Path(entry.file).name}:{entry.line}:{entry.column}: {entry.message}"
        for entry in caught.value.diagnostics
    ]


def failing(rules: RuleSet) -> dict[str, tuple[str, ...]]:
    return {outcome.test.test.name: outcome.problems for outcome in run_tests(rules.tests) if outcome.problems}


def changes(rules: RuleSet) -> list[str]:
    return [
        f"{part.part}: {change.what} {change.path} at {Path(change.place.file).name}:{change.place.line}"
        for part in rules.sources[0].changes
        for change in part.changes or ()
    ]


def test_a_pack_that_changes_nothing_is_the_one_it_extends(tmp_path: Path) -> None:
    """One line makes a pack of the same name, routes and tests."""
    rules = load(tmp_path, {})
    assert rules.packs == ("base",)
    assert [route.name for route in rules.table.routes] == ["chat", "ping", "whole"]
    assert len(rules.tests) == 3
    assert failing(rules) == {}
    assert changes(rules) == []


def test_one_field_is_changed_and_the_rest_stays(tmp_path: Path) -> None:
    """A mapping is merged key by key, an expression is a `from`, another source takes its place; each is listed."""
    rules = load(
        tmp_path,
        {
            "mine.yaml": """
        extends: chat
        request:
          body:
            fields:
              heat: {max: 1, default: 0.5}
              top_p: {default: 0.9}
              size: {value: 7}
              more: {value: true}
        tests:
          - name: the text goes on
            given: {request: {text: abc}}
            expect: {upstream: {text: abc, size: 7, heat: 0.5, top_p: 0.9, more: true}}
          - {name: heat is limited, given: {request: {text: a, heat: 1.5}}, expect: {error: {kind: out_of_range}}}
        """
        },
    )
    assert failing(rules) == {}
    assert [test.test.name for test in rules.tests] == [
        "the text goes on",
        "it is needed",
        "heat is limited",
        "it answers",
    ]
    assert [Path(test.file).name for test in rules.tests] == ["mine.yaml", "chat.yaml", "mine.yaml", "ping.yaml"]
    assert changes(rules) == [
        "chat: changed request.body.fields.heat.max at mine.yaml:5",
        "chat: added request.body.fields.heat.default at mine.yaml:5",
        "chat: added request.body.fields.top_p.default at mine.yaml:6",
        "chat: added request.body.fields.size.value at mine.yaml:7",
        "chat: added request.body.fields.more at mine.yaml:8",
        'chat: changed tests."the text goes on" at mine.yaml:10',
        'chat: added tests."heat is limited" at mine.yaml:13',
    ]


def test_an_inherited_test_that_no_longer_holds_fails(tmp_path: Path) -> None:
    """Whoever changes a rule hears which of its promises that breaks."""
    rules = load(
        tmp_path, {"mine.yaml": "        extends: chat\n        request: {body: {fields: {size: {value: 7}}}}\n"}
    )
    assert failing(rules) == {"the text goes on": ("upstream[0].size: expected 3, got 7",)}


def test_what_is_like_a_changed_route_changes_with_it(tmp_path: Path) -> None:
    """`like` finds the changed route, for it stands in the place of the original."""
    rules = load(tmp_path, {"mine.yaml": "        extends: chat\n        request: {path: /y}\n"})
    assert {route.name: route.upstream.path for route in rules.table.routes if route.upstream} == {
        "chat": "/y",
        "whole": "/y",
    }


def test_fields_routes_and_tests_are_removed(tmp_path: Path) -> None:
    """`remove` takes away what a path names, `remove_routes` whole routes."""
    rules = load(
        tmp_path,
        {
            "pack.yaml": """
        extends: ../base
        pack: mine
        remove_routes: [ping]
        remove: [sample.defaults]
        """,
            "mine.yaml": """
        extends: chat
        remove:
          - request.body.fields.size
          - steps.size
          - steps."body.text"
          - tests."it is needed"
          - tests."the text goes on"
        tests: [{name: no text, given: {request: {}}, expect: {upstream: {}, without: [size, text]}}]
        """,
        },
    )
    assert rules.packs == ("mine",)
    assert [route.name for route in rules.table.routes] == ["chat", "whole"]
    assert rules.sources[0].doc.sample == {"model": "vicuna"}
    assert failing(rules) == {}
    assert changes(rules)[0] == "pack.yaml: removed sample.defaults at pack.yaml:4"
    assert 'chat: removed steps."body.text" at mine.yaml:5' in changes(rules)


@pytest.mark.parametrize(
    ("head", "base", "name"),
    [("pack.yaml", "ollama", "ollama_embeddings"), ("backend.yaml", "ollama", "ollama_generate")],
)
def test_what_was_accepted_to_be_lost_goes_with_its_route(tmp_path: Path, head: str, base: str, name: str) -> None:
    """A shipped route, or a way of asking a backend, is taken away by its name alone."""
    (tmp_path / head).write_text(f"extends: {base}\nremove_routes: [{name}]\n", encoding="utf-8")
    rules = load_rules([tmp_path], rule_functions())
    routes = [route.name for route in rules.table.routes]
    names = routes if head == "pack.yaml" else [each.doc.name for each in rules.backends[base].operations]
    assert name not in names
    assert "ollama_embed" in names


def test_steps_are_replaced_and_put_between(tmp_path: Path) -> None:
    """A step of the same name takes the place of the old one; before and after add one, several in their order."""
    rules = load(
        tmp_path,
        {
            "mine.yaml": """
        extends: chat
        steps:
          - {set: text, value: "upper(body.text)"}
          - {set: one, value: {value: 1}, after: text}
          - {set: two, value: steps.one, after: text}
          - {check: body.heat, message: heat is missing, before: body.text}
        request: {body: {fields: {two: steps.two}}}
        tests:
          - {name: the text goes on, given: {request: {text: abc, heat: 1}}, expect: {upstream: {text: ABC, two: 1}}}
          - {name: it is needed, given: {request: {}}, expect: {error: {kind: invalid_request, says: heat is missing}}}
        """
        },
    )
    assert failing(rules) == {}


def test_errors_tables_and_new_routes(tmp_path: Path) -> None:
    """The error table and what the pack shares are merged too; a file without extends is one more route."""
    rules = load(
        tmp_path,
        {
            "pack.yaml": "        extends: ../base\n        tables: {roles: {c: d}, more: {e: f}}\n",
            "errors.yaml": "        kinds: {busy: {status: 429}}\n",
            "new.yaml": """
        route: new
        description: x
        match: {method: POST, path: /new}
        answer: {body: {fields: {role: {from: body.role, table: roles}}}}
        tests: [{name: it is there, given: {request: {role: a}}, expect: {answer: {role: b}}}]
        """,
        },
    )
    table = rules.table.routes[0].errors
    assert (table.entries["busy"].status, table.entries["busy"].code) == (429, 1)
    assert rules.sources[0].doc.tables == {"roles": {"a": "b", "c": "d"}, "more": {"e": "f"}}
    assert failing(rules) == {}


def test_packs_extend_each_other_but_not_themselves(tmp_path: Path) -> None:
    """A pack may extend one that extends another; a circle is a mistake, not an endless loop."""
    mine = extended(tmp_path, {"mine.yaml": "        extends: chat\n        request: {path: /y}\n"})
    third = write(
        tmp_path / "third",
        {
            "pack.yaml": "        extends: ../mine\n",
            "chat.yaml": "        extends: chat\n        request: {method: GET}\n",
        },
    )
    (chat, *_) = load_rules([third], FUNCTIONS).table.routes
    assert chat.upstream is not None
    assert (chat.upstream.path, chat.upstream.method) == ("/y", "GET")
    assert chat.place == f"{third}/chat.yaml:1"
    write(tmp_path / "base", {"pack.yaml": "        extends: ../third\n"})
    with pytest.raises(DocumentError, match="this pack would extend itself"):
        load_rules([mine], FUNCTIONS)


def test_an_extending_pack_stands_in_the_place_of_its_base(tmp_path: Path) -> None:
    """Where both are given, requests go to the one that extends the other."""
    mine = extended(tmp_path, {"pack.yaml": "        extends: ../base\n        pack: mine\n"})
    assert load_rules([tmp_path / "base", mine], FUNCTIONS).packs == ("mine",)
    assert load_rules([tmp_path], FUNCTIONS).packs == ("mine",)


def test_every_shipped_pack_can_be_extended(tmp_path: Path) -> None:
    """By its name alone, and its own tests pass in the new pack."""
    for name in sorted(path.name for path in shipped_rules().iterdir() if (path / "pack.yaml").is_file()):
        pack = write(tmp_path / name, {"pack.yaml": f"        extends: {name}\n"})
        rules = load_rules([pack], FUNCTIONS)
        plain = load_rules([shipped_rules() / name], FUNCTIONS)
        assert [route.name for route in rules.table.routes] == [route.name for route in plain.table.routes]
        assert len(rules.tests) == len(plain.tests)


def test_the_documented_extension_works(tmp_path: Path) -> None:
    """The example of the rule language's description compiles, and all tests of the pack pass with it."""
    text = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^```yaml\n# (\w+\.yaml)[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert list(files) == ["pack.yaml", "chat.yaml"]
    for name, content in files.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    rules = load_rules([tmp_path], FUNCTIONS)
    assert failing(rules) == {}
    assert len(changes(rules)) == 8


@pytest.mark.parametrize(
    "file", sorted(shipped_rules().rglob("*.yaml")), ids=lambda file: f"{file.parent.name}-{file.name}"
)
def test_a_file_over_itself_changes_nothing(file: Path) -> None:
    """Whatever a rule file holds, saying it again is no change."""
    models: dict[str, type[BaseModel]] = {"pack.yaml": PackDoc, "errors.yaml": ErrorsDoc}
    model = models.get(file.name, RouteDoc)
    tree = tree_of(parse_yaml(file.read_text(encoding="utf-8"), str(file)))
    extension = Extension(model)
    assert extension.apply(tree, tree).plain() == tree.plain()
    assert (extension.changes, extension.mistakes) == ([], [])


def test_a_mistake_points_to_the_file_that_it_is_in(tmp_path: Path) -> None:
    """What the merged rule says wrong is told where that value came from: the user's file, or the pack's."""
    text = "        extends: chat\n        request: {body: {fields: {heat: {min: 5}, text: steps.txt}}}\n"
    low = "mine/mine.yaml:2:33: min 5 is above max 2"
    assert mistakes(tmp_path, {"mine.yaml": text}) == [low]
    both = mistakes(tmp_path, {"mine.yaml": text + "        steps: [{set: size}]\n"})
    assert both == [low, "mine/mine.yaml:3:9: a step that sets a name has either value or ask"]
    gone = mistakes(tmp_path, {"mine.yaml": "        extends: chat\n        remove: [steps.size]\n"})
    assert gone == [
        "base/chat.yaml:14:13: expression 'steps.size' reads 'steps.size', which no step before it sets; known: text"
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.b_c.d-e", ("a", "b_c", "d-e")),
        ('tests."a. b".x', ("tests", "a. b", "x")),
        ('steps."a == \\"b\\""', ("steps", 'a == "b"')),
    ],
)
def test_paths(text: str, parts: tuple[str, ...]) -> None:
    """A name with a dot or a space stands in quotes, in what is read and in what is shown."""
    assert parse_path(text) == parts
    assert shown_path(parts) == text


@pytest.mark.parametrize("text", ["", ".", "a..b", '"a', 'a."b', "a."])
def test_what_is_no_path(text: str) -> None:
    """A slip in a path is not taken for another path."""
    assert parse_path(text) is None
