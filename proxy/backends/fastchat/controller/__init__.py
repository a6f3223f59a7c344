"""The gateway as a FastChat controller: workers register with it, FastChat's clients ask it for them."""
