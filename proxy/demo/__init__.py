"""A demonstration fleet: workers that speak FastChat 0.2.36's protocol and need no model, no GPU and no download."""
