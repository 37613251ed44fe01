"""What each trigger says in the lock file, and what it refuses (section 4, AU-75…83)."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from kici import (
    ApiKeyAuth,
    EventPayload,
    HmacAuth,
    Trigger,
    comment,
    create,
    delete,
    dispatch,
    fork,
    generic_webhook,
    job_complete,
    kici_event,
    lifecycle,
    pr,
    push,
    release,
    review,
    review_comment,
    schedule,
    star,
    status,
    tag,
    watch,
    webhook,
    workflow_complete,
    workflow_run,
)
from kici.sdk import problems
from kici.spec import triggers


def glob(*patterns: str) -> list[triggers.Pattern]:
    return [triggers.Pattern(type="glob", pattern=pattern) for pattern in patterns]


class Done(EventPayload, event="done"):
    env: str


class Nameless(EventPayload, event=""):
    env: str


REPOS = glob("acme/*")
LOCKED: list[tuple[Trigger, list[Any]]] = [
    (
        comment(actions="created", source=["pr"], body_match="/^!x/i", repos="acme/*"),
        [triggers.CommentTrigger(actions=["created"], source=["pr"], body_match="/^!x/i", repos=REPOS)],
    ),
    (
        review(actions=["submitted"], states="approved", repos="acme/*"),
        [triggers.ReviewTrigger(actions=["submitted"], states=["approved"], repos=REPOS)],
    ),
    (
        review_comment(actions="edited", repos="acme/*"),
        [triggers.ReviewCommentTrigger(actions=["edited"], repos=REPOS)],
    ),
    (
        release(actions="published", repos="acme/*", description="d"),
        [triggers.ReleaseTrigger(actions=["published"], repos=REPOS, description="d")],
    ),
    (
        dispatch(types=["a", "b"], repos="acme/*"),
        [triggers.DispatchTrigger(types=["a", "b"], repos=REPOS)],
    ),
    (
        create(ref_types="branch", patterns="x/*", repos="acme/*"),
        [triggers.CreateTrigger(ref_types=["branch"], patterns=glob("x/*"), repos=REPOS)],
    ),
    (
        delete(ref_types=["tag"], patterns=["v*", "!v0"], repos="acme/*"),
        [triggers.DeleteTrigger(ref_types=["tag"], patterns=glob("v*", "!v0"), repos=REPOS)],
    ),
    (
        status(contexts="ci/*", states=["error", "failure"], repos="acme/*"),
        [triggers.StatusTrigger(contexts=glob("ci/*"), states=["error", "failure"], repos=REPOS)],
    ),
    (
        workflow_run(actions="completed", workflows="b", conclusions="success", repos="acme/*"),
        [
            triggers.WorkflowRunTrigger(
                actions=["completed"], workflows=["b"], conclusions=["success"], repos=REPOS
            )
        ],
    ),
    (fork(repos="acme/*"), [triggers.ForkTrigger(repos=REPOS)]),
    (star(actions="deleted", repos="acme/*"), [triggers.StarTrigger(actions=["deleted"], repos=REPOS)]),
    (watch(actions="started", repos="acme/*"), [triggers.WatchTrigger(actions=["started"], repos=REPOS)]),
    (
        webhook(events="deployment", actions="created", repos="acme/*"),
        [triggers.WebhookTrigger(events=["deployment"], actions=["created"], repos=REPOS)],
    ),
    (
        kici_event("done", match={"$.a": 1}, not_={"$.b": "/x/"}, source="acme/*"),
        [triggers.KiciEventTrigger(name="done", match={"$.a": 1}, not_={"$.b": "/x/"}, source=REPOS)],
    ),
    (kici_event(Done), [triggers.KiciEventTrigger(name="done")]),
    (
        workflow_complete(name="b", status=["success", "failed"], source="acme/*"),
        [triggers.WorkflowCompleteTrigger(name="b", status=["success", "failed"], source=REPOS)],
    ),
    (
        job_complete(workflow="b", job="j", status="skipped", source="acme/*"),
        [triggers.JobCompleteTrigger(workflow="b", job="j", status=["skipped"], source=REPOS)],
    ),
    (
        schedule(cron=" 0 4 * * * ", timezone="Europe/Berlin"),
        [triggers.ScheduleTrigger(cron="0 4 * * *", timezone="Europe/Berlin")],
    ),
    (
        lifecycle(events="job_failed", sources="acme/*"),
        [triggers.LifecycleTrigger(events=["job_failed"], sources=REPOS)],
    ),
    (
        generic_webhook(source="s", path="/p", auth=HmacAuth(secret="k", signature_header="X-Sig")),
        [
            triggers.GenericWebhookTrigger(
                source="s", path="/p", auth=triggers.WebhookAuth(kind="hmac", secret="k", header="x-sig")
            )
        ],
    ),
    (
        generic_webhook(source="s", auth=ApiKeyAuth(secret="k")),
        [
            triggers.GenericWebhookTrigger(
                source="s", auth=triggers.WebhookAuth(kind="api_key", secret="k", header="authorization")
            )
        ],
    ),
    (
        push(tags="v*", paths="src/**", repos="acme/*"),
        [triggers.TagTrigger(patterns=glob("v*"), paths=glob("src/**"), repos=REPOS)],
    ),
    (
        push(branches=re.compile("^main$", re.IGNORECASE), tags="v*", repos="acme/*"),
        [
            triggers.PushTrigger(
                branches=[triggers.Pattern(type="regex", pattern="^main$", flags="i")], repos=REPOS
            ),
            triggers.TagTrigger(patterns=glob("v*"), repos=REPOS),
        ],
    ),
    (
        pr(events="labeled", target="main", source="x", paths="a", repos="acme/*"),
        [
            triggers.PrTrigger(
                events=["labeled"], target=glob("main"), source=glob("x"), paths=glob("a"), repos=REPOS
            )
        ],
    ),
    (tag(patterns="v*", repos="acme/*"), [triggers.TagTrigger(patterns=glob("v*"), repos=REPOS)]),
]


@pytest.mark.parametrize(
    ("trigger", "locked"), LOCKED, ids=[type(locked[0]).__name__ for _, locked in LOCKED]
)
def test_what_the_lock_file_says(trigger: Trigger, locked: list[Any]) -> None:
    """AU-75…82: every filter of section 4 arrives; `push(tags=…)` alone has no branch half (AU-77)."""
    assert list(trigger.locked) == locked
    assert trigger.source.file == __file__


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda: comment(actions="posted"), "E406"),  # type: ignore[arg-type]
        (lambda: comment(body_match=5), "E119"),  # type: ignore[arg-type]
        (lambda: review(states="ok"), "E406"),  # type: ignore[arg-type]
        (lambda: release(actions=["tagged"]), "E406"),  # type: ignore[list-item]
        (lambda: create(ref_types="commit"), "E406"),  # type: ignore[arg-type]
        (lambda: status(states="ok"), "E406"),  # type: ignore[arg-type]
        (lambda: star(actions="started"), "E406"),  # type: ignore[arg-type]
        (lambda: webhook(events=[]), "E405"),
        (lambda: kici_event(""), "E405"),
        (lambda: kici_event(Nameless), "E405"),
        (lambda: kici_event(int), "E405"),  # type: ignore[arg-type]
        (lambda: workflow_complete(status="skipped"), "E406"),  # type: ignore[arg-type]
        (lambda: lifecycle(events=[]), "E405"),
        (lambda: lifecycle(events="run_started"), "E406"),  # type: ignore[arg-type]
        (lambda: schedule(cron=5), "E119"),  # type: ignore[arg-type]
        (lambda: generic_webhook(source=""), "E405"),
        (lambda: generic_webhook(source="s", auth=HmacAuth(secret="k", signature_header="")), "E407"),
        (lambda: generic_webhook(source="s", auth=HmacAuth(secret="", signature_header="h")), "E405"),
        (lambda: generic_webhook(source="s", auth="hmac"), "E119"),  # type: ignore[arg-type]
        (lambda: push(branches=""), "E405"),
        (lambda: push(repos=5), "E119"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(make: Callable[[], Trigger], code: str) -> None:
    """AU-90: E405…E407 and E119, collected at the call."""
    with problems.collect() as found:
        make()

    assert [problem.code for problem in found] == [code]
    assert found[0].source is not None
    assert found[0].source.file == __file__


def test_a_body_may_be_matched_by_a_compiled_regex() -> None:
    """AU-79"""
    locked = comment(body_match=re.compile("^!x", re.IGNORECASE)).locked[0]  # type: ignore[arg-type]

    assert isinstance(locked, triggers.CommentTrigger)
    assert locked.body_match == "/^!x/i"
