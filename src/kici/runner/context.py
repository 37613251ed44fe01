"""`ctx` as author functions get it: the protocols of `kici.sdk.context` come alive."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from kici.protocol.runner_v1 import Annotation
from kici.runner import offers
from kici.runner.activity import Activity
from kici.runner.cacheaccess import StepCaches
from kici.runner.command import Command
from kici.runner.facts import JobFacts
from kici.runner.script import bash_argv
from kici.runner.scrubbing import MOST_ANNOTATIONS, SUMMARY_BYTES
from kici.runner.secrets import StepSecrets
from kici.runner.steplog import StepLog
from kici.runner.values import decode_output
from kici.sdk.calls import TrackedCall
from kici.sdk.context import CheckMode
from kici.sdk.definitions import DynamicJobs, JobDefinition, Step, flat_steps
from kici.sdk.errors import LimitExceededError, OutputError
from kici.sdk.events import Event
from kici.sdk.inputs import Inputs, decode
from kici.sdk.results import (
    AgentInfo,
    Completed,
    Delivery,
    Fanout,
    HostFacts,
    JobInfo,
    NeedResult,
    Outcome,
    Provenance,
    RepoInfo,
    RunInfo,
    StepInfo,
    WorkflowInfo,
)
from kici.sdk.values import Duration, Scalar, duration_ms
from kici.sdk.words import argument, environment, environment_name, environment_text
from kici.spec.states import StepStatus

T = TypeVar("T", bound=Inputs)
_LEVELS = ("notice", "warning", "error")


class EventContext:
    """The event and its inputs."""

    def __init__(self, facts: JobFacts) -> None:
        self._facts = facts

    @property
    def event(self) -> Event:
        return self._facts.event

    @property
    def dispatch_inputs(self) -> Mapping[str, Any]:
        return self._facts.execute.inputs

    def inputs(self, kind: type[T], /) -> T:
        return decode(kind, self._facts.execute.inputs)


class ConcurrencyFacts(EventContext):
    """What names a concurrency group of the workflow."""

    @property
    def workflow(self) -> str:
        return self._facts.execute.workflow_name

    @property
    def ref(self) -> str:
        return self._facts.run_fact("ref")

    @property
    def sha(self) -> str:
        return self._facts.run_fact("sha")

    @property
    def repository(self) -> str:
        return self._facts.run_fact("repository")


class ActivityContext(EventContext):
    """Serves one activity with commands, log and what earlier jobs left: what generators get.

    Calls that outlive it find its log closed.
    """

    def __init__(self, activity: Activity, facts: JobFacts) -> None:
        super().__init__(facts)
        self._activity = activity
        self.log = StepLog(activity)

    @property
    def env(self) -> Mapping[str, str]:
        return self._activity.env

    @property
    def workspace(self) -> Path:
        return Path(self._facts.execute.workspace)

    @property
    def tmp(self) -> Path:
        return Path(self._activity.temporary_directory())

    @property
    def run_info(self) -> RunInfo:
        return self._facts.run_info()

    @property
    def kici(self) -> offers.Offers:
        return offers.Offers(self._activity, self._facts)

    @property
    def needs(self) -> Mapping[str, NeedResult[Any] | Sequence[NeedResult[Any]]]:
        return self._facts.upstream.needs()

    def job_outputs(self, job: JobDefinition, /) -> Any:
        return self._facts.upstream.outputs_of(job)

    def matrix_outputs(self, job: JobDefinition, /) -> Any:
        return self._facts.upstream.matrix_outputs_of(job)

    def host_outputs(self, job: JobDefinition, /) -> Any:
        return self._facts.upstream.host_outputs_of(job)

    def need(self, job: JobDefinition | DynamicJobs | str, /) -> NeedResult[Any]:
        return self._facts.upstream.need(job)

    def sh(
        self,
        script: str,
        /,
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,
        quiet: bool = False,
        **variables: object,
    ) -> TrackedCall[Completed]:
        return self._activity.tracked(
            self._execute(
                bash_argv(script, variables),
                shown=_one_line(script),
                cwd=cwd,
                env=environment(env),
                input=input,
                check=check,
                timeout=timeout,
                quiet=quiet,
            ),
            f"ctx.sh({_one_line(script)!r})",
        )

    def run(
        self,
        *argv: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,
        quiet: bool = False,
    ) -> TrackedCall[Completed]:
        words = [argument(word) for word in argv]
        if not words:
            raise ValueError("ctx.run needs a program to run")
        return self._activity.tracked(
            self._execute(
                words,
                shown=" ".join(words),
                cwd=cwd,
                env=environment(env),
                input=input,
                check=check,
                timeout=timeout,
                quiet=quiet,
            ),
            f"ctx.run({', '.join(map(repr, words))})",
        )

    async def _execute(
        self,
        argv: Sequence[str],
        *,
        shown: str,
        cwd: str | os.PathLike[str] | None,
        env: Mapping[str, str],
        input: str | bytes | None,
        check: bool,
        timeout: Duration | None,  # noqa: ASYNC109 - a command is not a coroutine
        quiet: bool,
    ) -> Completed:
        services = self._activity.services
        command = Command(
            argv,
            shown=shown,
            cwd=os.path.join(services.execute.workspace, cwd or ""),
            env={**self._activity.env, **env},
            input=input.encode() if isinstance(input, str) else input,
            sink=None if quiet else self._activity.log_sink(),
            outside=services.outside,
            grace_s=services.grace_s,
            told_to_end=lambda: self._activity.told_to_end,
        )
        return await command.run(
            check=check, timeout_s=None if timeout is None else duration_ms(timeout) / 1_000
        )


class RuleStepContext(ActivityContext):
    """What a rule decides by."""

    @property
    def changed_files(self) -> list[str] | None:
        return self._facts.execute.event.changed_files

    @property
    def fanout(self) -> Fanout:
        return self._facts.place()


class StepContext(ActivityContext):
    """Everything."""

    @property
    def raw_payload(self) -> Mapping[str, Any]:
        return self._facts.execute.event.payload

    @property
    def provider(self) -> str | None:
        return self._facts.execute.event.provider

    @property
    def workflow(self) -> WorkflowInfo:
        return self._facts.workflow_info()

    @property
    def job(self) -> JobInfo:
        return self._facts.job_info()

    @property
    def step(self) -> StepInfo:
        activity = self._activity
        return StepInfo(name=activity.name, index=activity.index, attempt=activity.attempt)

    @property
    def workflow_repo(self) -> RepoInfo:
        return self._facts.workflow_repo()

    @property
    def source_repo(self) -> RepoInfo:
        return self._facts.source_repo()

    @property
    def matrix(self) -> Mapping[str, Scalar]:
        return self._facts.execute.matrix

    @property
    def fanout(self) -> Fanout | None:
        return self._facts.fanout()

    @property
    def host(self) -> HostFacts | None:
        return self._facts.host()

    @property
    def agent(self) -> AgentInfo | None:
        return self._facts.agent()

    @property
    def environment(self) -> str | None:
        return next(iter(self._facts.execute.environments), None)

    @property
    def environments(self) -> Sequence[str]:
        return self._facts.execute.environments

    @property
    def is_test_run(self) -> bool:
        return self._facts.execute.is_test_run

    @property
    def check_mode(self) -> CheckMode:
        return cast("CheckMode", self._facts.execute.check_mode)

    @property
    def secrets(self) -> StepSecrets:
        return StepSecrets(self._activity)

    @property
    def cache(self) -> StepCaches:
        return StepCaches(self._activity, self._facts)

    def set_env(self, key: str, value: str, /) -> None:
        self._activity.export(environment_name(key), environment_text(key, value))

    def add_path(self, directory: str | os.PathLike[str], /) -> None:
        self._activity.put_on_path(os.path.join(self._facts.execute.workspace, directory))

    def outputs_of(self, step: Step[Any], /) -> Any:
        if not isinstance(cast("object", step), Step):
            raise OutputError(
                f"ctx.outputs_of takes a step, not {step!r}: pass the step itself, as in steps=[...]"
            )
        steps = self._facts.job.steps if self._facts.job is not None else ()
        own = next((flat.step for flat in flat_steps(steps) if flat.step.name == step.name), None)
        if own is None or own.fn is not step.fn:
            raise OutputError(
                f"step {step.name!r} is not part of this job; for another job write ctx.job_outputs(job).of(step)"
            )
        if step.name in self._facts.outputs:
            return decode_output(self._facts.outputs[step.name], own.returns, step=step.name)
        match self._facts.statuses.get(step.name):
            case StepStatus.SUCCESS if self._facts.checks_only:
                raise OutputError(f"step {step.name!r} has no output: a check run changes nothing")
            case StepStatus.SUCCESS:
                return decode_output(None, own.returns, step=step.name)
            case None:
                raise OutputError(f"step {step.name!r} has not run yet, so it has no output")
            case status:
                raise OutputError(f"step {step.name!r} has no output: it ended as {status}")

    def set_secret_output(self, key: str, value: str, /) -> TrackedCall[None]:
        return self._activity.tracked(
            offers.set_secret_output(self._activity, self._facts, key, value),
            f"ctx.set_secret_output({key!r}, …)",
        )

    def emit(
        self,
        event: object,
        /,
        payload: Mapping[str, Any] | None = None,
        *,
        target_repos: Sequence[str] = (),
    ) -> TrackedCall[Delivery]:
        shown = repr(event) if isinstance(event, str) else f"{type(event).__name__}(…)"
        return self._activity.tracked(
            offers.emit(self._activity, self._facts, event, payload, target_repos), f"ctx.emit({shown})"
        )

    def attest_provenance(
        self,
        name: str,
        /,
        *,
        path: str | os.PathLike[str] | None = None,
        digest: str | None = None,
        audience: str = "kici-provenance",
    ) -> TrackedCall[Provenance]:
        return self._activity.tracked(
            offers.attest_provenance(self._activity, self._facts, name, path, digest, audience),
            f"ctx.attest_provenance({name!r})",
        )

    def annotate(
        self, level: str, msg: str, /, *, file: str | None = None, line: int | None = None
    ) -> None:
        if level not in _LEVELS:
            raise ValueError(f"an annotation is one of {', '.join(_LEVELS)}, not {level!r}")
        notes = self._activity.notes.annotations
        if len(notes) >= MOST_ANNOTATIONS:
            raise LimitExceededError(f"a step may leave {MOST_ANNOTATIONS} annotations")
        notes.append(Annotation(level=level, message=msg, file=file, line=line))

    def summary(self, markdown: str, /) -> None:
        notes = self._activity.notes.summary
        if sum(len(part.encode()) + 1 for part in (*notes, markdown)) > SUMMARY_BYTES:
            raise LimitExceededError("the summary of a step may have 1 MiB")
        notes.append(markdown)


class HookStepContext(StepContext):
    def __init__(self, activity: Activity, facts: JobFacts, outcome: Outcome) -> None:
        super().__init__(activity, facts)
        self.outcome = outcome


def _one_line(script: str) -> str:
    """The script's first line that says something, marked when there is more."""
    lines = [line.strip() for line in script.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    return lines[0] if len(lines) == 1 else lines[0] + " …"
