"""JMESPath expressions over JSON documents, written as Python functions, with typed functions to call."""

from __future__ import annotations

from proxy.expr.code import is_true
from proxy.expr.compile import Expression, compile_expression
from proxy.expr.errors import ExpressionError, ExpressionSyntaxError
from proxy.expr.functions import Evaluate, Function, FunctionRegistry, Parameter
from proxy.expr.standard import STANDARD, standard_functions
from proxy.expr.writer import Writer, function

__all__ = [
    "STANDARD",
    "Evaluate",
    "Expression",
    "ExpressionError",
    "ExpressionSyntaxError",
    "Function",
    "FunctionRegistry",
    "Parameter",
    "Writer",
    "compile_expression",
    "function",
    "is_true",
    "standard_functions",
]
