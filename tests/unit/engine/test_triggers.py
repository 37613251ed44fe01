"""Which events start which workflows, and what people are told about it (OR-50…55, AU-75…81)."""

import pytest

from kici.engine.triggers import match_workflow
from kici.spec.events import Event
from kici.spec.triggers import (
    GenericWebhookTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    TagTrigger,
    Trigger,
    WebhookTrigger,
)


def glob(*texts: str) -> list[Pattern]:
    return [Pattern(type="glob", pattern=text) for text in texts]


def push(branch: str = "main", files: list[str] | None = None, source_repo: str | None = None) -> Event:
    return Event(type="push", target_branch=branch, changed_files=files, source_repo=source_repo)


def pr(action: str = "opened", target: str = "main", source: str = "feature") -> Event:
    return Event(type="pull_request", action=action, target_branch=target, source_branch=source)


def webhook(
    action: str | None = "deploy",
    source: str = "argo",
    payload: dict[str, object] | None = None,
    path: str | None = None,
) -> Event:
    return Event(
        type="generic_webhook",
        action=action,
        source=source,
        raw_event=action,
        payload=payload or {},
        path=path,
    )


@pytest.mark.parametrize(
    ("trigger", "event", "expected"),
    [
        (PushTrigger(), push(), True),
        (PushTrigger(), Event(type="tag", target_branch="v1"), False),
        (PushTrigger(), Event(type="delete", target_branch="main"), False),
        (PushTrigger(branches=glob("main", "rel/*")), push("rel/1"), True),
        (PushTrigger(branches=glob("main")), push("dev"), False),
        (PushTrigger(branches=glob("!dev")), push("dev"), False),
        (PushTrigger(branches=glob("main")), Event(type="push"), False),
        (PushTrigger(repos=glob("acme/*")), push(source_repo="acme/app"), True),
        (PushTrigger(repos=glob("acme/*")), push(source_repo="other/app"), False),
        (TagTrigger(patterns=glob("v*")), Event(type="tag", target_branch="v1"), True),
        (TagTrigger(patterns=glob("v*")), Event(type="tag", target_branch="x1"), False),
        (TagTrigger(patterns=glob("v*")), push("v1"), False),
        (PrTrigger(), pr("opened"), True),
        (PrTrigger(), pr("labeled"), False),
        (PrTrigger(events=["labeled"]), pr("labeled"), True),
        (PrTrigger(events=["labeled"]), pr("opened"), False),
        (PrTrigger(target=glob("main"), source=glob("feature*")), pr(), True),
        (PrTrigger(target=glob("dev")), pr(), False),
        (PrTrigger(source=glob("fix/*")), pr(), False),
        (GenericWebhookTrigger(source="argo"), webhook(), True),
        (GenericWebhookTrigger(source="other"), webhook(), False),
        (GenericWebhookTrigger(source="argo", events=["deploy"]), webhook(), True),
        (GenericWebhookTrigger(source="argo", events=["sync"]), webhook(), False),
        (GenericWebhookTrigger(source="argo", events=["sync"]), webhook(None), False),
        (
            GenericWebhookTrigger(source="argo", match={"$.env": "prod"}),
            webhook(payload={"env": "prod"}),
            True,
        ),
        (
            GenericWebhookTrigger(source="argo", match={"$.env": "prod"}),
            webhook(payload={"env": "dev"}),
            False,
        ),
        (GenericWebhookTrigger(source="argo", match={"$.env": "prod"}), webhook(), False),
        (GenericWebhookTrigger(source="argo", not_={"$.env": "prod"}), webhook(), True),
        (
            GenericWebhookTrigger(source="argo", not_={"$.env": "prod"}),
            webhook(payload={"env": "prod"}),
            False,
        ),
        (GenericWebhookTrigger(source="argo", match={"$$": 1}), webhook(), False),
        (GenericWebhookTrigger(source="argo", path="/deeper"), webhook(), False),
        (GenericWebhookTrigger(source="argo", path="deeper/"), webhook(path="/deeper"), True),
        (GenericWebhookTrigger(source="argo", path="/deeper"), webhook(path="/other"), False),
        (GenericWebhookTrigger(source="argo"), webhook(path="/deeper"), True),
        (GenericWebhookTrigger(source="argo", path="/"), webhook(), True),
        (WebhookTrigger(events=["deploy"]), webhook(), True),
        (WebhookTrigger(events=["generic_webhook"]), webhook(), True),
        (WebhookTrigger(events=["deployment"]), webhook(), False),
        (WebhookTrigger(events=["deploy"], actions=["other"]), webhook(), False),
    ],
)
def test_one_trigger(trigger: Trigger, event: Event, expected: bool) -> None:
    decision = match_workflow([trigger], event)
    assert decision.matched is expected
    assert decision.trigger_index == (0 if expected else None)
    assert decision.checks
    assert all(check.matched for check in decision.checks) is expected
    assert decision.reason


@pytest.mark.parametrize(
    ("paths", "files", "expected"),
    [
        (["src/**"], ["src/a.py"], True),
        (["src/**"], ["docs/a.md"], False),
        (["src/**", "!**/*.md"], ["src/a.md"], False),
        (["src/**", "!**/*.md"], ["src/a.md", "src/b.py"], True),
        (["!**/*.md"], ["a.md"], False),
        (["!**/*.md"], ["a.md", "b.py"], True),
        (["src/**"], None, True),
        (["src/**"], [], False),
        (["!**/*.md"], [], False),
        ([], [], True),
    ],
)
def test_paths(paths: list[str], files: list[str] | None, expected: bool) -> None:
    """OR-52: unknown passes and says so, known-empty does not match."""
    decision = match_workflow([PushTrigger(paths=glob(*paths))], push(files=files))
    assert decision.matched is expected
    if paths and files is None:
        assert "not known" in decision.checks[-1].actual


def test_the_first_hit_wins_and_earlier_misses_stay_visible() -> None:
    decision = match_workflow(
        [PrTrigger(), PushTrigger(branches=glob("dev")), PushTrigger(), PushTrigger(branches=glob("main"))],
        push(),
    )
    assert decision.trigger_index == 2
    assert [(check.check, check.matched) for check in decision.checks] == [
        ("pr[0].event", False),
        ("push[1].event", True),
        ("push[1].branches", False),
        ("push[2].event", True),
    ]


def test_no_triggers_never_match() -> None:
    decision = match_workflow([], push())
    assert not decision.matched
    assert decision.reason == "The workflow has no triggers"


def test_the_reason_names_the_nearest_miss() -> None:
    near = match_workflow([PrTrigger(), PushTrigger(branches=glob("main"))], push("dev"))
    assert near.reason == "push[1].branches: wanted main, got dev"
    far = match_workflow([PrTrigger(), TagTrigger()], push())
    assert far.reason == "No trigger for push events (it has pr, tag)"


def test_the_reason_of_a_hit_is_a_sentence() -> None:
    assert match_workflow([PushTrigger(branches=glob("ma*"))], push()).reason == "Push to main matches ma*"
    assert match_workflow([PrTrigger()], pr()).reason == "Pull request opened into main"
    assert match_workflow([TagTrigger()], Event(type="tag", target_branch="v1")).reason == "Tag v1"
    assert match_workflow([GenericWebhookTrigger(source="argo")], webhook()).reason == (
        "Webhook deploy from argo"
    )


def test_a_pattern_that_cannot_be_compiled_does_not_match_and_says_why() -> None:
    broken = PushTrigger(branches=[Pattern(type="regex", pattern="(?=x)")])
    decision = match_workflow([broken], push())
    assert not decision.matched
    assert "invalid perl operator" in decision.reason
