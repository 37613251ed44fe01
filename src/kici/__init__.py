"""`from kici import workflow, job, step, push`: the author's names, loaded on first use.

Lazily, because every server process imports this package too and must not load the SDK.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kici.sdk import (
        CommandError,
        Completed,
        Context,
        DefinitionError,
        Event,
        Hook,
        HookContext,
        Job,
        JobOutputs,
        KiciError,
        LimitExceededError,
        MatrixOutputs,
        MultiJob,
        Need,
        NeedResult,
        Outcome,
        OutputError,
        ParallelGroup,
        Retry,
        RunInfo,
        Runner,
        Step,
        Trigger,
        Workflow,
        generic_webhook,
        hook,
        job,
        need,
        parallel,
        pr,
        push,
        step,
        tag,
        webhook,
        workflow,
    )
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            from kici import sdk

            value = globals()[name] = getattr(sdk, name)
            return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


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
