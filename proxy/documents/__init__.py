"""Strict YAML documents: read with places, validated with every mistake reported at once."""

from proxy.documents.diagnostics import Diagnostic, DocumentError, clipped, suggestion
from proxy.documents.files import noting_texts, read_text
from proxy.documents.validate import examine, validate
from proxy.documents.yaml import Document, parse_yaml, read_yaml

__all__ = [
    "Diagnostic",
    "Document",
    "DocumentError",
    "clipped",
    "examine",
    "noting_texts",
    "parse_yaml",
    "read_text",
    "read_yaml",
    "suggestion",
    "validate",
]
