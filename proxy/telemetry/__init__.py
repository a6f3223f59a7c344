"""Metrics and log records: what an operator sees of the gateway from outside."""
