"""What is true of every source file: names of products, sizes, limits, and tests that test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.structure.sources import ROOT, functions, module_name, part_of, python_files, tree

PRODUCTS = re.compile("fast-?chat|db-?gpt|openai|ollama", re.IGNORECASE)
# Packages that are about products, or play one.
ABOUT_PRODUCTS = {"backends", "demo"}
FUNCTION_LINES_MAX = 60
FILE_LINES_MAX = 400

FILES = python_files("proxy", "tests", "benchmarks")
TESTS = python_files("tests")


def test_product_names_stay_where_products_are_known() -> None:
    """Product knowledge is in rule files and in `proxy/backends`; the rest of the program is mechanism."""
    found = []
    for file in python_files("proxy"):
        if part_of(module_name(file)) in ABOUT_PRODUCTS:
            continue
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8").splitlines(), 1):
            if PRODUCTS.search(line):
                found.append(f"{file}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_functions_are_short() -> None:
    """A function fits on a screen."""
    long = [
        f"{file}:{node.lineno}: {node.name} has {size} lines"
        for file in FILES
        for node in functions(file)
        if (size := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert not long, "\n".join(long)


def test_files_are_short() -> None:
    """A file of the program can be read in one go; a file of tests is read one test at a time."""
    files = [file for file in FILES if file.parts[0] != "tests"]
    sizes = {file: len((ROOT / file).read_text(encoding="utf-8").splitlines()) for file in files}
    long = [f"{file} has {size} lines" for file, size in sizes.items() if size > FILE_LINES_MAX]
    assert not long, "\n".join(long)


def test_every_limit_is_in_force() -> None:
    """A bound that nobody reads bounds nothing."""
    limits = Path("proxy/limits.py")
    names = [ast.unparse(node.target) for node in tree(limits).body if isinstance(node, ast.AnnAssign)]
    used = {
        node.id if isinstance(node, ast.Name) else node.attr
        for file in python_files("proxy")
        if file != limits
        for node in ast.walk(tree(file))
        if isinstance(node, (ast.Name, ast.Attribute))
    }
    assert names
    assert [name for name in names if name not in used] == []


def test_every_test_can_fail() -> None:
    """A test asserts something: itself, with pytest.raises, or through a helper of the tests that does."""
    asserting = _asserting_helpers()
    silent = [
        f"{file}:{node.lineno}: {node.name}"
        for file in TESTS
        for node in functions(file)
        if node.name.startswith("test_") and not _asserts(node, asserting)
    ]
    assert not silent, "\n".join(silent)


def _asserting_helpers() -> set[str]:
    """Names of functions in the tests that assert, directly or through each other."""
    helpers = [node for file in TESTS for node in functions(file) if not node.name.startswith("test_")]
    known: set[str] = set()
    while True:
        more = {node.name for node in helpers if _asserts(node, known)}
        if more <= known:
            return known
        known |= more


def _asserts(function: ast.AST, helpers: set[str]) -> bool:
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Raise) and node.exc is not None and "AssertionError" in ast.unparse(node.exc):
            return True
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in {"pytest.raises", "pytest.warns", "pytest.fail"} or name.rpartition(".")[2] in helpers:
                return True
    return False
