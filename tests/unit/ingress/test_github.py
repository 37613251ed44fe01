"""GitHub's deliveries in our own words: every kind of the table in AU §5 (OR-45, OR-46, AU-80)."""

from typing import Any

import pytest

from kici.orchestrator.inbox import github
from kici.spec.errors import InvalidInput

SHA, OLD, ZERO = "a" * 40, "b" * 40, "0" * 40
REPOSITORY = {
    "id": 1,
    "name": "app",
    "full_name": "acme/app",
    "private": False,
    "owner": {"login": "acme"},
    "default_branch": "trunk",
}
SENDER = {"login": "ada", "id": 7, "type": "User"}
PULL = {
    "number": 5,
    "title": "Faster",
    "state": "open",
    "draft": False,
    "head": {"ref": "faster", "sha": SHA, "repo": {"full_name": "acme/app"}},
    "base": {"ref": "trunk", "sha": OLD, "repo": {"full_name": "acme/app"}},
    "user": {"login": "ada"},
    "labels": [{"name": "perf"}],
}
COMMITS = [
    {"id": OLD, "message": "One", "added": ["a.py"], "removed": [], "modified": ["b.py"]},
    {"id": SHA, "message": "Two", "added": [], "removed": ["c.py"], "modified": ["b.py"]},
]


def body(**more: Any) -> dict[str, Any]:
    return {"repository": REPOSITORY, "sender": SENDER, **more}


def push(ref: str = "refs/heads/trunk", **more: Any) -> dict[str, Any]:
    return body(
        ref=ref, before=OLD, after=SHA, commits=COMMITS, head_commit=COMMITS[1], forced=False, **more
    )


# name, payload, (type, action, target branch), (commit, branch that is checked out)
GOLDEN: list[
    tuple[str, dict[str, Any], tuple[str, str | None, str | None], tuple[str | None, str | None]]
] = [
    ("push", push(), ("push", None, "trunk"), (SHA, "trunk")),
    ("push", push("refs/heads/rel/1"), ("push", None, "rel/1"), (SHA, "rel/1")),
    ("push", push("refs/tags/v1"), ("tag", None, "v1"), (SHA, None)),
    (
        "pull_request",
        body(action="opened", number=5, pull_request=PULL),
        ("pull_request", "opened", "trunk"),
        (SHA, "faster"),
    ),
    (
        "issue_comment",
        body(action="created", issue={"number": 5, "pull_request": {}}, comment={"id": 1, "body": "hi"}),
        ("comment", "created", "trunk"),
        (None, None),
    ),
    (
        "pull_request_review",
        body(action="submitted", review={"id": 1, "state": "approved"}, pull_request=PULL),
        ("review", "submitted", "trunk"),
        (SHA, "faster"),
    ),
    (
        "pull_request_review_comment",
        body(action="edited", comment={"id": 1, "body": "nit"}, pull_request=PULL),
        ("review_comment", "edited", "trunk"),
        (SHA, "faster"),
    ),
    (
        "release",
        body(action="published", release={"id": 1, "tag_name": "v1", "target_commitish": "rel/1"}),
        ("release", "published", "rel/1"),
        (None, "rel/1"),
    ),
    (
        "release",
        body(action="published", release={"id": 1, "tag_name": "v1", "target_commitish": SHA}),
        ("release", "published", SHA),
        (SHA, None),
    ),
    (
        "release",
        body(action="created", release={"id": 1, "tag_name": "v1"}),
        ("release", "created", "trunk"),
        (None, None),
    ),
    (
        "repository_dispatch",
        body(action="deploy", branch="trunk", client_payload={"target": "prod"}),
        ("dispatch", "deploy", "trunk"),
        (None, None),
    ),
    ("create", body(ref="rel/2", ref_type="branch"), ("create", None, "rel/2"), (None, None)),
    ("delete", body(ref="v0", ref_type="tag"), ("delete", None, "v0"), (None, None)),
    (
        "status",
        body(state="success", sha=SHA, context="ci/x", branches=[{"name": "faster"}, {"name": "trunk"}]),
        ("status", None, "faster"),
        (SHA, "faster"),
    ),
    (
        "status",
        body(state="error", sha=SHA, context="c", branches=[]),
        ("status", None, "trunk"),
        (SHA, None),
    ),
    (
        "workflow_run",
        body(
            action="completed",
            workflow_run={"head_branch": "faster", "name": "CI", "conclusion": "success"},
        ),
        ("workflow_run", "completed", "faster"),
        (None, None),
    ),
    ("fork", body(forkee={"full_name": "ada/app"}), ("fork", None, "trunk"), (None, None)),
    ("star", body(action="created", starred_at="2026-01-01"), ("star", "created", "trunk"), (None, None)),
    ("watch", body(action="started"), ("watch", "started", "trunk"), (None, None)),
    (
        "deployment",
        body(action="created", deployment={"environment": "prod"}),
        ("webhook", "created", "trunk"),
        (None, None),
    ),
    ("ping", {"zen": "Keep it logically awesome."}, ("webhook", None, None), (None, None)),
]


@pytest.mark.parametrize(("name", "payload", "words", "commit"), GOLDEN)
def test_every_event_of_the_table(
    name: str,
    payload: dict[str, Any],
    words: tuple[str, str | None, str | None],
    commit: tuple[str | None, str | None],
) -> None:
    """OR-45, OR-46: type, action, target branch and the commit used; the body stays as it was received."""
    found = github.normalise(name, payload)
    event = found.event
    assert (event.type, event.action, event.target_branch) == words
    assert (found.sha, found.branch) == commit
    assert found.note is None
    assert event.payload is payload
    assert (event.provider, event.raw_event) == ("github", name)
    if "repository" in payload:
        assert (event.source_repo, event.sender_username, event.sender_user_id) == ("acme/app", "ada", "7")
        assert github.repository_of(payload) == "acme/app"


def test_pull_requests_know_their_branches_and_forks() -> None:
    """OR-45, OR-64: a head in another repository, or in one that is gone, is a fork's."""
    own = github.normalise("pull_request", body(action="opened", pull_request=PULL)).event
    assert (own.source_branch, own.base_branch, own.is_fork_pr) == ("faster", "trunk", False)
    for repo in ({"full_name": "eve/app"}, None):
        theirs = {**PULL, "head": {"ref": "faster", "sha": SHA, "repo": repo}}
        found = github.normalise("pull_request", body(action="opened", pull_request=theirs))
        assert found.event.is_fork_pr is True
        assert (found.before, found.since_fork) == (OLD, True)


def test_changed_files_are_what_the_commits_list_where_they_are_all_there() -> None:
    """OR-52: unknown for tags, new branches and forced pushes."""
    assert github.normalise("push", push()).event.changed_files == ["a.py", "b.py", "c.py"]
    for payload in (
        push("refs/tags/v1"),
        push(created=True),
        {**push(), "forced": True},
        {**push(), "commits": []},
        {**push(), "commits": [{"id": SHA}]},
        {**push(), "commits": None},
    ):
        assert github.normalise("push", payload).event.changed_files is None


def test_a_deletion_by_push_starts_nothing_by_itself() -> None:
    """OR-46: the provider's own `delete` event does."""
    gone = github.normalise("push", {**push(), "after": ZERO})
    assert (gone.sha, gone.note) == (None, "Branch trunk was deleted")
    assert (
        github.normalise("push", push("refs/notes/x")).note == "refs/notes/x is neither a branch nor a tag"
    )


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("push", body()),
        ("push", body(ref="refs/heads/x", after="--upload-pack=x")),
        ("push", body(ref="--all", after=SHA)),
        ("pull_request", body(action="opened")),
        ("pull_request", body(action="opened", pull_request={**PULL, "head": {"ref": "-x", "sha": SHA}})),
        ("pull_request_review", body(action="submitted", pull_request=[])),
    ],
)
def test_what_has_no_commit_is_refused(name: str, payload: dict[str, Any]) -> None:
    """OR-46: nothing that a body says reaches git as an option."""
    with pytest.raises(InvalidInput):
        github.normalise(name, payload)


@pytest.mark.parametrize("name", sorted(github._KNOWN))
@pytest.mark.parametrize("payload", [{}, {"repository": [], "sender": 1, "branches": [7], "release": None}])
def test_bodies_without_what_they_should_have_do_no_harm(name: str, payload: dict[str, Any]) -> None:
    """OR-45: a clear refusal, or an event without the facts."""
    try:
        event = github.normalise(name, payload).event
    except InvalidInput:
        return
    assert event.source_repo is None
    assert event.sender_username is None
