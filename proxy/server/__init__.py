"""The serving side: what listens for clients and for the operator."""
