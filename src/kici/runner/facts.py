"""What the contexts of one job share."""

from typing import Any

from msgspec import Struct

from kici.protocol.runner_v1 import Execute
from kici.runner.upstream import Upstream
from kici.sdk.definitions import JobDefinition
from kici.sdk.events import Event, typed_event
from kici.sdk.results import AgentInfo, Fanout, HostFacts, JobInfo, RepoInfo, RunInfo, WorkflowInfo
from kici.spec.states import StepStatus

_RUN_FACTS = ("repository", "ref", "sha", "url")
_PLATFORM, _ARCH, _HOST = "kici:os:", "kici:arch:", "kici:host:"


class JobFacts(Struct, kw_only=True):
    """Outputs and statuses are by step name and grow as steps end. `job` is None while jobs are generated.

    `Execute.run_info` holds repository, ref, sha, url; also agentId, agentVersion, host, platform and arch, and
    for global workflows sourceRepository, sourceRef and sourceSha.
    """

    execute: Execute
    job: JobDefinition | None
    upstream: Upstream
    outputs: dict[str, Any] = {}
    statuses: dict[str, StepStatus] = {}
    known_event: Event | None = None

    @property
    def checks_only(self) -> bool:
        return self.execute.check_mode != "apply"

    @property
    def event(self) -> Event:
        if self.known_event is None:
            self.known_event = typed_event(self.execute.event)
        return self.known_event

    def run_info(self) -> RunInfo:
        execute = self.execute
        return RunInfo(
            run_id=execute.run_id,
            job_id=execute.job_id,
            attempt=execute.attempt,
            workflow=execute.workflow_name,
            job=execute.job_name,
            **{name: self.run_fact(name) for name in _RUN_FACTS},
        )

    def run_fact(self, name: str) -> str:
        return str(self.execute.run_info.get(name) or "")

    def workflow_info(self) -> WorkflowInfo:
        return WorkflowInfo(name=self.execute.workflow_name)

    def job_info(self) -> JobInfo:
        execute = self.execute
        return JobInfo(
            id=execute.job_id,
            name=execute.job_name,
            base_name=execute.base_job_name,
            attempt=execute.attempt,
        )

    def place(self) -> Fanout:
        """Off fan-out, child 0 of 1 (AU-35)."""
        return Fanout(index=self.execute.fanout_index, total=max(1, self.execute.fanout_total))

    def fanout(self) -> Fanout | None:
        is_fanned_out = bool(self.execute.matrix) or self.execute.fanout_total > 1
        return self.place() if is_fanned_out else None

    def host(self) -> HostFacts | None:
        host = self.run_fact("host") or self._label(_HOST)
        if not host:
            return None
        return HostFacts(
            host=host,
            labels=tuple(self.execute.labels),
            platform=self.run_fact("platform") or self._label(_PLATFORM),
            arch=self.run_fact("arch") or self._label(_ARCH),
            agent_id=self.run_fact("agentId"),
        )

    def agent(self) -> AgentInfo | None:
        agent_id = self.run_fact("agentId")
        return AgentInfo(id=agent_id, version=self.run_fact("agentVersion")) if agent_id else None

    def workflow_repo(self) -> RepoInfo:
        return RepoInfo(
            identifier=self.run_fact("repository"),
            path=self.execute.workspace,
            ref=self.run_fact("ref"),
            sha=self.run_fact("sha"),
        )

    def source_repo(self) -> RepoInfo:
        if not self.run_fact("sourceRepository"):
            return self.workflow_repo()
        return RepoInfo(
            identifier=self.run_fact("sourceRepository"),
            ref=self.run_fact("sourceRef"),
            sha=self.run_fact("sourceSha"),
        )

    def _label(self, prefix: str) -> str:
        return next(
            (label.removeprefix(prefix) for label in self.execute.labels if label.startswith(prefix)), ""
        )
