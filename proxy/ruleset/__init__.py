"""Rule files to compiled plans: read, checked, compiled, tested."""

from proxy.ruleset.loader import RouteTest, RuleSet, load_rules, shipped_rules
from proxy.ruleset.selftest import Outcome, run_tests

__all__ = ["Outcome", "RouteTest", "RuleSet", "load_rules", "run_tests", "shipped_rules"]
