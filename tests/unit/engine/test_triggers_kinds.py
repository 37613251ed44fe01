"""Every kind of trigger with every filter it has (AU-75…80, the table of §4)."""

from typing import Any

import pytest

from kici.engine.triggers import event_type, match_first, match_workflow, trigger_type
from kici.spec.events import Event
from kici.spec.triggers import (
    CommentTrigger,
    CreateTrigger,
    DeleteTrigger,
    DispatchTrigger,
    ForkTrigger,
    GenericWebhookTrigger,
    JobCompleteTrigger,
    KiciEventTrigger,
    LifecycleTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    ReleaseTrigger,
    ReviewCommentTrigger,
    ReviewTrigger,
    ScheduleTrigger,
    StarTrigger,
    StatusTrigger,
    TagTrigger,
    Trigger,
    WatchTrigger,
    WebhookTrigger,
    WorkflowCompleteTrigger,
    WorkflowRunTrigger,
)


def glob(*texts: str) -> list[Pattern]:
    return [Pattern(type="glob", pattern=text) for text in texts]


def regex(text: str, flags: str = "") -> list[Pattern]:
    return [Pattern(type="regex", pattern=text, flags=flags)]


def event(kind: str, action: str | None = None, target: str | None = "main", **payload: Any) -> Event:
    return Event(type=kind, action=action, target_branch=target, source_repo="acme/app", payload=payload)


ISSUE = event("comment", "created", issue={"number": 1}, comment={"body": "please /deploy Prod"})
ON_PR = event("comment", "edited", issue={"number": 1, "pull_request": {}}, comment={"body": "thanks"})
REVIEW = event("review", "submitted", review={"state": "APPROVED"})
REVIEW_COMMENT = event("review_comment", "created")
RELEASE = event("release", "published", release={"tag_name": "v1"})
DISPATCH = event("dispatch", "deploy", client_payload={"x": 1})
CREATED = event("create", None, "rel/1", ref="rel/1", ref_type="branch")
DELETED = event("delete", None, "v1", ref="v1", ref_type="tag")
STATUS = event("status", None, state="success", context="ci/build")
RUN = event("workflow_run", "completed", workflow_run={"name": "CI", "conclusion": "failure"})
FORK = event("fork", None, forkee={"full_name": "ada/app"})
STAR = event("star", "created")
WATCH = event("watch", "started")
EMITTED = event(
    "kici_event", None, None, eventName="deploy-complete", payload={"env": "prod", "tags": ["a", "b"]}
)
ENDED = event("workflow_complete", None, None, workflowName="build", status="success", runId="r1")
JOB = event("job_complete", None, None, workflowName="ci", jobName="test", status="failed")
LOST = event("job_complete", None, None, workflowName="ci", jobName="test", status="timed_out_stale")
FIRE = event("schedule", None, None, cronExpression="0 3 * * *", timezone="Europe/Berlin")
LIFE = event("lifecycle", None, None, lifecycleEvent="job_failed", workflowName="ci", jobName="test")


@pytest.mark.parametrize(
    ("trigger", "happened", "expected"),
    [
        (CommentTrigger(), ISSUE, True),
        (CommentTrigger(actions=["created"]), ISSUE, True),
        (CommentTrigger(actions=["created"]), ON_PR, False),
        (CommentTrigger(source=["issue"]), ISSUE, True),
        (CommentTrigger(source=["pr"]), ISSUE, False),
        (CommentTrigger(source=["pr"]), ON_PR, True),
        (CommentTrigger(source=["issue", "pr"]), ON_PR, True),
        (CommentTrigger(body_match="/deploy"), ISSUE, True),
        (CommentTrigger(body_match="/deploy"), ON_PR, False),
        (CommentTrigger(body_match="/DEPLOY prod$/i"), ISSUE, True),
        (CommentTrigger(body_match="/^deploy/"), ISSUE, False),
        (CommentTrigger(body_match="x"), event("comment", "created"), False),
        (CommentTrigger(repos=glob("!acme/*")), ISSUE, False),
        (CommentTrigger(), REVIEW, False),
        (ReviewTrigger(), REVIEW, True),
        (ReviewTrigger(actions=["submitted"], states=["approved"]), REVIEW, True),
        (ReviewTrigger(states=["changes_requested", "commented"]), REVIEW, False),
        (ReviewTrigger(actions=["dismissed"]), REVIEW, False),
        (ReviewTrigger(states=["approved"]), event("review", "submitted"), False),
        (ReviewCommentTrigger(), REVIEW_COMMENT, True),
        (ReviewCommentTrigger(actions=["deleted"]), REVIEW_COMMENT, False),
        (ReviewCommentTrigger(repos=glob("acme/*")), REVIEW_COMMENT, True),
        (ReleaseTrigger(), RELEASE, True),
        (ReleaseTrigger(actions=["published", "created"]), RELEASE, True),
        (ReleaseTrigger(actions=["deleted"]), RELEASE, False),
        (DispatchTrigger(), DISPATCH, True),
        (DispatchTrigger(types=["deploy"]), DISPATCH, True),
        (DispatchTrigger(types=["test"]), DISPATCH, False),
        (DispatchTrigger(types=["test"]), event("dispatch"), False),
        (CreateTrigger(), CREATED, True),
        (CreateTrigger(ref_types=["branch"], patterns=glob("rel/*")), CREATED, True),
        (CreateTrigger(ref_types=["tag"]), CREATED, False),
        (CreateTrigger(patterns=glob("!rel/*")), CREATED, False),
        (CreateTrigger(), DELETED, False),
        (DeleteTrigger(ref_types=["tag"], patterns=regex("^v\\d+$")), DELETED, True),
        (DeleteTrigger(ref_types=["branch"]), DELETED, False),
        (DeleteTrigger(repos=glob("other/*")), DELETED, False),
        (StatusTrigger(), STATUS, True),
        (StatusTrigger(contexts=glob("ci/*"), states=["success"]), STATUS, True),
        (StatusTrigger(contexts=glob("ci/*", "!ci/build")), STATUS, False),
        (StatusTrigger(states=["error", "failure"]), STATUS, False),
        (WorkflowRunTrigger(), RUN, True),
        (WorkflowRunTrigger(actions=["completed"], workflows=["CI"], conclusions=["failure"]), RUN, True),
        (WorkflowRunTrigger(workflows=["Deploy"]), RUN, False),
        (WorkflowRunTrigger(conclusions=["success"]), RUN, False),
        (WorkflowRunTrigger(actions=["requested"]), RUN, False),
        (ForkTrigger(), FORK, True),
        (ForkTrigger(repos=glob("other/*")), FORK, False),
        (StarTrigger(), STAR, True),
        (StarTrigger(actions=["deleted"]), STAR, False),
        (WatchTrigger(actions=["started"]), WATCH, True),
        (WatchTrigger(), STAR, False),
        (KiciEventTrigger(name="deploy-complete"), EMITTED, True),
        (KiciEventTrigger(name="deploy"), EMITTED, False),
        (KiciEventTrigger(name="deploy-complete", match={"$.env": ["prod", "live"]}), EMITTED, True),
        (KiciEventTrigger(name="deploy-complete", match={"$.env": "/^PRO/i"}), EMITTED, True),
        (KiciEventTrigger(name="deploy-complete", match={"$.tags[*]": "b"}), EMITTED, True),
        (KiciEventTrigger(name="deploy-complete", match={"$.env": "dev"}), EMITTED, False),
        (KiciEventTrigger(name="deploy-complete", match={"$.absent": 1}), EMITTED, False),
        (KiciEventTrigger(name="deploy-complete", not_={"$.absent": 1}), EMITTED, True),
        (KiciEventTrigger(name="deploy-complete", not_={"$.env": "prod"}), EMITTED, False),
        (KiciEventTrigger(name="deploy-complete", match={"$.eventName": "x"}), EMITTED, False),
        (KiciEventTrigger(name="deploy-complete", source=glob("acme/*")), EMITTED, True),
        (KiciEventTrigger(name="deploy-complete", source=glob("!acme/app")), EMITTED, False),
        (WorkflowCompleteTrigger(), ENDED, True),
        (WorkflowCompleteTrigger(name="build", status=["success"], source=glob("acme/app")), ENDED, True),
        (WorkflowCompleteTrigger(name="other"), ENDED, False),
        (WorkflowCompleteTrigger(status=["failed", "cancelled"]), ENDED, False),
        (WorkflowCompleteTrigger(source=glob("other/*")), ENDED, False),
        (JobCompleteTrigger(), JOB, True),
        (JobCompleteTrigger(workflow="ci", job="test", status=["failed"]), JOB, True),
        (JobCompleteTrigger(workflow="cd"), JOB, False),
        (JobCompleteTrigger(job="build"), JOB, False),
        (JobCompleteTrigger(status=["success"]), JOB, False),
        (JobCompleteTrigger(status=["failed"]), LOST, True),
        (JobCompleteTrigger(status=["timed_out_stale"]), LOST, True),
        (JobCompleteTrigger(status=["success"]), LOST, False),
        (ScheduleTrigger(cron="0 3 * * *", timezone="Europe/Berlin"), FIRE, True),
        (ScheduleTrigger(cron="0 4 * * *", timezone="Europe/Berlin"), FIRE, False),
        (ScheduleTrigger(cron="0 3 * * *"), FIRE, False),
        (ScheduleTrigger(cron="0 3 * * *"), event("schedule"), True),
        (LifecycleTrigger(events=["job_failed"]), LIFE, True),
        (LifecycleTrigger(events=["job_complete", "workflow_complete"]), LIFE, False),
        (LifecycleTrigger(events=["job_failed"], sources=glob("!acme/*")), LIFE, False),
        (LifecycleTrigger(events=["workflow_complete"]), ENDED, False),
    ],
)
def test_one_trigger(trigger: Trigger, happened: Event, expected: bool) -> None:
    """AU-75, AU-76, AU-79, AU-80: filters AND, values OR; every check is recorded."""
    decision = match_workflow([trigger], happened)
    assert decision.matched is expected
    assert decision.trigger_index == (0 if expected else None)
    assert decision.checks
    assert all(check.matched for check in decision.checks) is expected
    assert decision.reason


@pytest.mark.parametrize(
    ("trigger", "happened", "reason"),
    [
        (CommentTrigger(), ON_PR, "Comment edited on a pull request"),
        (ReviewTrigger(), REVIEW, "Review submitted (approved)"),
        (ReviewCommentTrigger(), REVIEW_COMMENT, "Review comment created"),
        (ReleaseTrigger(), RELEASE, "Release v1 published"),
        (DispatchTrigger(), DISPATCH, "Dispatch deploy"),
        (CreateTrigger(), CREATED, "Branch rel/1 created"),
        (DeleteTrigger(), DELETED, "Tag v1 deleted"),
        (StatusTrigger(), STATUS, "Status ci/build (success)"),
        (WorkflowRunTrigger(), RUN, "Workflow run CI completed (failure)"),
        (ForkTrigger(), FORK, "Forked to ada/app"),
        (StarTrigger(), STAR, "Star created"),
        (WatchTrigger(), WATCH, "Watch started"),
        (KiciEventTrigger(name="deploy-complete"), EMITTED, "Event deploy-complete from acme/app"),
        (WorkflowCompleteTrigger(), ENDED, "Workflow build ended: success"),
        (JobCompleteTrigger(), JOB, "Job test of ci ended: failed"),
        (ScheduleTrigger(cron="0 3 * * *"), event("schedule"), "Schedule 0 3 * * * (UTC)"),
        (LifecycleTrigger(events=["job_failed"]), LIFE, "Lifecycle job_failed in acme/app"),
    ],
)
def test_a_hit_has_a_reason_for_people(trigger: Trigger, happened: Event, reason: str) -> None:
    """AU-75."""
    assert match_workflow([trigger], happened).reason == reason


@pytest.mark.parametrize(
    "trigger",
    [
        PushTrigger(branches=glob("!main")),
        TagTrigger(patterns=glob("!main")),
        PrTrigger(target=glob("!main")),
        CreateTrigger(patterns=glob("!main")),
        DeleteTrigger(patterns=glob("!main")),
        StatusTrigger(contexts=glob("!main")),
        PushTrigger(repos=glob("!acme/app")),
        TagTrigger(repos=glob("!acme/app")),
        KiciEventTrigger(name="e", source=glob("!acme/app")),
        WorkflowCompleteTrigger(source=glob("!acme/app")),
        JobCompleteTrigger(source=glob("!acme/app")),
        LifecycleTrigger(events=["job_failed"], sources=glob("!acme/app")),
    ],
)
def test_exclusions_alone_mean_everything_else_in_every_list(trigger: Trigger) -> None:
    """AU-76: `!` works everywhere, not only for paths and repositories."""
    extra = {"eventName": "e", "lifecycleEvent": "job_failed"}
    action = "opened" if isinstance(trigger, PrTrigger) else None
    excluded = Event(
        type=event_type(trigger),
        target_branch="main",
        source_repo="acme/app",
        action=action,
        payload={"context": "main", **extra},
    )
    other = Event(
        type=event_type(trigger),
        target_branch="dev",
        source_repo="acme/lib",
        action=action,
        payload={"context": "other", **extra},
    )
    assert not match_workflow([trigger], excluded).matched
    assert match_workflow([trigger], other).matched


def test_the_halves_of_a_push_with_tags_keep_apart() -> None:
    """AU-77: `push(tags=…)` compiles to a tag trigger with `repos`; a branch push does not fire it."""
    tags_only = [TagTrigger(patterns=glob("v*"), repos=glob("acme/*"))]
    assert not match_workflow(tags_only, event("push")).matched
    assert match_workflow(tags_only, event("tag", None, "v1")).matched
    foreign = Event(type="tag", target_branch="v1", source_repo="other/app")
    assert not match_workflow(tags_only, foreign).matched


def test_an_event_that_has_no_name_of_ours_fires_by_its_raw_name() -> None:
    """AU-80: `webhook(events=["deployment"])` fires from the repository's own source."""
    deployment = Event(
        type="webhook",
        action="created",
        raw_event="deployment",
        source_repo="acme/app",
        provider="github",
        payload={"deployment": {"environment": "prod"}},
    )
    assert match_workflow([WebhookTrigger(events=["deployment"])], deployment).matched
    assert match_workflow([WebhookTrigger(events=["deployment"], actions=["created"])], deployment).matched
    assert not match_workflow([WebhookTrigger(events=["deployment"], actions=["x"])], deployment).matched
    assert not match_workflow([WebhookTrigger(events=["fork"])], deployment).matched
    assert not match_workflow(
        [WebhookTrigger(events=["deployment"], repos=glob("!acme/*"))], deployment
    ).matched


def test_one_happening_with_several_faces_is_decided_once() -> None:
    """AU-80, OR-93: one stored event matches the specific trigger and the lifecycle trigger."""
    faces = [
        JOB,
        event("lifecycle", None, None, lifecycleEvent="job_complete"),
        event("lifecycle", None, None, lifecycleEvent="job_failed"),
    ]
    decision, seen = match_first([LifecycleTrigger(events=["job_failed"])], faces)
    assert decision.matched
    assert seen.payload["lifecycleEvent"] == "job_failed"
    decision, seen = match_first([LifecycleTrigger(events=["job_failed"]), JobCompleteTrigger()], faces)
    assert (decision.trigger_index, seen.type) == (0, "lifecycle")
    decision, seen = match_first([JobCompleteTrigger(), LifecycleTrigger(events=["job_failed"])], faces)
    assert (decision.trigger_index, seen.type) == (0, "job_complete")
    decision, seen = match_first([LifecycleTrigger(events=["registration_updated"])], faces)
    assert not decision.matched
    assert decision.reason == "lifecycle.events: wanted registration_updated, got job_complete"
    assert {check.actual for check in decision.checks} >= {"job_complete", "job_failed"}


def test_the_word_in_the_lock_file_is_the_type_of_its_event() -> None:
    """AU-75: one name for both but for pull requests."""
    assert (trigger_type(PrTrigger()), event_type(PrTrigger())) == ("pr", "pull_request")
    assert (trigger_type(StatusTrigger()), event_type(StatusTrigger())) == ("status", "status")
    assert trigger_type(GenericWebhookTrigger(source="x")) == "generic_webhook"
