"""Which of several media types an Accept header prefers (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str]) -> int:
    """The place of the media type with the highest quality, the first of equals. It is 0 also where the header accepts
    none of them: many clients of streams accept application/json only, and want their stream.
    """
    if not accept:
        return 0
    ranges = [found for found in map(_range, accept.lower().split(",")) if found is not None]
    qualities = [_quality(media_type, ranges) for media_type in offered]
    return qualities.index(max(qualities))


def _range(text: str) -> tuple[str, float] | None:
    """A media range and its quality; None for what is neither."""
    name, *parameters = (part.strip() for part in text.split(";"))
    if "/" not in name:
        return None
    quality = next((value for key, _, value in (each.partition("=") for each in parameters) if key.strip() == "q"), "1")
    try:
        return name, min(1.0, max(0.0, float(quality)))
    except ValueError:
        return None


def _quality(media_type: str, ranges: list[tuple[str, float]]) -> float:
    """That of the most particular range that has the type in it; 0 where none has."""
    whole = media_type.partition("/")[0] + "/*"
    for name in (media_type, whole, "*/*"):
        for found, quality in ranges:
            if found == name:
                return quality
    return 0.0
