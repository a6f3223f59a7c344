from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.translate.changes import header_values
from proxy.translate.mapping import OMIT, FieldProblem, shown, truthy
from proxy.types import Json
from tests.translate.building import mapped, mapping

MESSAGES = {"each": "body.messages"}


def refusal(text: str, body: Json) -> tuple[str, str]:
    with pytest.raises(FieldProblem) as caught:
        mapped(text, body)
    return caught.value.field, caught.value.message


@pytest.mark.parametrize(
    ("text", "body", "expected"),
    [
        ("body.a", {"a": 1}, 1),
        ("{from: body.a.b}", {"a": {"b": [1]}}, [1]),
        ("{value: {deep: [1, null]}}", {}, {"deep": [1, None]}),
        ("{value: null}", {}, None),
        ("{from: body.a, default: 5}", {}, 5),
        ("{from: body.a, default: 5}", {"a": None}, 5),
        ("{from: body.a, default: 5}", {"a": 0}, 0),
        ("{from: body.a, default: null}", {}, OMIT),
        ("body.a", {}, OMIT),
        ("body.a", {"a": None}, OMIT),
        ("{from: body.a, null: keep}", {}, None),
        ("{from: body.a, null: keep, type: string}", {"a": None}, None),
        ("{from: body.a, when: body.on}", {"a": 1, "on": True}, 1),
        ("{from: body.a, when: body.on}", {"a": 1, "on": False}, OMIT),
        ("{value: 1, when: body.on}", {"on": 0}, 1),
        ("{from: body.a, required: true, when: body.on}", {}, OMIT),
        ("{from: body.a, table: roles}", {"a": "human"}, "user"),
        ("{from: body.a, table: roles}", {"a": 1}, "one"),
        ("{from: body.a, table: roles}", {"a": "gone"}, OMIT),
        ("{from: body.a, table: roles, null: keep}", {"a": "gone"}, None),
        ("{from: body.a, table: roles, unknown: keep}", {"a": "view"}, "view"),
        ("{from: body.a, table: roles, unknown: omit}", {"a": ["view"]}, OMIT),
        ("{from: body.a, table: {x: {y: 1}}}", {"a": "x"}, {"y": 1}),
        ("{from: body.a, type: integer}", {"a": 512.0}, 512),
        ("{from: body.a, type: number, min: 0, max: 2}", {"a": 2}, 2),
        ("{from: body.a, type: strings}", {"a": ["x", "y"]}, ["x", "y"]),
        ("{from: body.a, type: strings}", {"a": "x"}, "x"),
        ("{from: body.a, type: integers}", {"a": [1, 2]}, [1, 2]),
        ("{from: body.a, type: object}", {"a": {}}, {}),
        ("{from: body.a, type: array}", {"a": []}, []),
        ("{from: body.a, type: boolean}", {"a": False}, False),
        ("{from: body.a, one_of: [1, x, null]}", {"a": 1.0}, 1.0),
        ("{from: body.a, clamp: {min: 1, max: 10}}", {"a": 50}, 10),
        ("{from: body.a, clamp: {min: 1, max: 10}}", {"a": 0}, 1),
        ("{from: body.a, clamp: {max: body.b}}", {"a": 50, "b": 7}, 7),
        ("{from: body.a, clamp: {max: body.b}}", {"a": 50}, 50),
        ("{from: body.a, clamp: {max: body.b}}", {"a": 50, "b": True}, 50),
        ("{from: body.a, clamp: {max: 1}}", {"a": "text"}, "text"),
        ("{from: body.a, clamp: {min: 5, max: 3}}", {"a": 9}, 5),
        ("{fields: {}}", {}, {}),
        ("{fields: {b: body.b, a: {fields: {c: body.c, d: body.d}}}}", {"c": 1}, {"a": {"c": 1}}),
        ("{items: [body.a, {value: 2}, body.c, {items: [body.a]}]}", {"a": 1}, [1, 2, [1]]),
    ],
)
def test_what_a_mapping_gives(text: str, body: Json, expected: object) -> None:
    """Each directive by itself, and what is left out when nothing is there."""
    found = mapped(text, body)
    assert found == expected
    assert type(found) is type(expected)


def test_the_order_of_an_object_is_the_order_of_the_rule() -> None:
    """What is sent looks as the rule does, whatever order the request had."""
    found = mapped("{fields: {z: body.z, a: body.a}}", {"a": 1, "z": 2})
    assert isinstance(found, dict)
    assert list(found) == ["z", "a"]


@pytest.mark.parametrize(
    ("text", "body", "field", "message"),
    [
        ("{from: body.a, required: true}", {}, "a", "is missing; expected a value"),
        ("{from: body.a, required: true, type: string}", {"a": None}, "a", "is missing; expected a string"),
        ("{from: body.a.b, type: string}", {"a": {"b": 5}}, "a.b", "expected a string, got 5"),
        ("{from: body.a, type: integer}", {"a": 1.5}, "a", "expected a whole number, got 1.5"),
        ("{from: body.a, type: integer}", {"a": True}, "a", "expected a whole number, got true"),
        ("{from: body.a, type: integer, min: 1}", {"a": "5"}, "a", "expected a whole number of at least 1, got '5'"),
        ("{from: body.a, type: integer}", {"a": 1e300}, "a", "expected a whole number, got 1e+300"),
        ("{from: body.a, type: number}", {"a": False}, "a", "expected a number, got false"),
        ("{from: body.a, type: number, min: 0, max: 2}", {"a": 2.1}, "a", "expected a number between 0 and 2, got 2.1"),
        ("{from: body.a, max: 2}", {"a": 3}, "a", "expected a number of at most 2, got 3"),
        ("{from: body.a, min: 2}", {"a": "3"}, "a", "expected a number of at least 2, got '3'"),
        ("{from: body.a, type: boolean}", {"a": 1}, "a", "expected true or false, got 1"),
        ("{from: body.a, type: strings}", {"a": ["x", 1]}, "a", "expected a string or an array of strings, got an"),
        ("{from: body.a, type: integers}", {"a": [True]}, "a", "expected an array of whole numbers, got an array of 1"),
        ("{from: body.a, type: object}", {"a": []}, "a", "expected an object, got an array of 0"),
        ("{from: body.a, type: array}", {"a": {}}, "a", "expected an array, got an object"),
        ("{from: body.a, table: roles}", {"a": "view"}, "a", "expected one of human, ai, 1, gone; got 'view'"),
        ("{from: body.a, table: roles}", {"a": True}, "a", "expected one of human, ai, 1, gone; got true"),
        ("{from: body.a, one_of: [1, x]}", {"a": True}, "a", "expected one of 1, 'x'; got true"),
        ("{from: body.a, null: refuse}", {"a": None}, "a", "null is not a value here; leave the field out"),
        ("{from: 'body.a || body.b', type: string}", {"a": 5}, "field", "expected a string, got 5"),
        ("{from: 'body.a || body.b', name: a or b, type: string}", {"a": 5}, "a or b", "expected a string, got 5"),
        ("{fields: {inner: {from: 'not_null(body.a)', type: string}}}", {"a": 5}, "inner", "expected a string, got 5"),
    ],
)
def test_what_a_mapping_refuses(text: str, body: Json, field: str, message: str) -> None:
    """A refused value names the caller's field, what was expected and what came."""
    found = refusal(text, body)
    assert found[0] == field
    assert found[1].startswith(message)


def test_a_number_out_of_range_is_told_from_one_of_another_type() -> None:
    """Dialects have a code of its own for a range; a wrong type is no range."""
    for value, out_of_range in ((3, True), (-1, True), ("3", False), (None, False)):
        with pytest.raises(FieldProblem) as caught:
            mapped("{from: body.a, type: number, min: 0, max: 2, null: refuse}", {"a": value})
        assert caught.value.out_of_range is out_of_range


EACH = """
  each: body.messages
  where: item.role != 'view'
  fields:
    place: index
    role: {from: item.role, required: true, type: string, table: roles}
    parts: {each: item.parts, from: item.text, type: string, required: true}
    model: body.model
    said_by: item.role
"""


def test_each_makes_one_element_for_each_that_is_wanted() -> None:
    """The body of an iteration sees the element, its own position and everything outside."""
    body: Json = {
        "model": "m",
        "messages": [
            {"role": "human", "parts": [{"text": "a"}, {"text": "b"}]},
            {"role": "view"},
            {"role": "ai", "parts": []},
        ],
    }
    assert mapped(EACH, body) == [
        {"place": 0, "role": "user", "parts": ["a", "b"], "model": "m", "said_by": "human"},
        {"place": 2, "role": "assistant", "parts": [], "model": "m", "said_by": "ai"},
    ]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "view"}, {"role": "human"}, {"role": "robot"}], "messages[2].role"),
        ([{}], "messages[0].role"),
        (["text"], "messages[0].role"),
        ([{"role": "human", "parts": [{"text": "x"}, {"text": 5}]}], "messages[0].parts[1].text"),
        ([{"role": "human", "parts": "x"}], "messages[0].parts"),
        ({"role": "human"}, "messages"),
    ],
)
def test_a_problem_inside_a_list_is_named_by_its_position_in_the_request(messages: Json, field: str) -> None:
    """Positions count what the caller wrote, also where elements before were left out."""
    assert refusal(EACH, {"messages": messages})[0] == field


@pytest.mark.parametrize(
    ("text", "body", "expected"),
    [
        ("{each: body.a, from: item}", {}, OMIT),
        ("{each: body.a, from: item, null: keep}", {}, None),
        ("{each: body.a, from: item}", {"a": [1, None, 2]}, [1, 2]),
        ("{each: body.a, from: item, null: keep}", {"a": [1, None]}, [1, None]),
        ("{each: body.a, from: item, default: 7}", {"a": [1, None]}, [1, 7]),
        ("{each: body.a, from: item, when: body.on}", {"a": [1]}, OMIT),
        ("{each: body.a, where: item > `1`, from: index}", {"a": [1, 2, 3]}, [1, 2]),
        ("{each: 'to_array(body.a)', name: a, from: item}", {"a": "x"}, ["x"]),
    ],
)
def test_each_and_what_is_not_there(text: str, body: Json, expected: object) -> None:
    """An absent list stays absent, and absent elements are left out unless the rule keeps them."""
    assert mapped(text, body) == expected


def test_an_element_that_is_null_can_be_refused() -> None:
    """`null: refuse` works on the elements of a list too."""
    assert refusal("{each: body.a, from: item, null: refuse}", {"a": [1, None]})[0] == "a[1]"


def test_a_problem_in_a_list_without_a_plain_name_uses_the_given_one() -> None:
    """`name` stands for the list in the message."""
    text = "{each: 'to_array(body.a)', name: a, from: item, type: string}"
    assert refusal(text, {"a": 5}) == ("a[0]", "expected a string, got 5")


def test_headers_are_text_and_absent_where_they_are_null() -> None:
    """A null makes no header, a number and a boolean are written as JSON writes them."""
    values: dict[str, Json] = {"a": None, "b": "text", "c": 5, "d": True}
    reads = {name: (lambda scope, value=value: value) for name, value in values.items()}
    assert header_values(reads, {}) == {"b": "text", "c": "5", "d": "true"}


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "\x00", [1], {"a": 1}])
def test_what_no_header_can_carry_is_refused(value: Json) -> None:
    """A line break from a request never becomes a header of its own."""
    with pytest.raises(FieldProblem, match="header x: expected text without control characters"):
        header_values({"x": lambda scope: value}, {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ("a", "'a'"),
        ("a" * 99, "a string of 99 characters"),
        ({}, "an object"),
    ],
)
def test_a_value_in_a_message_is_short(value: Json, expected: str) -> None:
    """No prompt goes into an error message."""
    assert shown(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, True),
        (0.0, True),
        ("0", True),
        ([0], True),
        (None, False),
        (False, False),
        ("", False),
        ([], False),
        ({}, False),
    ],
)
def test_truth_is_that_of_the_expressions(value: Json, expected: bool) -> None:
    """Every number is true; what is empty is not."""
    assert truthy(value) is expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "role", "parts", "text"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SPECS = [
    mapping(text)
    for text in (
        EACH.replace("body.messages", "body.a"),
        "{from: body.a, type: integer, min: -5, clamp: {max: body.a}}",
        "{from: body.a, type: integers}",
        "{fields: {x: {from: body.a, type: number, null: refuse}, y: {from: body.a.a, null: keep}}}",
    )
]


@settings(max_examples=150, deadline=None)
@given(JSON, st.sampled_from(SPECS))
def test_any_request_is_mapped_to_json_or_refused(value: Json, spec: object) -> None:
    """Whatever a caller sends, a mapping gives JSON that can be sent, or a problem with the field's name."""
    assert callable(spec)
    try:
        found = spec({"body": {"a": value}})
    except FieldProblem as problem:
        named = problem.field
    else:
        named = "a"
        assert found is OMIT or orjson.dumps(found)
    assert named


@pytest.mark.parametrize("levels", [3, 10, 18])
def test_mappings_inside_each_other(levels: int) -> None:
    """Python takes 100 levels of indentation and 20 loops inside each other."""
    objects, arrays = "body.a", "{from: item.a, type: string}"
    expected: Json = "x"
    document: Json = {"a": "x"}
    for _ in range(levels):
        objects = f"{{fields: {{inner: {objects}}}, when: body.a}}"
        arrays = f"{{each: item.b, null: keep, fields: {{inner: {arrays}, at: index}}}}"
        expected, document = {"inner": expected}, {"b": [document]}
    assert mapped(objects, {"a": "x"}) == expected
    outermost = arrays.replace("item.b", "body.b", 1)
    found = mapped(outermost, document)
    for _ in range(levels):
        assert isinstance(found, list)
        (found,) = found
        assert isinstance(found, dict)
        assert found["at"] == 0
        found = found["inner"]
    assert found == "x"
    with pytest.raises(FieldProblem, match="expected a string") as refused:
        mapped(outermost, _with_number(levels))
    assert refused.value.field == "b" + "[0].b" * (levels - 1) + "[0].a"


def test_an_element_as_a_whole_has_its_own_names_last() -> None:
    """`@` inside `each` is what the mapping sees, then `item`, then `index`; an inner one has its own."""
    inner = "{each: item, fields: {seen: 'keys(@)', at: index, all: \"@.item\"}}"
    found = mapped(f"{{each: body.a, fields: {{seen: 'keys(@)', inner: {inner}}}}}", {"a": [[5, 6]]})
    seen: list[Json] = ["body", "item", "index"]
    items: list[Json] = [{"seen": seen, "at": 0, "all": 5}, {"seen": seen, "at": 1, "all": 6}]
    assert found == [{"seen": seen, "inner": items}]


def _with_number(levels: int) -> Json:
    document: Json = {"a": 5}
    for _ in range(levels):
        document = {"b": [document]}
    return document
