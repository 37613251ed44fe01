"""Which agents may take which jobs (OR-146, AU-18)."""

import pytest

from kici.engine.labels import LabelQuery, matches, normalise, query_of
from kici.spec.lock import LabelMatcher, LockJob, SourceLocation


def exact(*labels: str) -> list[LabelMatcher]:
    return [LabelMatcher(kind="exact", value=label) for label in labels]


def regex(*sources: str) -> list[LabelMatcher]:
    return [LabelMatcher(kind="regex", source=source) for source in sources]


def query(runs_on: list[LabelMatcher], exclude: list[LabelMatcher] | None = None) -> LabelQuery:
    return query_of(
        LockJob(name="j", source=SourceLocation(file="f"), runs_on=runs_on, exclude_labels=exclude or [])
    )


@pytest.mark.parametrize(
    ("wanted", "labels", "expected"),
    [
        (query(exact("linux")), ["linux", "gpu"], True),
        (query(exact("Linux")), ["linux"], True),
        (query(exact("linux", "gpu")), ["linux"], False),
        (query(exact("linux"), exact("slow")), ["linux", "slow"], False),
        (query(regex("^gpu-[^/]*$")), ["gpu-a100"], True),
        (query(regex("^GPU-")), ["gpu-a100"], True),
        (query(regex("^gpu-", "^zone-")), ["gpu-a100"], False),
        (query(exact("linux"), regex("spot$")), ["linux", "cheap-spot"], False),
        (query([]), ["anything"], True),
        (query([]), [], True),
    ],
)
def test_matching(wanted: LabelQuery, labels: list[str], expected: bool) -> None:
    assert matches(wanted, labels) is expected


def test_labels_are_compared_trimmed_and_in_lower_case() -> None:
    assert normalise([" Linux", "linux", "", "GPU "]) == ["gpu", "linux"]


def test_a_job_without_regexes_needs_no_post_filter() -> None:
    assert query(exact("linux")).patterns is None


def test_a_regex_that_re2_refuses_matches_nobody_and_harms_nobody():
    """OR-146, AU-44: jobs that generators make bring their labels past the compiler."""
    refused = LabelMatcher(kind="regex", source="(?=x)")
    wanted = query_of(LockJob(name="a", source=SourceLocation(file="x"), runs_on=[refused]))
    assert not matches(wanted, ["linux", "x"])
    unwanted = query_of(LockJob(name="a", source=SourceLocation(file="x"), exclude_labels=[refused]))
    assert matches(unwanted, ["linux", "x"])
