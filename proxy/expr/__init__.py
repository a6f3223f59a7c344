"""JMESPath expressions over JSON documents, compiled to closures, with typed functions."""

from __future__ import annotations

from proxy.expr.compile import Expression, compile_expression
from proxy.expr.errors import ExpressionError, ExpressionSyntaxError
from proxy.expr.functions import Evaluate, Function, FunctionRegistry, Parameter
from proxy.expr.standard import STANDARD, standard_functions

__all__ = [
    "STANDARD",
    "Evaluate",
    "Expression",
    "ExpressionError",
    "ExpressionSyntaxError",
    "Function",
    "FunctionRegistry",
    "Parameter",
    "compile_expression",
    "standard_functions",
]
