"""Limits in sentences for people."""

import pytest

from kici.spec.durations import in_words


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [
        (0, "0ms"),
        (200, "200ms"),
        (500, "0.5s"),
        (4_000, "4s"),
        (1_250, "1.25s"),
        (60_000, "1m"),
        (90_000, "1m 30s"),
        (300_000, "5m"),
        (3_600_000, "1h"),
        (5_400_000, "1h 30m"),
        (90_061_000, "1d 1h 1m 1s"),
    ],
)
def test_durations_are_worded_as_authors_write_them(milliseconds: int, words: str) -> None:
    assert in_words(milliseconds) == words
