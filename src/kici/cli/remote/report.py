"""What became of remote runs: the same shapes as local ones, so that tree, JUnit and JSON are the same."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.cli.local.results import RunReport
from kici.spec.states import RunStatus

_DRIFT = "would_change"
_GOOD = frozenset({RunStatus.SUCCESS, RunStatus.SKIPPED})
# What the server refuses because of what was asked for, not because of what it found.
USAGE_REASONS = frozenset(
    {"ambiguous_cluster", "no_cluster", "unknown_workflow", "no_match", "bad_inputs", "bad_event"}
)


class FixtureReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """One fixture or event word: also when nothing of it was started (AU-128)."""

    fixture: str
    event: str
    status: Literal["accepted", "rejected", "error"]
    reason: str | None = None
    message: str | None = None
    runs: list[RunReport] = []  # those that were followed to their end
    run_ids: list[str] = []  # all that it started
    urls: list[str] = []

    @property
    def good(self) -> bool:
        return self.status == "accepted" and all(run.status in _GOOD for run in self.runs)

    @property
    def bad_input(self) -> bool:
        return self.reason in USAGE_REASONS


class RemoteReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """The one document of `--json`. `interrupted` by Ctrl-C; `detached`: the runs go on without us."""

    ok: bool
    fixtures: list[FixtureReport]
    interrupted: bool = False
    detached: bool = False


def run_report(detail: dict[str, Any]) -> RunReport:
    """A RunDetailView in camelCase as the report of a run."""
    run = detail["run"]
    jobs = [_job(job) for job in detail["jobs"]]
    return msgspec.convert(
        {
            "runId": run["runId"],
            "workflow": run["workflowName"],
            "trigger": run["triggerReason"],
            "status": run["status"],
            "durationMs": run["durationMs"] or 0,
            "jobs": jobs,
            "errorMessage": run["failureReason"],
            "rules": [_rule(rule) for rule in run["rules"]],
            "inputs": run["inputs"],
            "drifted": any(job["drifted"] for job in jobs),
        },
        RunReport,
    )


def _job(job: dict[str, Any]) -> dict[str, Any]:
    steps = [_step(step) for step in job["steps"]]
    failure = job["initFailure"]
    return {
        "name": job["jobName"],
        "title": job["displayName"],
        "kind": job["kind"],
        "status": job["status"],
        "runsOn": job["runsOnLabels"],
        "durationMs": job["durationMs"],
        "errorMessage": job["errorMessage"],
        "timeoutReason": job["timeoutReason"],
        "failureCategory": failure["category"] if failure else None,
        "outputs": job["outputs"] or {},
        "secretOutputs": job["secretOutputKeys"],
        "rules": [_rule(rule) for rule in job["rules"]],
        "drifted": any(step["checkOutcome"] == _DRIFT for step in steps),
        "steps": steps,
    }


def _step(step: dict[str, Any]) -> dict[str, Any]:
    return {
        "index": step["stepIndex"],
        "name": step["stepName"],
        "type": step["stepType"],
        "status": step["status"],
        "durationMs": step["durationMs"],
        "exitCode": step["exitCode"],
        "errorMessage": step["errorMessage"],
        "checkOutcome": step["checkOutcome"],
        "driftSummary": step["driftSummary"],
        "rules": [_rule(rule) for rule in step["rules"]],
        "summary": step["summary"],
        "annotations": step["annotations"],
        "secretsAccessed": step["secretsAccessed"],
    }


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    return {name: rule[name] for name in ("label", "passed", "durationMs", "error")}
