"""A protocol-translation gateway between model-serving clusters; `README.md` and `docs/` say how to use it."""

__version__ = "0.1.0"
