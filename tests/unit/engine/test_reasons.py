"""Codes of reasons are for programs (AU-31, AU-117)."""

import pytest

from kici.engine.reasons import as_sentence


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("upstream_unmet: f (failed)", "needs f, which ended as failed"),
        ("upstream_unmet: t (a, b) (timed_out_stale)", "needs t (a, b), which ended as timed out stale"),
        ("fail_fast: another ff failed", "another ff failed, and fail_fast ends the others"),
        ("workflow_timeout: the run took longer than 0.5s", "the workflow timed out after 0.5s"),
        ("workflow_timeout: the run took longer than 1m", "the workflow timed out after 1m"),
        ("it broke", "it broke"),
    ],
)
def test_people_read_sentences(reason: str, words: str) -> None:
    assert as_sentence(reason) == words
