"""`ctx` as steps and hooks get it: `kici.sdk.context.Context` come alive."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from kici.protocol.runner_v1 import AddMask, Execute
from kici.runner import envfiles
from kici.runner.activity import Activity
from kici.runner.calls import TrackedCall
from kici.runner.command import Command
from kici.runner.script import bash_argv
from kici.runner.upstream import Upstream
from kici.runner.values import decode_output
from kici.sdk.context import Completed, NeedResult, Outcome, RunInfo
from kici.sdk.definitions import JobDefinition, Step, flat_steps
from kici.sdk.errors import OutputError
from kici.sdk.values import Duration, Scalar, duration_ms
from kici.spec.events import Event
from kici.spec.states import StepStatus

_COLORS = {"debug": "\033[2m", "info": "", "warning": "\033[33m", "error": "\033[31m"}
_RUN_FACTS = ("repository", "ref", "sha", "url")


class JobFacts(Struct, kw_only=True):
    """What the contexts of one job share. Outputs and statuses are by step name and grow as steps end."""

    execute: Execute
    job: JobDefinition
    upstream: Upstream
    outputs: dict[str, Any]
    statuses: dict[str, StepStatus]

    def run_info(self) -> RunInfo:
        execute = self.execute
        return RunInfo(
            run_id=execute.run_id,
            job_id=execute.job_id,
            attempt=execute.attempt,
            workflow=execute.workflow_name,
            job=execute.job_name,
            **{name: str(execute.run_info.get(name) or "") for name in _RUN_FACTS},
        )


class StepLog:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def debug(self, msg: str, /, *args: object) -> None:
        self._write("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._write("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._write("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._write("error", msg, args)

    @contextmanager
    def group(self, title: str, /) -> Generator[None]:
        self._activity.print(f"\033[1m▾ {title}\033[0m")
        yield

    def add_mask(self, value: str, /) -> None:
        self._activity.services.link.send(AddMask(value=value))

    def _write(self, level: str, msg: str, args: tuple[object, ...]) -> None:
        text = msg % args if args else msg
        if level == "info":
            self._activity.print(text)
        else:
            self._activity.print(f"{_COLORS[level]}{level}: {text}\033[0m")


class StepContext:
    """Serves one activity; calls that outlive it find its log closed."""

    def __init__(self, activity: Activity, facts: JobFacts) -> None:
        self._activity = activity
        self._facts = facts
        self.log = StepLog(activity)
        self.run_info = facts.run_info()

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
    def event(self) -> Event:
        return self._facts.execute.event

    @property
    def matrix(self) -> Mapping[str, Scalar]:
        return self._facts.execute.matrix

    @property
    def needs(self) -> Mapping[str, NeedResult[Any] | Sequence[NeedResult[Any]]]:
        return self._facts.upstream.needs()

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
                env=env,
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
        words = [os.fspath(word) for word in argv]
        if not words:
            raise ValueError("ctx.run needs a program to run")
        return self._activity.tracked(
            self._execute(
                words,
                shown=" ".join(words),
                cwd=cwd,
                env=env,
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
        env: Mapping[str, str] | None,
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
            env={**self._activity.env, **(env or {})},
            input=input.encode() if isinstance(input, str) else input,
            sink=None if quiet else self._activity.log_sink(),
            outside=services.outside,
            grace_s=services.grace_s,
            told_to_end=lambda: self._activity.told_to_end,
        )
        return await command.run(
            check=check, timeout_s=None if timeout is None else duration_ms(timeout) / 1_000
        )

    def set_env(self, key: str, value: str, /) -> None:
        if not key or "=" in key or "\0" in key or "\0" in value:
            raise ValueError(f"{key!r} cannot be the name of an environment variable")
        if key.startswith("KICI_"):
            raise ValueError(f"{key} cannot be set: names that start with KICI_ belong to kici")
        self._activity.export(key, value)

    def add_path(self, directory: str | os.PathLike[str], /) -> None:
        path = os.path.join(self._facts.execute.workspace, directory)
        self._activity.added_paths.insert(0, path)
        self._activity.set_variable("PATH", envfiles.with_path(self._activity.env, [path]))

    def outputs_of(self, step: Step[Any], /) -> Any:
        own = next(
            (flat.step for flat in flat_steps(self._facts.job.steps) if flat.step.name == step.name), None
        )
        if own is None or own.fn is not step.fn:
            raise OutputError(
                f"step {step.name!r} is not part of this job; for another job write ctx.job_outputs(job).of(step)"
            )
        if step.name in self._facts.outputs:
            return decode_output(self._facts.outputs[step.name], own.returns, step=step.name)
        match self._facts.statuses.get(step.name):
            case StepStatus.SUCCESS:
                return decode_output(None, own.returns, step=step.name)
            case None:
                raise OutputError(f"step {step.name!r} has not run yet, so it has no output")
            case status:
                raise OutputError(f"step {step.name!r} has no output: it ended as {status}")

    def job_outputs(self, job: JobDefinition, /) -> Any:
        return self._facts.upstream.outputs_of(job)

    def matrix_outputs(self, job: JobDefinition, /) -> Any:
        return self._facts.upstream.matrix_outputs_of(job)

    def need(self, job: JobDefinition | str, /) -> NeedResult[Any]:
        return self._facts.upstream.need(job)


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
