"""Durations and retries (AU-4, AU-30)."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.sdk.definitions import RetryPolicy
from kici.sdk.values import as_patterns, duration_ms, is_glob


@pytest.mark.parametrize(
    ("value", "milliseconds"),
    [
        (0, 0),
        (90, 90_000),
        (0.25, 250),
        (timedelta(minutes=2, milliseconds=5), 120_005),
        ("500ms", 500),
        ("90s", 90_000),
        ("10m", 600_000),
        ("1.5h", 5_400_000),
        ("1d", 86_400_000),
        (" 5s ", 5_000),
    ],
)
def test_durations(value: object, milliseconds: int) -> None:
    assert duration_ms(value) == milliseconds


@pytest.mark.parametrize(
    "value",
    [
        -1,
        timedelta(seconds=-1),
        True,
        None,
        [],
        "",
        "5",
        "5 m",
        "m",
        "-5s",
        "1h30m",
        "5S",
        float("nan"),
        float("inf"),
        "999999d",
    ],
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        duration_ms(value)


@given(st.integers(min_value=0, max_value=366 * 86_400))
def test_seconds_in_every_spelling_agree(seconds: int) -> None:
    spellings = (seconds, float(seconds), timedelta(seconds=seconds), f"{seconds}s", f"{seconds * 1000}ms")

    assert {duration_ms(spelling) for spelling in spellings} == {seconds * 1000}


def test_waits_double_up_to_the_cap() -> None:
    policy = RetryPolicy(attempts=9, delay_ms=1_000, max_delay_ms=5_000)
    fixed = RetryPolicy(attempts=9, delay_ms=1_000, max_delay_ms=5_000, backoff="fixed")

    assert [policy.wait_ms(attempt) for attempt in (1, 2, 3, 4, 5, 500)] == [
        1_000,
        2_000,
        4_000,
        5_000,
        5_000,
        5_000,
    ]
    assert [fixed.wait_ms(attempt) for attempt in (1, 5)] == [1_000, 1_000]


@pytest.mark.parametrize(
    ("retry_if", "error", "wanted"),
    [
        (None, ValueError(), True),
        (OSError, ConnectionError(), True),
        (OSError, ValueError(), False),
        ((OSError, ValueError), ValueError(), True),
        (lambda error: "again" in str(error), ValueError("again"), True),
        (lambda error: "again" in str(error), ValueError("never"), False),
    ],
)
def test_which_failures_are_tried_again(retry_if: object, error: Exception, wanted: bool) -> None:
    assert RetryPolicy(attempts=2, retry_if=retry_if).wants(error) is wanted  # type: ignore[arg-type]


def test_patterns() -> None:
    assert as_patterns("main") == ("main",)
    assert as_patterns(["a", "b"]) == ("a", "b")
    assert [is_glob(text) for text in ("main", "kici:os:linux", "gpu-*", "v?", "[ab]", "{a,b}")] == [
        False,
        False,
        True,
        True,
        True,
        True,
    ]
