"""`FakeContext`: a `ctx` for tests. It runs nothing; it records what it was asked and answers as told."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, overload

import msgspec

from kici.sdk.context import CheckMode
from kici.sdk.definitions import DynamicJobs, Job, JobDefinition, MultiJob, Step
from kici.sdk.errors import OutputError
from kici.sdk.events import Event, PushEvent
from kici.sdk.inputs import EventPayload, Inputs, decode, emitted_name
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
from kici.sdk.services import HostOutputs, JobOutputs, MatrixOutputs
from kici.sdk.values import Duration, Scalar
from kici.sdk.words import argument, environment, environment_name, environment_text, plain, shell_word
from kici.spec.states import JobStatus
from kici.testing.commands import Answer, Answers, Command, Wanted, quoted
from kici.testing.parts import Annotation, Emitted, FakeCache, FakeKici, FakeLog, FakeSecrets, Folder
from kici.testing.tracking import awaited
from kici.testing.upstream import Given, GivenHosts, GivenMatrix

R = TypeVar("R")
InputsT = TypeVar("InputsT", bound=Inputs)


class FakeContext:
    """Give it what the step will read; look afterwards at what it did.

    Commands that nobody answers succeed with no output; with `strict=True` they fail the test.
    It also stands in for the context of hooks (`outcome`) and of generators.

    >>> fake = FakeContext(env={"CI": "true"}, secrets={"TOKEN": "t"}, strict=True)
    >>> fake.answer("git describe*", "v1.2\\n")
    >>> fake.give_job(package, {build: "1.2"})
    """

    def __init__(
        self,
        *,
        event: Event | None = None,
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        matrix: Mapping[str, Scalar] | None = None,
        inputs: Mapping[str, Any] | None = None,
        workspace: "str | os.PathLike[str] | None" = None,
        tmp: "str | os.PathLike[str] | None" = None,
        hosts: Sequence[HostFacts] = (),
        fanout: Fanout | None = None,
        environments: Sequence[str] = (),
        check_mode: CheckMode = "apply",
        strict: bool = False,
    ) -> None:
        self._given = Given()
        self._answers = Answers(strict=strict)
        self._workspace = Folder(None if workspace is None else Path(workspace))
        self._tmp = Folder(None if tmp is None else Path(tmp))
        self.commands: list[Command] = []
        self.emitted: list[Emitted] = []
        self.annotations: list[Annotation] = []
        self.summaries: list[str] = []
        self.secret_outputs: dict[str, str] = {}
        self.exported: dict[str, str] = {}
        self.added_paths: list[str] = []
        self.env: dict[str, str] = dict(env or {})
        self.event: Event = event or PushEvent(target_branch="main")
        self.dispatch_inputs: dict[str, Any] = dict(inputs or {})
        self.matrix: dict[str, Scalar] = dict(matrix or {})
        self.fanout: Fanout | None = fanout
        self.environments: Sequence[str] = tuple(environments)
        self.check_mode: CheckMode = check_mode
        self.is_test_run = True
        self.log = FakeLog()
        self.secrets = FakeSecrets(secrets or {}, self.env, self._tmp)
        self.cache = FakeCache()
        self.kici = FakeKici([*hosts])
        self.host: HostFacts | None = hosts[0] if hosts else None
        self.agent: AgentInfo | None = AgentInfo(id="agent-1")
        self.workflow = WorkflowInfo(name="workflow")
        self.job = JobInfo(id="job-1", name="job", base_name="job")
        self.step = StepInfo(name="step", index=0)
        self.run_info = RunInfo(run_id="run-1", job_id="job-1", attempt=1, workflow="workflow", job="job")
        self.workflow_repo = RepoInfo(identifier="test/repository")
        self.source_repo = RepoInfo(identifier="test/repository")
        self.outcome = Outcome(status="success")

    # ── what the test says ──────────────────────────────────────────────────────────────────────

    def answer(self, wanted: Wanted, answer: Answer = "", /) -> None:
        """What commands like `wanted` (a glob, or a regex) give: their stdout, an exit code, a Completed, or
        a function of the Command. Later answers win."""
        self._answers.add(wanted, answer)

    def give_output(self, step: Step[R], value: R, /) -> None:
        """The output of an earlier step of this job."""
        self._given.steps[step.name] = value

    def give_job(
        self, job: JobDefinition, output: Any = None, /, *, status: JobStatus | str = JobStatus.SUCCESS
    ) -> None:
        """A needed job: its output, or `{step: value}` for a job of several steps."""
        self._given.job(job, output, JobStatus(status))

    def give_matrix(self, job: JobDefinition, outputs: Mapping[str, Any], /) -> None:
        """A needed job with a matrix: outputs by combination, as in `{"linux, 3.12": …}`."""
        self._given.matrix(job, outputs)

    def give_hosts(
        self, job: JobDefinition, outputs: Mapping[str, Any], /, *, failed: Sequence[str] = ()
    ) -> None:
        """A needed job with `runs_on_all`: outputs by agent id."""
        self._given.hosts(job, outputs, failed)

    def give_group(self, name: str | DynamicJobs, results: Sequence[NeedResult[Any]], /) -> None:
        """What a needed generator's jobs came to."""
        self._given.group(name if isinstance(name, str) else name.group, results)

    # ── commands ────────────────────────────────────────────────────────────────────────────────

    @awaited("ctx.sh")
    async def sh(
        self,
        script: str,
        /,
        *,
        cwd: "str | os.PathLike[str] | None" = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,  # noqa: ASYNC109 - as in Context
        quiet: bool = False,
        **variables: object,
    ) -> Completed:
        for name, value in variables.items():
            for entry in value if isinstance(value, list | tuple) else (value,):
                shell_word(name, entry)
        return self._execute(
            Command(
                text=script,
                variables={name: plain(value) for name, value in variables.items()},
                cwd=None if cwd is None else os.fspath(cwd),
                env=environment(env),
                input=input,
                check=check,
            )
        )

    @awaited("ctx.run")
    async def run(
        self,
        *argv: "str | os.PathLike[str]",
        cwd: "str | os.PathLike[str] | None" = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,  # noqa: ASYNC109 - as in Context
        quiet: bool = False,
    ) -> Completed:
        words = tuple(argument(word) for word in argv)
        return self._execute(
            Command(
                text=quoted(words),
                argv=words,
                cwd=None if cwd is None else os.fspath(cwd),
                env=environment(env),
                input=input,
                check=check,
            )
        )

    def _execute(self, command: Command) -> Completed:
        self.commands.append(command)
        return self._answers(command)

    # ── facts ───────────────────────────────────────────────────────────────────────────────────

    @property
    def workspace(self) -> Path:
        return self._workspace.path()

    @property
    def tmp(self) -> Path:
        return self._tmp.path()

    @property
    def raw_payload(self) -> Mapping[str, Any]:
        return self.event.payload.raw

    @property
    def provider(self) -> str | None:
        return self.event.provider

    @property
    def changed_files(self) -> list[str] | None:
        return self.event.changed_files

    @property
    def environment(self) -> str | None:
        return self.environments[0] if self.environments else None

    def inputs(self, kind: type[InputsT], /) -> InputsT:
        return decode(kind, self.dispatch_inputs)

    # ── effects ─────────────────────────────────────────────────────────────────────────────────

    def set_env(self, key: str, value: str, /) -> None:
        name = environment_name(key)
        self.env[name] = self.exported[name] = environment_text(name, value)

    def add_path(self, directory: "str | os.PathLike[str]", /) -> None:
        self.added_paths.append(os.fspath(directory))

    @awaited("ctx.set_secret_output")
    async def set_secret_output(self, key: str, value: str, /) -> None:
        self.secret_outputs[key] = value

    @awaited("ctx.emit")
    async def emit(
        self,
        event: EventPayload | str,
        /,
        payload: Mapping[str, Any] | None = None,
        *,
        target_repos: Sequence[str] = (),
    ) -> Delivery:
        name = emitted_name(event)
        body: Any = msgspec.to_builtins(dict(payload or {}) if isinstance(event, str) else event)
        self.emitted.append(Emitted(event=name, payload=body, target_repos=tuple(target_repos)))
        return Delivery(id=f"delivery-{len(self.emitted)}")

    @awaited("ctx.attest_provenance")
    async def attest_provenance(
        self,
        name: str,
        /,
        *,
        path: "str | os.PathLike[str] | None" = None,
        digest: str | None = None,
        audience: str = "kici-provenance",
    ) -> Provenance:
        return Provenance(
            storage_key=f"provenance/{name}",
            subject_digest=digest or "sha256:" + "0" * 64,
            bundle_media_type="application/vnd.dev.sigstore.bundle.v0.3+json",
        )

    def annotate(
        self,
        level: Literal["notice", "warning", "error"],
        msg: str,
        /,
        *,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        self.annotations.append(Annotation(level=level, message=msg, file=file, line=line))

    def summary(self, markdown: str, /) -> None:
        self.summaries.append(markdown)

    # ── what ran before ─────────────────────────────────────────────────────────────────────────

    @property
    def needs(self) -> Mapping[str, NeedResult[Any] | Sequence[NeedResult[Any]]]:
        return self._given.needs

    def outputs_of(self, step: Step[R], /) -> R:
        if step.name not in self._given.steps:
            raise OutputError(
                f"the test gave no output of step {step.name!r}: ctx.give_output({step.name}, …)"
            )
        return cast("R", self._given.steps[step.name])

    @overload
    def job_outputs(self, job: Job[R], /) -> R: ...
    @overload
    def job_outputs(self, job: MultiJob, /) -> JobOutputs: ...
    def job_outputs(self, job: JobDefinition, /) -> Any:
        return self._given.output(job, None, "give_job")

    @overload
    def matrix_outputs(self, job: Job[R], /) -> MatrixOutputs[R]: ...
    @overload
    def matrix_outputs(self, job: MultiJob, /) -> MatrixOutputs[JobOutputs]: ...
    def matrix_outputs(self, job: JobDefinition, /) -> Any:
        return self._given.output(job, GivenMatrix, "give_matrix")

    @overload
    def host_outputs(self, job: Job[R], /) -> HostOutputs[R]: ...
    @overload
    def host_outputs(self, job: MultiJob, /) -> HostOutputs[JobOutputs]: ...
    def host_outputs(self, job: JobDefinition, /) -> Any:
        return self._given.output(job, GivenHosts, "give_hosts")

    @overload
    def need(self, job: Job[R], /) -> NeedResult[R]: ...
    @overload
    def need(self, job: MultiJob, /) -> NeedResult[JobOutputs]: ...
    @overload
    def need(self, job: str, /) -> NeedResult[Any]: ...
    def need(self, job: JobDefinition | str, /) -> Any:
        return self._given.need(job)


class FakeRuleContext(FakeContext):
    """For rules: `fanout` is always there, child 0 of 1 unless told otherwise.

    >>> on_main = rule("main only", lambda ctx: ctx.event.target_branch == "main")
    >>> assert on_main.check(FakeRuleContext(event=PushEvent(target_branch="main")))
    """

    fanout: Fanout  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, *, fanout: Fanout | None = None, **options: Any) -> None:
        super().__init__(fanout=fanout or Fanout(index=0, total=1), **options)
