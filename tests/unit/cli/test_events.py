"""Words of the command line become events that match, and every trigger gets the event it waits for."""

import subprocess
from pathlib import Path

import pytest

from kici.cli.events import WORDS, Given, UnknownEvent, make_occasion, occasion_for, word_of
from kici.cli.local.repository import NoRepository, Repository
from kici.engine.triggers import match_workflow
from kici.spec import triggers
from kici.spec.errors import InvalidInput
from kici.spec.events import Event


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "changed.txt").write_text("old")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "second.txt").write_text("1")
    git(root, "add", ".")
    git(root, "commit", "-qm", "second\n\nbody")
    git(root, "remote", "add", "origin", "git@example.org:team/project.git")
    return root


def event_of(root: Path, word: str, *triggers: triggers.Trigger, **given: object) -> Event:
    occasion = make_occasion(
        word,
        Repository(root),
        folder_name=root.name,
        triggers=[("ci", trigger) for trigger in triggers],
        given=Given(**given),  # type: ignore[arg-type]
    )
    return occasion.event


def glob(*patterns: str) -> list[triggers.Pattern]:
    return [triggers.Pattern(type="glob", pattern=pattern) for pattern in patterns]


def regex(pattern: str) -> list[triggers.Pattern]:
    return [triggers.Pattern(type="regex", pattern=pattern)]


# (word, trigger): the word must start a workflow that has just this trigger
WORDED: list[tuple[str, triggers.Trigger]] = [
    ("push", triggers.PushTrigger(branches=glob("main"), repos=glob("team/*"))),
    ("pr", triggers.PrTrigger(target=glob("main"), source=glob("topic"))),
    ("pr:open", triggers.PrTrigger(events=["opened"])),
    ("pr:sync", triggers.PrTrigger(events=["synchronize"])),
    ("pr:close", triggers.PrTrigger(events=["closed"])),
    ("pr:reopen", triggers.PrTrigger(events=["reopened"])),
    ("pr:labeled", triggers.PrTrigger(events=["labeled"])),
    ("pr", triggers.PrTrigger(events=["labeled"])),
    ("tag", triggers.TagTrigger(patterns=glob("v*"))),
    ("comment", triggers.CommentTrigger(actions=["edited"], source=["pr"], body_match="/deploy")),
    ("comment:created", triggers.CommentTrigger(source=["issue"], body_match=r"/^\/deploy \w+$/")),
    ("review", triggers.ReviewTrigger(states=["changes_requested"])),
    ("review:dismissed", triggers.ReviewTrigger(actions=["submitted", "dismissed"])),
    ("review_comment", triggers.ReviewCommentTrigger(actions=["deleted"])),
    ("release", triggers.ReleaseTrigger(actions=["prereleased"])),
    ("release:published", triggers.ReleaseTrigger(actions=["created", "published"])),
    ("dispatch", triggers.DispatchTrigger(types=["deploy"])),
    ("dispatch:Deploy", triggers.DispatchTrigger(types=["rollback", "Deploy"])),
    ("create", triggers.CreateTrigger(ref_types=["tag"], patterns=glob("v*"))),
    ("create:branch", triggers.CreateTrigger()),
    ("delete:tag", triggers.DeleteTrigger(ref_types=["tag"])),
    ("status", triggers.StatusTrigger(contexts=glob("ci/*"), states=["failure"])),
    ("workflow_run", triggers.WorkflowRunTrigger(workflows=["CI"], conclusions=["failure"])),
    ("workflow_run:requested", triggers.WorkflowRunTrigger(actions=["requested"])),
    ("fork", triggers.ForkTrigger()),
    ("star", triggers.StarTrigger(actions=["deleted"])),
    ("watch", triggers.WatchTrigger(actions=["started"])),
    ("kici_event:Deploy-Done", triggers.KiciEventTrigger(name="Deploy-Done", match={"$.env": ["prod"]})),
    ("generic_webhook:Stripe", triggers.GenericWebhookTrigger(source="Stripe", events=["paid"])),
    ("webhook:stripe", triggers.GenericWebhookTrigger(source="stripe", match={"$.a[0].b": "/^x+$/"})),
    ("webhook_event:deployment", triggers.WebhookTrigger(events=["deployment"], actions=["created"])),
    ("workflow_complete", triggers.WorkflowCompleteTrigger(name="CI", status=["failed"])),
    ("workflow_complete:cancelled", triggers.WorkflowCompleteTrigger()),
    ("job_complete", triggers.JobCompleteTrigger(workflow="CI", job="Build", status=["skipped"])),
    ("job_complete:failed", triggers.JobCompleteTrigger(source=glob("team/*"))),
    ("lifecycle", triggers.LifecycleTrigger(events=["registration_updated"])),
    ("lifecycle:job_failed", triggers.LifecycleTrigger(events=["workflow_complete", "job_failed"])),
    ("schedule", triggers.ScheduleTrigger(cron="30 2 * * 1-5", timezone="Europe/Berlin")),
    ("schedule:ci", triggers.ScheduleTrigger(cron="* * * * *")),
]


@pytest.mark.parametrize(("word", "trigger"), WORDED, ids=[word for word, _ in WORDED])
def test_every_word_makes_an_event_that_matches_its_own_trigger(
    tree: Path, word: str, trigger: triggers.Trigger
) -> None:
    """AU-111."""
    git(tree, "tag", "v1.2")
    if word.startswith("pr"):
        git(tree, "checkout", "-qb", "topic")
    decision = match_workflow([trigger], event_of(tree, word, trigger))
    assert decision.matched, decision.reason


def test_a_dispatch_without_a_type_has_no_action(tree: Path) -> None:
    """AU-111: as on a server, and its reason does not make one up."""
    trigger = triggers.DispatchTrigger()
    event = event_of(tree, "dispatch", trigger)
    assert (event.action, event.payload["action"]) == (None, None)
    assert match_workflow([trigger], event).reason == "Dispatch"


def test_the_table_leaves_no_word_and_no_trigger_out() -> None:
    """AU-111."""
    assert {word.partition(":")[0] for word, _ in WORDED} == {*WORDS, "webhook"}
    assert {type(trigger) for _, trigger in WORDED} == set(triggers.Trigger.__args__)


PICKED: list[triggers.Trigger] = [
    *(trigger for _, trigger in WORDED),
    triggers.PushTrigger(branches=glob("release/**", "!release/1"), paths=glob("docs/**", "!docs/1")),
    triggers.PushTrigger(branches=regex(r"^rel-\d+\.\d+$"), repos=glob("other/*")),
    triggers.PrTrigger(target=glob("!main"), source=glob("feat/*"), paths=glob("*.md")),
    triggers.TagTrigger(patterns=regex(r"^v[0-9]+$")),
    triggers.TagTrigger(),
    triggers.KiciEventTrigger(name="x", source=glob("else/where"), match={"$.a": True}, not_={"$.b": 1}),
    triggers.LifecycleTrigger(events=["job_failed"], sources=glob("else/*")),
]


@pytest.mark.parametrize("trigger", PICKED, ids=lambda trigger: type(trigger).__name__)
def test_a_picked_trigger_always_gets_its_event(tree: Path, trigger: triggers.Trigger) -> None:
    """AU-111, AU-121: type, first action, first positive pattern, whatever branch is checked out."""
    occasion = occasion_for(trigger, Repository(tree), folder_name="project", workflow="ci")
    decision = match_workflow([trigger], occasion.event)
    assert decision.matched, decision.reason


@pytest.mark.parametrize("trigger", PICKED, ids=lambda trigger: type(trigger).__name__)
def test_the_word_of_a_trigger_leads_back_to_its_kind(trigger: triggers.Trigger) -> None:
    """AU-120."""
    word = word_of("ci", trigger)
    assert isinstance(trigger, WORDS[word.partition(":")[0]][0])


def test_a_push_knows_its_files_and_commit(tree: Path) -> None:
    """AU-112."""
    (tree / "changed.txt").write_text("new")
    (tree / "new.txt").write_text("1")
    event = event_of(tree, "push")
    assert event.changed_files == ["changed.txt", "new.txt", "second.txt"]
    assert event.payload["after"] == git(tree, "rev-parse", "HEAD")
    assert event.payload["before"] == git(tree, "rev-parse", "HEAD^")
    assert event.payload["head_commit"]["message"] == "second\n\nbody"
    assert event.payload["repository"]["full_name"] == event.source_repo == "team/project"
    assert event_of(tree, "push", files=["x"], branch="other").changed_files == ["x"]
    assert event_of(tree, "push", branch="other").target_branch == "other"
    assert event_of(tree, "push", sha="HEAD^").changed_files is None  # a first commit: not known


def test_a_pull_request_goes_from_here_to_the_default_branch(tree: Path) -> None:
    """AU-112."""
    git(tree, "checkout", "-qb", "topic")
    (tree / "topic.txt").write_text("1")
    event = event_of(tree, "pr")
    assert (event.source_branch, event.target_branch, event.changed_files) == (
        "topic",
        "main",
        ["topic.txt"],
    )
    assert event_of(tree, "pr", branch="release").target_branch == "release"
    body = {"pull_request": {"head": {"ref": "a"}, "base": {"ref": "b"}}, "action": "labeled"}
    event = event_of(tree, "pr", payload=body)
    assert (event.source_branch, event.target_branch, event.action) == ("a", "b", "labeled")


def test_payload_and_wrong_words(tree: Path) -> None:
    """AU-112, AU-136."""
    event = event_of(tree, "generic_webhook:stripe", payload={"action": "paid", "amount": 3})
    assert (event.action, event.payload["amount"]) == ("paid", 3)
    event = event_of(tree, "kici_event:done", payload={"env": "prod"})
    assert (event.payload["eventName"], event.payload["payload"]) == ("done", {"env": "prod"})
    for word, why in (
        ("pish", "'pish' is no event"),
        ("tag", "name one with --branch"),
        ("kici_event", "say which: kici_event:NAME"),
        ("schedule", "no workflow has a schedule"),
    ):
        with pytest.raises(InvalidInput, match=why):
            event_of(tree, word)
    with pytest.raises(InvalidInput, match="names no commit"):
        event_of(tree, "push", sha="nowhere")
    nightly = triggers.ScheduleTrigger(cron="0 2 * * *")
    with pytest.raises(UnknownEvent, match="schedule:a, schedule:b"):
        make_occasion("schedule", None, folder_name="project", triggers=[("a", nightly), ("b", nightly)])


def test_without_git(tmp_path: Path) -> None:
    """AU-113."""
    with pytest.raises(NoRepository, match="--in-place"):
        Repository(tmp_path)
    occasion = make_occasion("push", None, folder_name="project")
    assert (occasion.event.target_branch, occasion.event.changed_files, occasion.sha) == ("main", None, "")
    git(tmp_path, "init", "-q")
    with pytest.raises(NoRepository, match="no commit yet"):
        Repository(tmp_path)
