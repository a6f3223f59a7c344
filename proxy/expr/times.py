"""The product's own functions for times. They know no clock: a time is an argument, in seconds since 1970 (UTC)."""

from __future__ import annotations

from typing import Final

from proxy.expr.functions import FunctionRegistry, Parameter
from proxy.types import Json

# Microseconds of a day; days of 400 and of 100 years of the Gregorian calendar, and of four with a leap day.
_DAY: Final = 86_400_000_000
_ERA: Final = 146_097
_CENTURY: Final = 36_524
_FOUR_YEARS: Final = 1_461
# From the first of March of the year 0 to 1970. Years that begin in March have their leap day last.
_TO_1970: Final = 719_468
# What ISO 8601 can write with four digits: the years 1 to 9999.
_FIRST: Final = -62_135_596_800
_END: Final = 253_402_300_800

_TIMES: Final = FunctionRegistry()


def register_times(registry: FunctionRegistry) -> None:
    """Add all functions of this module to a registry."""
    for function in _TIMES:
        registry.add(function)


@_TIMES.register(
    name="iso_time",
    parameters=[Parameter("seconds", "number")],
    returns="string | null",
    doc="The time so many seconds after 1970, in UTC, as ISO 8601 writes it; null outside of the years 1 to 9999.",
    examples=[
        ("iso_time(`1691139139.25`)", "2023-08-04T08:52:19.250000Z"),
        ("iso_time(`0`)", "1970-01-01T00:00:00.000000Z"),
        ("iso_time(`1e300`)", None),
    ],
)
def _iso_time(seconds: float) -> Json:
    if not _FIRST <= seconds < _END:
        return None
    # Down, so that the last moment of a year stays in it.
    whole = int(seconds // 1)
    days, of_day = divmod(whole * 1_000_000 + int((seconds - whole) * 1_000_000), _DAY)
    year, month, day = _date(days)
    second, micro = divmod(of_day, 1_000_000)
    hour, minute, second = second // 3600, second // 60 % 60, second % 60
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z"


def _date(days: int) -> tuple[int, int, int]:
    """Year, month and day so many days after 1970-01-01."""
    era, day = divmod(days + _TO_1970, _ERA)
    century = min(day // _CENTURY, 3)  # the fourth has a day more
    day -= century * _CENTURY
    four, day = divmod(day, _FOUR_YEARS)
    year = min(day // 365, 3)  # so has the fourth year of four
    day -= year * 365
    # Five months from March on have 153 days, and again from August on.
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += era * 400 + century * 100 + four * 4
    return (year + 1, month - 9, day + 1) if month >= 10 else (year, month + 3, day + 1)
