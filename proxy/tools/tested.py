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
    outcomes = list(run_tests(load_rules([shipped_rules()], rule_functions()).tests))
    failed = [outcome for outcome in outcomes if outcome.problems]
    for outcome in failed:
        click.echo(f"{outcome.test.place}: {outcome.test.test.name}: {'; '.join(outcome.problems)}", err=True)
    if failed:
        sys.exit(1)
    note(shipped_rules())
    click.echo(f"{len(outcomes)} tests passed; noted in {shipped_rules()}")


if __name__ == "__main__":
    main()
