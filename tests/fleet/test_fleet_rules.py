"""What the rules say of a model."""

from __future__ import annotations

from proxy.fleet.rules import FALLBACKS_MAX, FleetRules, ModelRules


def test_a_chain_is_short_and_has_nobody_twice() -> None:
    """However the settings name fallbacks, there are at most three beside the model, each once."""
    line = FleetRules(models={f"m{number}": ModelRules(fallback=f"m{number + 1}") for number in range(9)})
    assert line.chain("m0") == ("m0", "m1", "m2", "m3")
    assert len(line.chain("m2")) == 1 + FALLBACKS_MAX
    assert line.chain("m8") == ("m8", "m9")
    circle = FleetRules(models={"a": ModelRules(fallback="b"), "b": ModelRules(fallback="a")})
    assert circle.chain("a") == ("a", "b")
    assert FleetRules(models={"a": ModelRules(fallback="a")}).chain("a") == ("a",)


def test_a_limit_is_never_nothing() -> None:
    """A worker that says it takes nothing is still given one request at a time."""
    assert FleetRules().limit("http://a:1", "m", 0) == 1
