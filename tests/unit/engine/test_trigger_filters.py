"""Filters that several kinds of trigger share mean the same in each of them (AU-75, AU-78, AU-94)."""

from typing import Any

import pytest

from kici.engine.triggers import match_workflow
from kici.spec import triggers
from kici.spec.events import Event


def pattern(text: str) -> list[triggers.Pattern]:
    return [triggers.Pattern(type="glob", pattern=text)]


def happened(kind: str, action: str | None = None, files: list[str] | None = None, **payload: Any) -> Event:
    return Event(
        type=kind,
        action=action,
        target_branch="main",
        source_repo="acme/app",
        changed_files=files,
        payload=payload,
    )


@pytest.mark.parametrize(
    ("trigger", "event"),
    [
        (triggers.ReleaseTrigger, happened("release", "published")),
        (triggers.DispatchTrigger, happened("dispatch", "deploy")),
        (triggers.StarTrigger, happened("star", "created")),
        (triggers.WatchTrigger, happened("watch", "started")),
        (triggers.ForkTrigger, happened("fork")),
        (triggers.PushTrigger, happened("push")),
        (triggers.TagTrigger, happened("tag")),
        (triggers.ReviewCommentTrigger, happened("review_comment", "created")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_repos_choose_whose_events_count(trigger: Any, event: Event) -> None:
    """AU-75, AU-94: `repos` of a global workflow."""
    assert match_workflow([trigger()], event).matched
    assert match_workflow([trigger(repos=pattern("acme/*"))], event).matched
    refused = match_workflow([trigger(repos=pattern("other/*"))], event)
    assert not refused.matched
    assert "repos" in refused.checks[-1].check


@pytest.mark.parametrize(
    ("trigger", "kind", "action"),
    [
        (triggers.PushTrigger, "push", None),
        (triggers.TagTrigger, "tag", None),
        (triggers.PrTrigger, "pull_request", "opened"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_paths_choose_by_what_changed(trigger: Any, kind: str, action: str | None) -> None:
    """AU-78, AU-94: an unknown change list passes, a known one has to hold a file that counts."""
    wanted = [trigger(paths=[*pattern("src/**"), *pattern("!**/*.md")])]
    for files, expected in (
        (None, True),
        ([], False),
        (["src/a.py"], True),
        (["src/a.md"], False),
        (["docs/a.py", "src/a.md"], False),
    ):
        assert match_workflow(wanted, happened(kind, action, files)).matched is expected, files
