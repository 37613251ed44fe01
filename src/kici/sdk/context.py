"""`ctx`: what running author code may ask for. Protocols only; values stand in `results`, parts in `services`.

The runner implements them and `kici.testing` does; a test may pass anything of the same shape (AU-6).
`SyncContext` in `sync_context.py` is generated from `Context` by scripts/gen_sync_context.py.
"""

from collections.abc import Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, overload

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
from kici.sdk.services import (
    CacheAccess,
    HostOutputs,
    JobOutputs,
    Kici,
    Log,
    MatrixOutputs,
    Secrets,
)
from kici.sdk.values import Duration, Scalar

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from kici.sdk.definitions import Job, MultiJob, Step
    from kici.sdk.events import Event
    from kici.sdk.inputs import EventPayload, Inputs

__all__ = [
    "CheckMode",
    "Completed",
    "ConcurrencyContext",
    "Context",
    "GenerateContext",
    "HookContext",
    "HostOutputs",
    "JobOutputs",
    "MatrixOutputs",
    "NeedResult",
    "Outcome",
    "RuleContext",
    "RunInfo",
]

R = TypeVar("R")
InputsT = TypeVar("InputsT", bound="Inputs")
CheckMode: TypeAlias = Literal["apply", "check", "check-fail-on-drift"]


class _Event(Protocol):
    """What every author function sees of the event that started the run."""

    @property
    def event(self) -> "Event":
        """What happened: `match ctx.event: case PushEvent(): …`."""
        ...

    @property
    def dispatch_inputs(self) -> Mapping[str, Any]:
        """Inputs as resolved by the orchestrator, defaults applied."""
        ...

    def inputs(self, kind: type[InputsT], /) -> InputsT:
        """The inputs as an object of their class."""
        ...


class _Shell(Protocol):
    """Commands, and the log they write to."""

    @property
    def log(self) -> Log: ...
    @property
    def env(self) -> Mapping[str, str]:
        """The environment that commands of this step get."""
        ...

    @property
    def workspace(self) -> "Path":
        """Root of the repository's clone, the working directory of steps."""
        ...

    @property
    def tmp(self) -> "Path":
        """A directory that is removed after the step."""
        ...

    def sh(
        self,
        script: str,
        /,
        *,
        cwd: "str | PathLike[str] | None" = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,
        quiet: bool = False,
        **variables: object,
    ) -> Coroutine[Any, Any, Completed]:
        """Run a bash script under `-euo pipefail`. Keyword arguments become shell variables."""
        ...

    def run(
        self,
        *argv: "str | PathLike[str]",
        cwd: "str | PathLike[str] | None" = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,
        quiet: bool = False,
    ) -> Coroutine[Any, Any, Completed]:
        """Run one program without a shell."""
        ...


class _Upstream(Protocol):
    """What jobs before this one left (AU-26)."""

    @property
    def needs(self) -> Mapping[str, NeedResult[Any] | Sequence[NeedResult[Any]]]:
        """Every declared need by name; a group or a fan-out is an ordered list."""
        ...

    @overload
    def job_outputs(self, job: "Job[R]", /) -> R: ...
    @overload
    def job_outputs(self, job: "MultiJob", /) -> JobOutputs: ...

    @overload
    def matrix_outputs(self, job: "Job[R]", /) -> MatrixOutputs[R]: ...
    @overload
    def matrix_outputs(self, job: "MultiJob", /) -> MatrixOutputs[JobOutputs]: ...

    @overload
    def host_outputs(self, job: "Job[R]", /) -> HostOutputs[R]: ...
    @overload
    def host_outputs(self, job: "MultiJob", /) -> HostOutputs[JobOutputs]: ...

    @overload
    def need(self, job: "Job[R]", /) -> NeedResult[R]: ...
    @overload
    def need(self, job: "MultiJob", /) -> NeedResult[JobOutputs]: ...
    @overload
    def need(self, job: str, /) -> NeedResult[Any]: ...


class Context(_Event, _Shell, _Upstream, Protocol):
    """The first parameter of every step.

    >>> @step
    ... async def test(ctx: Context) -> None:
    ...     await ctx.sh("pytest -q")
    """

    @property
    def raw_payload(self) -> Mapping[str, Any]:
        """The event's body as received."""
        ...

    @property
    def provider(self) -> str | None: ...
    @property
    def run_info(self) -> RunInfo: ...
    @property
    def workflow(self) -> WorkflowInfo: ...
    @property
    def job(self) -> JobInfo: ...
    @property
    def step(self) -> StepInfo: ...
    @property
    def workflow_repo(self) -> RepoInfo:
        """The repository that holds this workflow."""
        ...

    @property
    def source_repo(self) -> RepoInfo:
        """The repository that the event came from; another one for global workflows."""
        ...

    @property
    def matrix(self) -> Mapping[str, Scalar]:
        """This job's combination; empty for a job without a matrix."""
        ...

    @property
    def fanout(self) -> Fanout | None:
        """None for a job that is not fanned out."""
        ...

    @property
    def host(self) -> HostFacts | None: ...
    @property
    def agent(self) -> AgentInfo | None: ...
    @property
    def environment(self) -> str | None:
        """The first environment of the job."""
        ...

    @property
    def environments(self) -> Sequence[str]: ...
    @property
    def is_test_run(self) -> bool:
        """Whether `kici run` started it, locally or remotely."""
        ...

    @property
    def check_mode(self) -> CheckMode: ...
    @property
    def secrets(self) -> Secrets: ...
    @property
    def cache(self) -> CacheAccess: ...
    @property
    def kici(self) -> Kici: ...

    def set_env(self, key: str, value: str, /) -> None:
        """Set a variable for this and all later steps of the job."""
        ...

    def add_path(self, directory: "str | PathLike[str]", /) -> None:
        """Put a directory first on PATH for this and all later steps of the job."""
        ...

    def outputs_of(self, step: "Step[R]", /) -> R:
        """The value an earlier step of this job returned."""
        ...

    def set_secret_output(self, key: str, value: str, /) -> Coroutine[Any, Any, None]:
        """Hand a secret to jobs that need this one, sealed. At most 20 per job, 64 KiB each."""
        ...

    @overload
    def emit(
        self, event: "EventPayload", /, *, target_repos: Sequence[str] = ()
    ) -> Coroutine[Any, Any, Delivery]: ...
    @overload
    def emit(
        self,
        event: str,
        /,
        payload: Mapping[str, Any] | None = None,
        *,
        target_repos: Sequence[str] = (),
    ) -> Coroutine[Any, Any, Delivery]: ...

    def attest_provenance(
        self,
        name: str,
        /,
        *,
        path: "str | PathLike[str] | None" = None,
        digest: str | None = None,
        audience: str = "kici-provenance",
    ) -> Coroutine[Any, Any, Provenance]:
        """Sign where an artifact comes from: the file at `path`, or `digest` as `sha256:…`."""
        ...

    def annotate(
        self,
        level: Literal["notice", "warning", "error"],
        msg: str,
        /,
        *,
        file: str | None = None,
        line: int | None = None,
    ) -> None:
        """Say something about a line of the repository."""
        ...

    def summary(self, markdown: str, /) -> None:
        """Append to the step's summary page, at most 1 MiB of Markdown."""
        ...


class HookContext(Context, Protocol):
    """The first parameter of every hook: a Context that also knows how it went.

    >>> async def release(ctx: HookContext) -> None:
    ...     await ctx.sh('./unlock.sh "$how"', how=ctx.outcome.status)
    """

    @property
    def outcome(self) -> Outcome: ...


class RuleContext(_Event, Protocol):
    """What a rule decides by (AU-34). Off fan-out, `fanout` is child 0 of 1.

    >>> docs_only = skip("docs only", lambda ctx: ctx.changed_files == ["README.md"])
    """

    @property
    def changed_files(self) -> list[str] | None:
        """None means unknown."""
        ...

    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def fanout(self) -> Fanout: ...
    def sh(
        self,
        script: str,
        /,
        *,
        cwd: "str | PathLike[str] | None" = None,
        env: Mapping[str, str] | None = None,
        input: str | bytes | None = None,
        check: bool = True,
        timeout: Duration | None = None,
        quiet: bool = False,
        **variables: object,
    ) -> Coroutine[Any, Any, Completed]:
        """As `ctx.sh` of a step; such a rule runs on an agent."""
        ...


class GenerateContext(_Event, _Shell, _Upstream, Protocol):
    """What a generator of jobs, or a matrix function, decides by (AU-43).

    >>> @dynamic_jobs("hosts")
    ... async def per_host(g: GenerateContext) -> list[MultiJob]:
    ...     hosts = await g.kici.inventory.query("role:web")
    ...     return [job(f"on-{h.host}", runs_on=h.agent_id, steps=[build]) for h in hosts]
    """

    @property
    def run_info(self) -> RunInfo: ...
    @property
    def kici(self) -> Kici: ...


class ConcurrencyContext(_Event, Protocol):
    """What names a concurrency group (AU-59). `ref` is the branch or tag, empty when there is none.

    >>> per_branch = Concurrency(group=lambda c: f"{c.workflow}-{c.ref}")
    """

    @property
    def workflow(self) -> str: ...
    @property
    def ref(self) -> str: ...
    @property
    def sha(self) -> str: ...
    @property
    def repository(self) -> str: ...
