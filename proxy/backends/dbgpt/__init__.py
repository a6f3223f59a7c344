"""DB-GPT: membership in its cluster."""
