"""Codes of reasons are for programs (AU-31, AU-117)."""

import pytest

from kici.cli.local.reasons import as_sentence


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("upstream_unmet: f (failed)", "needs f, which ended as failed"),
        ("upstream_unmet: t (a, b) (timed_out_stale)", "needs t (a, b), which ended as timed out stale"),
        ("fail_fast: another ff failed", "another ff failed, and fail_fast ends the others"),
        ("workflow_timeout: the run took longer than 500ms", "the workflow timed out after 500ms"),
        ("workflow_timeout: the run took longer than 1m", "the workflow timed out after 1m"),
        ("it broke", "it broke"),
        (None, None),
    ],
)
def test_people_read_sentences(reason: str | None, words: str | None) -> None:
    assert as_sentence(reason) == words
