"""Requests as they went through a gateway, in a file: what is kept of them, what is blacked out, and how it is read."""
