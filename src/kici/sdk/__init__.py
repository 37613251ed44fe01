"""What workflow authors import, as `from kici import …`. Needs the standard library and msgspec."""

import sys

# msgspec takes three names from typing_extensions when it is there and from typing when not; since 3.11 they
# are the same. Loading it would be a third of this import, paid by every compile and every cold runner.
if "msgspec" not in sys.modules and "typing_extensions" not in sys.modules:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]  # makes its import fail at once
    try:
        import msgspec as msgspec
    finally:
        del sys.modules["typing_extensions"]

from kici.sdk.context import (
    Completed,
    Context,
    HookContext,
    JobOutputs,
    MatrixOutputs,
    NeedResult,
    Outcome,
    RunInfo,
)
from kici.sdk.definitions import (
    Hook,
    Job,
    MultiJob,
    Need,
    ParallelGroup,
    Retry,
    Runner,
    Step,
    Trigger,
    Workflow,
)
from kici.sdk.edges import need
from kici.sdk.errors import CommandError, DefinitionError, KiciError, LimitExceededError, OutputError
from kici.sdk.jobs import job
from kici.sdk.steps import hook, parallel, step
from kici.sdk.triggers import generic_webhook, pr, push, tag, webhook
from kici.sdk.workflows import workflow
from kici.spec.events import Event

__all__ = [
    "CommandError",
    "Completed",
    "Context",
    "DefinitionError",
    "Event",
    "Hook",
    "HookContext",
    "Job",
    "JobOutputs",
    "KiciError",
    "LimitExceededError",
    "MatrixOutputs",
    "MultiJob",
    "Need",
    "NeedResult",
    "Outcome",
    "OutputError",
    "ParallelGroup",
    "Retry",
    "RunInfo",
    "Runner",
    "Step",
    "Trigger",
    "Workflow",
    "generic_webhook",
    "hook",
    "job",
    "need",
    "parallel",
    "pr",
    "push",
    "step",
    "tag",
    "webhook",
    "workflow",
]
