"""When schedules fire (OR-110, OR-112, OR-113)."""

from datetime import UTC, datetime

import pytest

from kici.engine import cron


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("0 3 * * *", "UTC", "2026-01-01T02:59:59", "2026-01-01T03:00:00"),
        ("0 3 * * *", "UTC", "2026-01-01T03:00:00", "2026-01-02T03:00:00"),
        ("*/5 * * * *", "UTC", "2026-01-01T00:01:30", "2026-01-01T00:05:00"),
        ("0 9 * * mon-fri", "Europe/Berlin", "2026-07-03T12:00:00", "2026-07-06T07:00:00"),
        ("30 23 31 12 *", "Asia/Kolkata", "2026-12-30T00:00:00", "2026-12-31T18:00:00"),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00:00", "2028-02-29T00:00:00"),
        # Spring: 02:30 does not exist on 29 March, 03:00 summer time does.
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00", "2026-03-29T01:00:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T01:00:00", "2026-03-30T00:30:00"),
        # Autumn: 02:30 comes twice on 25 October and fires at the first one only.
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00", "2026-10-25T00:30:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:30:00", "2026-10-26T01:30:00"),
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00", "2026-10-26T01:30:00"),
    ],
)
def test_the_next_time(expression: str, zone: str, after: str, expected: str) -> None:
    """OR-110, OR-113: a skipped local time fires at the next valid instant, a repeated one once."""
    found = cron.next_fire(expression, zone, at(after))
    assert found == at(expected)
    assert found is not None
    assert found.tzinfo is UTC


def test_a_date_that_never_comes_is_allowed() -> None:
    """OR-110."""
    cron.check("0 0 31 2 *")
    assert cron.next_fire("0 0 31 2 *", "UTC", at("2026-01-01T00:00:00")) is None


@pytest.mark.parametrize(
    ("expression", "zone", "says"),
    [
        ("* * * *", "UTC", "4 fields"),
        ("0 * * * * *", "UTC", "6 fields"),
        ("", "UTC", "0 fields"),
        ("60 * * * *", "UTC", "'60' is no minute"),
        ("0 24 * * *", "UTC", "'24' is no hour"),
        ("0 0 0 * *", "UTC", "'0' is no day of month"),
        ("0 0 * 13 *", "UTC", "'13' is no month"),
        ("0 0 * * 8", "UTC", "'8' is no day of week"),
        ("0 0 L * *", "UTC", "'L' is no day of month"),
        ("0 0 * * 5#2", "UTC", "'5#2' is no day of week"),
        ("*/0 * * * *", "UTC", "no minute"),
        ("@daily", "UTC", "1 fields"),
        ("0 0 * * *", "Mars/Base", "'Mars/Base' is not a time zone"),
        ("0 0 * * *", "../etc/passwd", "is not a time zone"),
        ("0 0 * * *", "", "is not a time zone"),
    ],
)
def test_what_is_wrong_is_named(expression: str, zone: str, says: str) -> None:
    """OR-110: invalid cron or zone is an error that names it."""
    with pytest.raises(cron.InvalidSchedule, match=says):
        cron.check(expression, zone)
    with pytest.raises(cron.InvalidSchedule):
        cron.next_fire(expression, zone, at("2026-01-01T00:00:00"))
