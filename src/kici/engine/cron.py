"""When a schedule fires (OR-110, OR-113). Pure: five fields, an IANA zone and a moment lead to the next one.

A local time that a clock change skips fires at the next valid instant, and one that it repeats fires once,
for schedules at fixed hours; those with `*` in minutes or hours follow the clock as it goes on.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import ClassVar
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from kici.spec.errors import InvalidInput

_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_PLAIN = re.compile(r"[0-9*,/-]+")
# Months and days of the week also have names; what else cronsim takes is not standard cron.
_NAMED = re.compile(
    r"(?:[0-9*,/-]|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat)+",
    re.IGNORECASE,
)


class InvalidSchedule(InvalidInput):
    """The message says which part is wrong and what is wanted."""

    code: ClassVar[str] = "invalid_schedule"


def check(cron: str, timezone: str = "UTC") -> None:
    """Raises InvalidSchedule."""
    zone(timezone)
    _fields(cron)


def next_fire(cron: str, timezone: str, after: datetime) -> datetime | None:
    """The first moment later than `after`, in UTC; None for a date that never comes (`0 0 31 2 *`). Raises
    InvalidSchedule."""
    fields = _fields(cron)
    if fields is None:
        return None
    for moment in CronSim(fields, after.astimezone(zone(timezone))):
        # In an hour that the clock repeats, its first pass lies before us.
        if moment > after:
            return moment.astimezone(UTC)
    return None


def zone(name: str) -> ZoneInfo:
    """Raises InvalidSchedule."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise InvalidSchedule(
            f"{name!r} is not a time zone: it wants a name like UTC or Europe/Berlin"
        ) from error


@lru_cache(maxsize=1024)
def _fields(cron: str) -> str | None:
    """Five fields as cronsim takes them; None when each is right and no date has them all."""
    parts = cron.split()
    if len(parts) != len(_FIELDS):
        raise InvalidSchedule(
            f"{cron!r} has {len(parts)} fields, wanted are five: minute, hour, day of month, month, day of week"
        )
    for place, (part, field) in enumerate(zip(parts, _FIELDS, strict=True)):
        if (_PLAIN if place < 3 else _NAMED).fullmatch(part) is None or not _takes(place, part):
            raise InvalidSchedule(f"{cron!r}: {part!r} is no {field}")
    joined = " ".join(parts)
    try:
        CronSim(joined, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return None
    return joined


def _takes(place: int, part: str) -> bool:
    alone = ["*"] * len(_FIELDS)
    alone[place] = part
    try:
        CronSim(" ".join(alone), datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True
