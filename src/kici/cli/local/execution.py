"""One job on the runner: what it is told, what it shows, what it leaves."""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from kici.cli.local.results import JobReport, StepReport
from kici.cli.local.screen import Screen, plain
from kici.cli.local.services import this_host
from kici.cli.occasions import Occasion
from kici.engine.graph import PlannedJob
from kici.engine.reasons import as_sentence
from kici.protocol.runner_v1 import (
    Execute,
    InitResult,
    Ready,
    RuleResult,
    RunOutcome,
    StepEnded,
    StepStarted,
)
from kici.runner.environment import step_environment
from kici.runner.host import JobResult
from kici.spec.ids import PREPARE_STEP
from kici.spec.lock import LockJob, LockWorkflow
from kici.spec.states import JobStatus, StepStatus

DEFAULT_STEP_TIMEOUT_MS = 1_800_000
DEFAULT_GRACE_PERIOD_MS = 30_000
MAX_GRACE_PERIOD_MS = 300_000
_EXCERPT_BYTES, _EXCERPT_LINES = 8192, 20
_PURPOSE = {"job": "job", "init": "init", "dynamic": "dynamic", "hooks": "hooks"}
_MARKS: dict[str, Literal["✓", "✗", "■", "○"]] = {
    StepStatus.SUCCESS: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.CANCELLED: "■",
    StepStatus.SKIPPED: "○",
}


class RunFacts(Struct, frozen=True, kw_only=True):
    """What all jobs of one run are told."""

    run_id: str
    workflow: LockWorkflow
    occasion: Occasion
    inputs: dict[str, Any]
    check_mode: str
    only_steps: list[str]


class Upstream(Struct, frozen=True, kw_only=True):
    """What the jobs before this one left."""

    outputs: dict[str, dict[str, Any]] = {}
    statuses: dict[str, JobStatus] = {}
    groups: dict[str, list[str]] = {}


def environments_of(job: LockJob, init: InitResult | None) -> list[str]:
    """In order; a function that only author code can tell has come to something in `init`."""
    if init is not None and init.environments is not None:
        return init.environments
    return [value.value for value in job.environments if value.value]


def execute_message(
    facts: RunFacts,
    planned: PlannedJob,
    job: LockJob,
    *,
    job_id: str,
    workspace: str,
    tmp: str,
    upstream: Upstream,
    init: InitResult | None,
    environments: list[str],
    rules_from: int,
    outcome: RunOutcome | None,
    environ: Mapping[str, str],
    locked: list[str],
    uv: str | None,
) -> Execute:
    """`job` is the planned one with what its pure functions came to; `environ` what it may inherit from;
    `locked` names variables that steps cannot set: those of secrets (AU-55)."""
    host = this_host()
    occasion, workflow, variant = facts.occasion, facts.workflow, planned.variant
    attempt = 1
    variables = {
        "KICI": "true",
        "CI": "true",
        "KICI_RUN_ID": facts.run_id,
        "KICI_JOB_ID": job_id,
        "KICI_WORKFLOW": workflow.name,
        "KICI_JOB": variant.job_name,
        "KICI_ATTEMPT": str(attempt),
        "KICI_REPO": occasion.repository,
        "KICI_SHA": occasion.sha,
        "KICI_REF": occasion.full_ref,
        "KICI_BRANCH": occasion.branch,
        "KICI_EVENT": occasion.event.type,
    }
    own = init.env if init is not None and init.env is not None else job.env
    in_container = job.container.env if job.container is not None else {}
    purpose = _PURPOSE[planned.kind]
    return Execute(
        run_id=facts.run_id,
        job_id=job_id,
        attempt=attempt,
        workflow_name=workflow.name,
        workflow_file=workflow.source.file,
        export=workflow.source.export or "",
        job_name=variant.job_name,
        base_job_name=planned.target if planned.kind == "init" else variant.base_job_name,
        workspace=workspace,
        tmp=tmp,
        matrix=variant.values,
        event=occasion.event,
        upstream_outputs=upstream.outputs,
        upstream_statuses=upstream.statuses,
        upstream_groups=upstream.groups,
        run_info={
            "repository": occasion.repository,
            "ref": occasion.ref,
            "sha": occasion.sha,
            **{name: host[name] for name in ("host", "platform", "arch")},
        },
        env={**step_environment(environ), **variables, **own, **in_container},
        default_step_timeout_ms=DEFAULT_STEP_TIMEOUT_MS,
        max_grace_period_ms=min(job.grace_period or DEFAULT_GRACE_PERIOD_MS, MAX_GRACE_PERIOD_MS),
        labels=host["labels"],
        check_mode=facts.check_mode,
        is_local=True,
        purpose=purpose,
        job=job if job.generated else None,
        generator_index=planned.generator_index,
        rules_from=rules_from,
        run_outcome=outcome,
        inputs=facts.inputs,
        environments=environments,
        locked_env=locked,
        fanout_index=planned.fanout_index,
        fanout_total=planned.fanout_total,
        uv=uv,
        # What the asked-for job needs runs in full.
        only_steps=facts.only_steps if set(facts.only_steps) <= {step.name for step in job.steps} else [],
    )


def labels_of(job: LockJob) -> list[str]:
    """`runs_on` as people read it; excluded labels have a `!`."""
    if job.runs_on_all is not None:
        return [
            "all hosts: " + " or ".join("+".join(map(_label, group)) for group in job.runs_on_all.include)
        ]
    return [*map(_label, job.runs_on), *(f"!{_label(matcher)}" for matcher in job.exclude_labels)]


def _label(matcher: Any) -> str:
    return matcher.value or f"/{matcher.source}/{matcher.flags}"


def remarks(planned: PlannedJob, *, container: str | None = None) -> list[str]:
    """What differs here from the machine the job asks for. Nothing is left out in silence (AU-115)."""
    job = planned.job
    if planned.kind != "job":
        return []
    labels = [matcher.value for matcher in job.runs_on]
    foreign = [label for label in labels if label.startswith("kici:os:") and label != "kici:os:linux"]
    lines = [f"runs on {', '.join(labels_of(job))}"]
    if foreign:
        lines[0] += f" (this machine is no {foreign[0].removeprefix('kici:os:')})"
    if job.runs_on_all is not None:
        lines[0] += f"; of them only this machine, {this_host()['host']}"
    if container is not None:
        lines.append(f"in a container of {container}")
    elif job.container is not None:
        lines.append(f"asks for the container {job.container.image}, and runs without: --container uses it")
    if job.resources is not None and job.resources.limits is not None:
        lines.append("its resource limits are not enforced here")
    return lines


class JobWatcher:
    """Shows what a job does and remembers its steps: an observer of the runner."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen = screen
        self._name = name
        self._who: dict[int, str] = {PREPARE_STEP: name}
        self._attempts: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        self.steps: list[StepReport] = []

    def say(self, text: str) -> None:
        self._screen.line(self._name, text)

    def ready(self, m: Ready) -> None:
        pass

    def step_started(self, m: StepStarted) -> None:
        self._attempts[m.step_index] = m.attempt
        if m.attempt > 1:
            self._screen.step(self._name, f"{m.step_name} (attempt {m.attempt})")
            return
        beside_others = m.concurrency_kind != "sequential"
        self._who[m.step_index] = f"{self._name} › {m.step_name}" if beside_others else self._name
        self._screen.step(self._name, m.step_name)
        self._screen.line(self._who[m.step_index], f"▶ {m.step_name}")

    def output(self, step_index: int, data: bytes) -> None:
        self._tails[step_index] = (self._tails.get(step_index, b"") + data[-_EXCERPT_BYTES:])[
            -_EXCERPT_BYTES:
        ]
        self._screen.output(self._who[step_index], data)

    def step_ended(self, m: StepEnded) -> None:
        began = m.step_index in self._who
        tail = self._tails.pop(m.step_index, b"")
        failed = m.status == StepStatus.FAILED
        self.steps.append(
            StepReport(
                index=m.step_index,
                name=m.step_name,
                type=m.step_type,
                status=m.status,
                duration_ms=m.duration_ms if began else None,
                exit_code=m.exit_code,
                error_message=m.error_message,
                excerpt=excerpt(tail) if failed else None,
                attempts=self._attempts.get(m.step_index, 1),
                check_outcome=m.check_outcome,
                drift_summary=m.drift_summary,
                rules=m.rules,
                summary=m.summary,
                annotations=m.annotations,
                secrets_accessed=m.secrets_accessed,
            )
        )
        if began:
            who = self._who[m.step_index]
            outcome = f"  {_OUTCOMES[m.check_outcome]}" if m.check_outcome in _OUTCOMES else ""
            self._screen.finish(who)
            self._screen.line(
                who, f"{_MARKS[m.status]} {m.step_name}  {m.duration_ms / 1000:.1f} s{outcome}"
            )

    def ended(self, result: JobResult) -> None:
        self._screen.finish(self._name)
        blamed = any(step.status == StepStatus.FAILED for step in self.steps)
        if result.error_message and result.status != JobStatus.SUCCESS and not blamed:
            mark = {"failed": "✗", "skipped": "○"}.get(result.status, "■")
            self._screen.line(self._name, f"{mark} {as_sentence(result.error_message or '')}")


_OUTCOMES = {
    "applied": "applied",
    "in_sync": "in sync",
    "would_change": "would change",
    "no_check": "no check",
}


def excerpt(tail: bytes) -> str | None:
    """The last lines, without colours."""
    lines = plain(tail).decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-_EXCERPT_LINES:]) or None


def never_ran(
    planned: PlannedJob,
    title: str,
    reason: str,
    status: JobStatus = JobStatus.SKIPPED,
    *,
    rules: list[RuleResult] | None = None,
    category: str | None = None,
) -> JobReport:
    """The report of a job that was given no runner."""
    return JobReport(
        name=planned.variant.job_name,
        title=title,
        kind=planned.kind,
        group=planned.job.group,
        status=status,
        runs_on=labels_of(planned.job),
        error_message=reason,
        failure_category=category,
        rules=rules or [],
    )
