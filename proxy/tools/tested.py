"""`python -m proxy.tools.tested`: test the rules that come with the program, and note that they passed.

A start of the gateway does not test them again as long as they are as they were then.
"""

from __future__ import annotations

import sys

import click

from proxy.backends.functions import rule_functions
from proxy.ruleset import load_rules, run_tests, shipped_rules
from proxy.ruleset.tested import note


def main() -> None:
    home = shipped_rules()
    outcomes = list(run_tests(load_rules([home], rule_functions()).tests))
    if failed := [line for outcome in outcomes for line in outcome.told]:
        sys.exit("\n".join(failed))
    note(home)
    click.echo(f"{len(outcomes)} tests passed; noted in {home}")


if __name__ == "__main__":
    main()
