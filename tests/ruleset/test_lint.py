from __future__ import annotations

import pytest

from proxy.ruleset.lint import negated_selection, paths_read, steps_read


@pytest.mark.parametrize(
    "source",
    [
        "!a.b",
        "!(a).b",
        "x && !a.b",
        "!a.b.c",
        "a[?!b.c]",
        "length(!a.b)",
        "{x: !a.b}",
        "!a.*",
        "!a.[b]",
        "!a.{x: b}",
        "!a.b[0]",
        "!a | b",
        "!a[]",
    ],
)
def test_what_is_selected_from_a_negation(source: str) -> None:
    """A `!` that takes only the first name is found wherever it stands."""
    assert negated_selection(source)


@pytest.mark.parametrize(
    "source",
    [
        "!(a.b)",
        "!a",
        "!a || b.c",
        "!a[0]",
        "!length(a.b)",
        "!(a.b) && c.d",
        "!a | to_string(@)",
        "!a == b.c",
        "!a[*].b",
        "!contains(a.b, 'c')",
    ],
)
def test_what_a_negation_takes_whole(source: str) -> None:
    """A `!` before parentheses, a call, a bracket or a single name says what it means."""
    assert not negated_selection(source)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("steps.a", {"a"}),
        ("steps.a.b || steps.c[0]", {"a", "c"}),
        ("length(steps.a) > `1`", {"a"}),
        ("@.steps.a", {"a"}),
        ("@ | steps.a", {"a"}),
        ("steps.a[?steps.b].steps.c", {"a"}),
        ("body.steps.a", set()),
        ("body.x[].steps.a", set()),
        ("map(&steps.a, steps.b)", {"b"}),
        ("{steps: steps.a}", {"a"}),
        ("[steps.a, body | steps.b]", {"a"}),
        ("steps", set()),
        ("steps.*", set()),
        ("'steps.a'", set()),
        ('"steps"."a"', {"a"}),
    ],
)
def test_the_steps_that_are_read(source: str, names: set[str]) -> None:
    """Only the document's own `steps` count, not a key of the same name inside something else."""
    assert steps_read(source) == names


@pytest.mark.parametrize(
    ("source", "paths"),
    [
        ("steps.a.b[0].c", {"steps.a.b.c"}),
        ("to_array(body.x)[0].y", {"body.x"}),
        ("a[?b.c].d", {"a.b.c", "a.d"}),
        ("answers[].embedding[]", {"answers.embedding"}),
        ("merge(body, {model: worker.model})", {"body", "worker.model"}),
        ("map(&x.y, a.b)", {"a.b"}),
        ("a.*.b", {"a.b"}),
        ("a.m[*].{p: b.c}", {"a.m.b.c"}),
        ("a | b", {"a.b"}),
        ("a.b || c && !(d)", {"a.b", "c", "d"}),
        ("@", {""}),
        ("'a.b'", set()),
    ],
)
def test_the_paths_that_are_read(source: str, paths: set[str]) -> None:
    """Plain names are followed through indexes, projections and filters; what goes into something new is read whole."""
    assert {".".join(path) for path in paths_read(source)} == paths
