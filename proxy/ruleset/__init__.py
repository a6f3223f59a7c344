"""Rule files to compiled plans: read, checked, compiled, tested."""

from proxy.ruleset.loader import RouteTest, RuleSet, load_rules, shipped_rules
from proxy.ruleset.selftest import Outcome, run_tests
from proxy.ruleset.sources import found_pack

__all__ = ["Outcome", "RouteTest", "RuleSet", "found_pack", "load_rules", "run_tests", "shipped_rules"]
