"""Waiting times of a fleet under each policy of the gateway, beside the choices of its two neighbours; simulated."""
