"""`ctx`: what a running step may ask for. Protocols and the values they hand out, no behaviour.

The runner implements `Context` and `HookContext`; a test may pass anything of the same shape (AU-6).
"""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

import msgspec
from msgspec import Struct

from kici.sdk.values import Duration, Scalar
from kici.spec.events import Event
from kici.spec.states import JobStatus

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from kici.sdk.definitions import Job, MultiJob, Step

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Completed(Struct, frozen=True, kw_only=True):
    """A finished command. Each stream is captured up to 16 MiB; `truncated` tells when that cut it.

    `duration` is in seconds. Bytes that are not UTF-8 are replaced.

    >>> done = await ctx.run("git", "describe", "--tags", check=False)
    >>> tag = done.text if done.ok else "untagged"
    """

    returncode: int
    stdout: str
    stderr: str
    duration: float
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def text(self) -> str:
        """stdout without its trailing newlines, as `$(...)` gives it."""
        return self.stdout.rstrip("\n")

    @property
    def lines(self) -> list[str]:
        return self.stdout.splitlines()

    @overload
    def json(self, /) -> Any: ...
    @overload
    def json(self, type: type[T], /) -> T: ...
    def json(self, type: Any = Any, /) -> Any:
        """stdout as JSON, checked against `type`."""
        return msgspec.json.decode(self.stdout, type=type)


class RunInfo(Struct, frozen=True, kw_only=True):
    """Which run this is. `ref` is the branch or tag, `sha` the commit, `url` the run's page or empty.

    >>> ctx.log.info("%s at %s", ctx.run_info.workflow, ctx.run_info.sha)
    """

    run_id: str
    job_id: str
    attempt: int
    workflow: str
    job: str
    repository: str = ""
    ref: str = ""
    sha: str = ""
    url: str = ""


class NeedResult(Struct, Generic[R_co], frozen=True, kw_only=True):
    """An upstream job's end. `result` is None unless it left outputs.

    >>> if ctx.need(deploy).status == "failed":
    ...     ctx.log.error("nothing was deployed")
    """

    name: str
    status: JobStatus
    result: R_co | None = None


class Outcome(Struct, frozen=True, kw_only=True):
    """What a hook observes. `duration` is in seconds; `step_outputs` by step name.

    >>> def tell(ctx: HookContext) -> None:
    ...     ctx.log.info("%s after %.0f s", ctx.outcome.status, ctx.outcome.duration)
    """

    status: str  # success | failed | cancelled
    reason: str | None = None
    failed_step: str | None = None
    step_outputs: Mapping[str, Any] = {}
    duration: float = 0.0


class JobOutputs(Protocol):
    """Outputs of a job with several steps, one step at a time.

    >>> version = ctx.job_outputs(package).of(build)
    """

    def of(self, step: "Step[R]", /) -> R: ...


class MatrixOutputs(Protocol[R_co]):
    """Outputs of a fanned-out job. `merged` joins mappings and structs, the last name in order wins.

    >>> for combination, outputs in ctx.matrix_outputs(package).by_matrix.items():
    ...     ctx.log.info("%s: %s", combination, outputs.of(build))
    """

    @property
    def by_matrix(self) -> Mapping[str, R_co]: ...
    @property
    def merged(self) -> Mapping[str, Any]: ...


class Log(Protocol):
    """Lines of the step's log. `args` are applied with `%`, as in the logging module."""

    def debug(self, msg: str, /, *args: object) -> None: ...
    def info(self, msg: str, /, *args: object) -> None: ...
    def warning(self, msg: str, /, *args: object) -> None: ...
    def error(self, msg: str, /, *args: object) -> None: ...
    def group(self, title: str, /) -> AbstractContextManager[None]: ...
    def add_mask(self, value: str, /) -> None: ...


class Context(Protocol):
    """The first parameter of every step.

    >>> @step
    ... async def test(ctx: Context) -> None:
    ...     await ctx.sh("pytest -q")
    """

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

    @property
    def event(self) -> Event: ...
    @property
    def run_info(self) -> RunInfo: ...
    @property
    def matrix(self) -> Mapping[str, Scalar]:
        """This job's combination; empty for a job without a matrix."""
        ...

    @property
    def needs(self) -> Mapping[str, NeedResult[Any] | Sequence[NeedResult[Any]]]:
        """Every declared need by job name; a fan-out is an ordered list."""
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

    def set_env(self, key: str, value: str, /) -> None:
        """Set a variable for this and all later steps of the job."""
        ...

    def add_path(self, directory: "str | PathLike[str]", /) -> None:
        """Put a directory first on PATH for this and all later steps of the job."""
        ...

    def outputs_of(self, step: "Step[R]", /) -> R:
        """The value an earlier step of this job returned."""
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
    def need(self, job: "Job[R]", /) -> NeedResult[R]: ...
    @overload
    def need(self, job: "MultiJob", /) -> NeedResult[JobOutputs]: ...
    @overload
    def need(self, job: str, /) -> NeedResult[Any]: ...


class HookContext(Context, Protocol):
    """The first parameter of every hook: a Context that also knows how it went.

    >>> async def release(ctx: HookContext) -> None:
    ...     await ctx.sh('./unlock.sh "$how"', how=ctx.outcome.status)
    """

    @property
    def outcome(self) -> Outcome: ...
