from __future__ import annotations

import pytest

from proxy.expr import STANDARD, compile_expression


@pytest.mark.parametrize(
    ("source", "roots"),
    [
        ("body.model", {"body"}),
        ('"body x".model', {"body x"}),
        ("@.body.model", {"body"}),
        ("@ | body | model", {"body"}),
        ("body || worker.names[0]", {"body", "worker"}),
        ("!body && worker == `1`", {"body", "worker"}),
        ("body.messages[?role == 'user'].content", {"body"}),
        ("body.messages[*].[role, content]", {"body"}),
        ("body.messages[].content | [0]", {"body"}),
        ("body.* | [0].x", {"body"}),
        ("{x: body.a, y: [worker.b, `1`]}", {"body", "worker"}),
        ("{x: body} | x.y", {"body"}),
        ("body.{x: y, z: length(w)}", {"body"}),
        ("body.[model, temperature]", {"body"}),
        ("length(body.text)", {"body"}),
        ("sort_by(body.list, &rank)", {"body"}),
        ("map(&inner, body)", {"body"}),
        ("body.get(@, 'x')", {"body"}),
        ("'text'", set()),
        ("body[1:2].x", {"body"}),
    ],
)
def test_roots_are_the_names_read_from_the_document(source: str, roots: set[str]) -> None:
    """Names read from the document count, names read from elements and from results do not."""
    expression = compile_expression(source, STANDARD)
    assert expression.roots == roots
    assert not expression.reads_everything


@pytest.mark.parametrize(
    ("source", "roots"),
    [
        ("@", set()),
        ("*", set()),
        ("[0]", set()),
        ("[*].a", set()),
        ("[?a].b", set()),
        ("keys(@)", set()),
        ("{all: @, one: body}", {"body"}),
        ("@ | @", set()),
        ("body || @", {"body"}),
    ],
)
def test_use_of_the_whole_document_is_told(source: str, roots: set[str]) -> None:
    """An expression that takes the document as a whole says that its roots are not all it reads."""
    expression = compile_expression(source, STANDARD)
    assert expression.reads_everything
    assert expression.roots == roots
