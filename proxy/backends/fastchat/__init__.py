"""FastChat: conversation templates."""
