"""What `import kici` gives and what it costs (AU-5, AU-6)."""

import subprocess
import sys

import pytest

import kici
from kici import sdk

SURFACE = [
    "AgentInfo",
    "Amount",
    "ApiKeyAuth",
    "Applied",
    "Approval",
    "Approver",
    "Cache",
    "CacheHit",
    "CacheKey",
    "CapabilityMissingError",
    "CommandError",
    "CommentEvent",
    "Completed",
    "Concurrency",
    "ConcurrencyContext",
    "Container",
    "Context",
    "CreateEvent",
    "DefinitionError",
    "DeleteEvent",
    "Delivery",
    "DispatchEvent",
    "DynamicJobs",
    "Event",
    "EventPayload",
    "EventRejectedError",
    "Fanout",
    "Fixture",
    "ForkEvent",
    "GenerateContext",
    "GenericWebhookEvent",
    "HmacAuth",
    "Hook",
    "HookContext",
    "HostFacts",
    "HostOutputs",
    "Hosts",
    "InSync",
    "Init",
    "Inputs",
    "Job",
    "JobCompleteEvent",
    "JobInfo",
    "JobOutputs",
    "KiciError",
    "KiciEvent",
    "LifecycleEvent",
    "LimitExceededError",
    "ManualScheduleEvent",
    "MatrixOutputs",
    "Meta",
    "MultiJob",
    "Need",
    "NeedResult",
    "NotAvailableLocallyError",
    "OidcToken",
    "Outcome",
    "OutputError",
    "ParallelGroup",
    "Payload",
    "Preset",
    "Provenance",
    "PullRequestEvent",
    "PushEvent",
    "Registry",
    "ReleaseEvent",
    "RepoInfo",
    "RerunEvent",
    "Resources",
    "Retry",
    "ReviewCommentEvent",
    "ReviewEvent",
    "Rule",
    "RuleContext",
    "RunInfo",
    "Runner",
    "ScheduleEvent",
    "SecretMeta",
    "SecretNotFoundError",
    "StarEvent",
    "StatusEvent",
    "Step",
    "StepInfo",
    "SyncContext",
    "TagEvent",
    "Trigger",
    "UnknownEvent",
    "WaitForTimeoutError",
    "WatchEvent",
    "WebhookEvent",
    "Workflow",
    "WorkflowCompleteEvent",
    "WorkflowInfo",
    "WorkflowRunEvent",
    "cache_key",
    "comment",
    "create",
    "delete",
    "dispatch",
    "dynamic_jobs",
    "fixture",
    "fork",
    "generic_webhook",
    "group",
    "hook",
    "idempotent",
    "job",
    "job_complete",
    "kici_event",
    "lifecycle",
    "mise",
    "need",
    "only_on_fanout_index",
    "only_on_first_host",
    "only_on_last_host",
    "parallel",
    "pr",
    "push",
    "release",
    "restart_host",
    "review",
    "review_comment",
    "rule",
    "schedule",
    "skip",
    "star",
    "status",
    "step",
    "tag",
    "team",
    "user",
    "uv",
    "wait_for",
    "wait_for_host_alive",
    "wait_for_step",
    "watch",
    "webhook",
    "workflow",
    "workflow_complete",
    "workflow_run",
]


def fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_public_names_are_pinned() -> None:
    assert list(kici.__all__) == SURFACE
    assert list(sdk.__all__) == SURFACE
    assert [name for name in SURFACE if getattr(kici, name) is not getattr(sdk, name)] == []
    assert set(SURFACE) <= set(dir(kici))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kici.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_alone_loads_neither_sdk_nor_msgspec() -> None:
    loaded = fresh_interpreter("import sys, kici; print(*sys.modules)").split()

    assert "kici" in loaded
    assert [name for name in loaded if name.startswith(("kici.", "msgspec"))] == []


def test_the_authors_import_is_lean() -> None:
    loaded = fresh_interpreter("import sys; from kici import workflow; print(*sys.modules)").split()
    top = {name.partition(".")[0] for name in loaded}

    assert top - set(sys.stdlib_module_names) - {"kici", "msgspec", "__main__", "_distutils_hack"} <= {
        name for name in top if name.startswith(("__editable__", "_virtualenv", "sitecustomize"))
    }
    assert {
        "asyncio",
        "inspect",
        "dataclasses",
        "subprocess",
        "socket",
        "logging",
        "pathlib",
    } & top == set()
    assert [
        name
        for name in loaded
        if name.startswith("kici.") and not name.startswith(("kici.sdk", "kici.spec"))
    ] == []


def test_typing_extensions_still_loads_afterwards() -> None:
    code = "from kici import workflow; import typing_extensions, msgspec; print(typing_extensions.__name__)"

    assert fresh_interpreter(code) == "typing_extensions"
