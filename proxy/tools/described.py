"""What the sources say of each key of a file: the text below a field of a model."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise

from pydantic import BaseModel


@functools.cache
def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Field name to the text that stands below the field, in the class or in one that it inherits from.

    Read from the source only when somebody asks, since pydantic's own way costs every start of the program.
    """
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if issubclass(each, BaseModel) and each is not BaseModel:
            found.update(_written(each))
    return found


def _written(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    body = _classes(model.__module__)[model.__name__].body
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            value = text.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield field.target.id, " ".join(value.value.split())


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
