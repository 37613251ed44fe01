"""What `ctx` hands out: frozen values, no behaviour beyond reading them."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, overload

import msgspec
from msgspec import Struct

from kici.spec.states import JobStatus

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)


class Completed(Struct, frozen=True, kw_only=True):
    """A finished command. Each stream is captured up to 16 MiB; `truncated` tells when that cut it.

    `duration` is in seconds. Bytes that are not UTF-8 are replaced.

    >>> done = await ctx.run("git", "describe", "--tags", check=False)
    >>> version = done.text if done.ok else "untagged"
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


class WorkflowInfo(Struct, frozen=True, kw_only=True):
    """The workflow this step belongs to.

    >>> ctx.log.info("part of %s", ctx.workflow.name)
    """

    name: str


class JobInfo(Struct, frozen=True, kw_only=True):
    """The job this step belongs to. `name` tells variants apart, `base_name` does not.

    >>> ctx.set_env("COVERAGE_FILE", f".coverage.{ctx.job.base_name}")
    """

    id: str
    name: str
    base_name: str
    attempt: int = 1


class StepInfo(Struct, frozen=True, kw_only=True):
    """This step: its place in the job, counted from 0, and the number of this try, counted from 1.

    >>> if ctx.step.attempt > 1:
    ...     await ctx.sh("make clean")
    """

    name: str
    index: int
    attempt: int = 1


class Fanout(Struct, frozen=True, kw_only=True):
    """Place among the children of a matrix or of `runs_on_all`, `index` from 0 (AU-21).

    >>> if ctx.fanout is not None and ctx.fanout.first:
    ...     await ctx.sh("make migrate")
    """

    index: int
    total: int

    @property
    def first(self) -> bool:
        return self.index == 0

    @property
    def last(self) -> bool:
        return self.index == self.total - 1


class HostFacts(Struct, frozen=True, kw_only=True):
    """The machine a job runs on, or one of the inventory. `properties` are what its agent reports.

    >>> for host in await ctx.kici.inventory.query("role:web"):
    ...     ctx.log.info("%s %s", host.agent_id, host.labels)
    """

    host: str
    labels: tuple[str, ...] = ()
    platform: str = ""  # linux | darwin | windows
    arch: str = ""  # x64 | arm64
    agent_id: str = ""
    online: bool = True
    properties: Mapping[str, Any] = {}


class AgentInfo(Struct, frozen=True, kw_only=True):
    """The agent that runs this job.

    >>> ctx.log.info("agent %s", ctx.agent.id if ctx.agent else "none")
    """

    id: str
    version: str = ""


class NeedResult(Struct, Generic[R_co], frozen=True, kw_only=True):
    """An upstream job's end. `result` is None unless it left outputs.

    >>> if ctx.need(deploy).status == "failed":
    ...     ctx.log.error("nothing was deployed")
    """

    name: str
    status: JobStatus
    result: R_co | None = None

    def __repr__(self) -> str:
        return f"NeedResult({self.name!r}, {str(self.status)!r}, {self.result!r})"


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
    failed_job: str | None = None  # hooks of workflows
    job_statuses: Mapping[str, JobStatus] = {}  # hooks of workflows: by job name


class SecretMeta(Struct, frozen=True, kw_only=True):
    """Where a secret comes from; never its value.

    >>> ctx.log.info("%s", (await ctx.secrets.get_meta("NPM_TOKEN")).scope)
    """

    key: str
    backend: str = ""
    scope: str = ""


class Delivery(Struct, frozen=True, kw_only=True):
    """An accepted event.

    >>> delivery = await ctx.emit("deploy-complete", {"env": "prod"})
    >>> ctx.log.info("delivered as %s", delivery.id)
    """

    id: str


class CacheHit(Struct, frozen=True, kw_only=True):
    """What a restore found: `matched_key` is the whole key of the entry, None without a hit.

    >>> hit = await ctx.cache.restore(Cache(key="pip", paths=["~/.cache/pip"]))
    >>> ctx.log.info("restored %s", hit.matched_key if hit.hit else "nothing")
    """

    hit: bool
    matched_key: str | None = None


class Provenance(Struct, frozen=True, kw_only=True):
    """A stored attestation of an artifact's origin.

    >>> proof = await ctx.attest_provenance("wheel", path="dist/app.whl")
    >>> ctx.log.info("%s", proof.subject_digest)
    """

    storage_key: str
    subject_digest: str
    bundle_media_type: str


class RepoInfo(Struct, frozen=True, kw_only=True):
    """A repository of this run: the one that holds the workflow, or the one that caused the run.

    >>> ctx.log.info("%s at %s", ctx.source_repo.identifier, ctx.source_repo.sha)
    """

    identifier: str
    path: str = ""
    ref: str = ""
    sha: str = ""


class OidcToken(Struct, frozen=True, kw_only=True):
    """A short-lived identity token; `token` is masked in logs, `expires_in` is in seconds.

    >>> identity = await ctx.kici.oidc.token(audience="sts.example.com")
    >>> await ctx.sh('login --token "$t"', t=identity.token)
    """

    token: str
    expires_in: int
