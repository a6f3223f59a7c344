"""`check`: every mistake in rule packs, and what packs change in those that they extend."""

from __future__ import annotations

from collections.abc import Iterator

import click

from proxy.backends.functions import rule_functions
from proxy.documents import Diagnostic
from proxy.ruleset import RuleSet
from proxy.ruleset.backends import BackendSource
from proxy.ruleset.loader import PackSource
from proxy.ruleset.review import review
from proxy.ruleset.sources import FileChanges
from proxy.tools.terminal import columns, counted, mistakes_json, near
from proxy.types import Json

_MARKS = {"added": ("+", "green"), "changed": ("~", "yellow"), "removed": ("-", "red")}


def findings(rules: RuleSet) -> list[Diagnostic]:
    """What is wrong although the rules compile, in the order of the files."""
    return sorted(set(review(rules, rule_functions())))


def _named(rules: RuleSet) -> list[BackendSource]:
    """The backends in the folders that were asked for."""
    return [backend for backend in rules.backends.values() if backend.named]


def _packs(rules: RuleSet) -> list[PackSource | BackendSource]:
    return [*rules.sources, *_named(rules)]


def pack_lines(rules: RuleSet) -> Iterator[str]:
    """For people: what there is."""
    rows = [
        [
            click.style(pack.name, bold=True),
            counted(len(pack.routes), "route"),
            counted(sum(len(source.doc.tests) for source in pack.routes), "test"),
            near(str(pack.folder)),
        ]
        for pack in rules.sources
    ]
    rows += [
        [
            click.style(f"backend {backend.name}", bold=True),
            counted(len(backend.operations), "operation"),
            counted(sum(len(way.doc.tests) for way in backend.operations), "test"),
            near(str(backend.folder)),
        ]
        for backend in _named(rules)
    ]
    yield from columns(rows)


def change_lines(rules: RuleSet) -> Iterator[str]:
    """For people: each shipped rule that is changed, and which of its fields, with where that is written."""
    for pack in _packs(rules):
        if pack.base is None:
            continue
        yield f"{click.style(pack.name, bold=True)} ({near(str(pack.folder))}) extends {near(str(pack.base))}"
        told = [each for each in pack.changes if each.changes is None or each.changes]
        if not told:
            yield "  and changes nothing"
        for part in told:
            yield from _part_lines(part)


def _part_lines(part: FileChanges) -> Iterator[str]:
    if part.changes is None:
        yield f"  {part.part}: {click.style('removed', fg='red')} by {near(part.file)}; was {near(part.base)}"
        return
    yield f"  {part.part}: {near(part.file)} over {near(part.base)}"
    rows = []
    for change in part.changes:
        mark, colour = _MARKS[change.what]
        rows.append([click.style(f"{mark} {change.path}", fg=colour), f"line {change.place.line}"])
    yield from (f"    {line}" for line in columns(rows))


def check_json(rules: RuleSet, mistakes: list[Diagnostic]) -> Json:
    """For programs: packs, routes, mistakes, and the changes of packs that extend others."""
    changes: list[Json] = [
        {"pack": pack.name, "part": part.part, "file": part.file, "base": part.base, **_changed(part)}
        for pack in _packs(rules)
        for part in pack.changes
    ]
    return {
        "packs": list(rules.packs),
        "routes": len(rules.table.routes),
        "backends": [backend.name for backend in _named(rules)],
        "tests": len(rules.tests),
        "mistakes": mistakes_json(mistakes),
        "changes": changes,
    }


def _changed(part: FileChanges) -> dict[str, Json]:
    if part.changes is None:
        return {"removed": True, "fields": []}
    return {
        "removed": False,
        "fields": [
            {"what": each.what, "path": each.path, "file": each.place.file, "line": each.place.line}
            for each in part.changes
        ],
    }
