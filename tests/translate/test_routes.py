from __future__ import annotations

from pathlib import Path

import pytest

from proxy.ruleset import load_rules
from proxy.translate.routes import Miss, PathMatch, RouteTable, choose, path_pattern
from proxy.types import Json, JsonObject
from tests.translate.building import FUNCTIONS

ROUTES = {
    "a_any": "match: {method: [GET, POST], path: /api/echo}",
    "b_form": "match: {method: POST, path: /api/echo, headers: {X-Mode: plain}}",
    "c_long": "match: {method: POST, path: /api/echo, when: body.size > `10`}",
    "d_auth": 'match: {method: POST, path: /api/secret, headers: {X-Key: "*"}}',
    "e_model": 'match: {method: GET, path: "/api/models/{name}"}',
    "f_version": 'match: {method: DELETE, path: "/api/models/{name}/versions/{id}"}',
    "g_list": "match: {method: GET, path: /api/models/list}",
    "h_owner": 'match: {method: PUT, path: "/api/models/{name}", when: "starts_with(path.name, \'mine\')"}',
}


def write_pack(folder: Path, name: str, routes: dict[str, str]) -> None:
    folder.mkdir(parents=True)
    (folder / "pack.yaml").write_text(f"pack: {name}\ndescription: For tests.\n", encoding="utf-8")
    (folder / "errors.yaml").write_text(
        f"kinds: {{default: {{status: 500}}}}\nbody: {{fields: {{{name}: error.message}}}}\n", encoding="utf-8"
    )
    for route, match in routes.items():
        text = f"route: {route}\ndescription: x\n{match}\nanswer: {{body: {{value: 1}}}}\n"
        (folder / f"{route}.yaml").write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> RouteTable:
    root = tmp_path_factory.mktemp("packs")
    write_pack(root / "first", "first", ROUTES)
    write_pack(root / "second", "second", {"other": "match: {method: POST, path: /v1/chat}"})
    return load_rules([root], FUNCTIONS).table


def matches(table: RouteTable, method: str, path: str) -> list[PathMatch]:
    found = table.by_path(method, path)
    assert not isinstance(found, Miss), found
    return found


def chosen(
    table: RouteTable, method: str, path: str, headers: dict[str, str] | None = None, **body: Json
) -> str | None:
    scope: JsonObject = {"body": body, "path": {}, "headers": {}}
    found = choose(matches(table, method, path), headers or {}, scope)
    return found.route.name if found else None


def test_the_most_particular_route_that_fits_is_taken(table: RouteTable) -> None:
    """Headers and conditions come before the route without them, whatever the files are called."""
    assert chosen(table, "POST", "/api/echo") == "a_any"
    assert chosen(table, "POST", "/api/echo", {"x-mode": "plain"}) == "b_form"
    assert chosen(table, "POST", "/api/echo", {"x-mode": "other"}) == "a_any"
    assert chosen(table, "POST", "/api/echo", size=11) == "c_long"
    assert chosen(table, "GET", "/api/echo", {"x-mode": "plain"}, size=11) == "a_any"


def test_a_condition_that_cannot_be_evaluated_does_not_hold(table: RouteTable) -> None:
    """A request with an odd body goes to the next route and fails nowhere."""
    assert chosen(table, "POST", "/api/echo", size="big") == "a_any"
    assert chosen(table, "POST", "/api/echo", size=[1]) == "a_any"


def test_a_header_that_may_have_any_value_must_have_one(table: RouteTable) -> None:
    """`*` is any value that is not empty."""
    assert chosen(table, "POST", "/api/secret", {"x-key": "Bearer x"}) == "d_auth"
    assert chosen(table, "POST", "/api/secret", {"x-key": ""}) is None
    assert chosen(table, "POST", "/api/secret") is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/api/models/vicuna", "vicuna"),
        ("/api/models/lmsys%2Fvicuna%20v1", "lmsys/vicuna v1"),
        ("/api/models/%E5%A5%BD", "好"),
        ("/api/models/100%25", "100%"),
        ("/api/models/a%252Fb", "a%2Fb"),
    ],
)
def test_a_parameter_is_one_segment_of_the_path_as_it_came(table: RouteTable, path: str, name: str) -> None:
    """Percent-encoding is undone once, inside the parameter, so that an encoded slash does not end it."""
    (match,) = matches(table, "GET", path)
    assert (match.route.name, match.parameters) == ("e_model", {"name": name})


def test_several_parameters(table: RouteTable) -> None:
    """Each parameter has its own segment."""
    (match,) = matches(table, "DELETE", "/api/models/a/versions/7")
    assert match.parameters == {"name": "a", "id": "7"}


def test_a_fixed_path_comes_before_one_with_parameters(table: RouteTable) -> None:
    """The path that is written out is the more particular one."""
    assert chosen(table, "GET", "/api/models/list") == "g_list"


def test_a_condition_can_read_the_parameters(table: RouteTable) -> None:
    """`path.name` is there when the condition is evaluated."""
    assert chosen(table, "PUT", "/api/models/mine-1") == "h_owner"
    assert chosen(table, "PUT", "/api/models/other") is None


def test_an_encoded_fixed_path_is_the_same_path(table: RouteTable) -> None:
    """A client may encode what needs no encoding."""
    assert chosen(table, "POST", "/%61pi/echo") == "a_any"


@pytest.mark.parametrize(
    "path", ["/api/models/", "/api/models/a/b", "/api/models/a/versions/", "/api/echo/", "api/echo", ""]
)
def test_what_is_no_path_of_a_route(table: RouteTable, path: str) -> None:
    """A parameter is never empty, and a path is compared to its end."""
    assert table.by_path("GET", path) == Miss((), table.routes[0].errors)


def test_a_wrong_method_names_those_that_fit(table: RouteTable) -> None:
    """The caller learns what the path takes."""
    found = table.by_path("PATCH", "/api/echo")
    assert isinstance(found, Miss)
    assert found.methods == ("GET", "POST")
    assert table.by_path("PATCH", "/api/models/x") == Miss(("GET", "PUT"), found.errors)


@pytest.mark.parametrize(
    ("path", "dialect"), [("/v1/chatt", "second"), ("/v2", "second"), ("/api/x", "first"), ("/zzz", "first")]
)
def test_an_unknown_path_is_answered_in_the_nearest_dialect(table: RouteTable, path: str, dialect: str) -> None:
    """A client of a pack that mistypes a path gets an error that it can read; others get the first pack's."""
    found = table.by_path("GET", path)
    assert isinstance(found, Miss)
    assert found.methods == ()
    assert found.errors is not None
    described: JsonObject = {"error": {"message": "m"}, "text": ""}
    assert found.errors.body(described) == {dialect: "m"}


def test_a_table_without_routes_has_no_dialect() -> None:
    """Nothing was loaded, so nothing can be said in anybody's dialect."""
    assert RouteTable([]).by_path("GET", "/") == Miss((), None)


@pytest.mark.parametrize(
    "path", ["x", "/{}", "/{a", "/a}", "/{A}", "/{a b}", "/{a}/{a}", "/{a}{", "/{0}", "/{a}{b}", "/x/{a}-{b}"]
)
def test_what_is_no_path_pattern(path: str) -> None:
    """A parameter has a name in lower-case letters, only one place, and a segment to itself."""
    with pytest.raises(ValueError, match=r"path|parameter"):
        path_pattern(path)


def test_a_pattern_takes_its_other_characters_as_they_are() -> None:
    """A dot in a path is a dot."""
    pattern = path_pattern("/v1.0/{name}:run")
    assert pattern.fullmatch("/v1.0/x:run")
    assert not pattern.fullmatch("/v1x0/x:run")


def test_what_was_found_before_is_found_again(table: RouteTable) -> None:
    """The same routes with the parameters of each path, however many paths there are; little of it is remembered."""
    for round_number in range(2):
        for number in range(700):
            found = matches(table, "GET", f"/api/models/m%20{number}")
            assert [(match.route.name, match.parameters) for match in found] == [("e_model", {"name": f"m {number}"})]
        assert isinstance(table.by_path("POST", f"/api/models/m{round_number}"), Miss)
        assert [match.route.name for match in matches(table, "PUT", "/api/models/m%201")] == ["h_owner"]
    matches(table, "GET", "/api/models/" + "m" * 5000)
    assert len(table._found) <= 256
    assert max(len(path) for _, path, _ in table._found) < 1000
