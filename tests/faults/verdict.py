"""What must be true when everything is quiet again."""

import contextlib
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from kici.cli.up.postgres import database_url
from tests.faults.workload import Deliveries, expected_log
from tests.support.stack import Stack, eventually

# How the death of the process that executes a job is told.
_RUNNER_DIED = re.compile(r"the runner was killed by signal 9|the process that started the runner died")
_OPEN = ["pending", "queued", "running", "cancelling", "held"]


@dataclass
class Verdict:
    runs: int = 0
    retried: int = 0  # jobs
    runner_deaths: int = 0  # jobs that failed because their runner was killed
    cancelled: int = 0  # runs
    problems: list[str] = field(default_factory=list[str])


def normal_form(detail: dict[str, Any]) -> dict[str, Any]:
    """A run's record without what may differ between two undisturbed runs."""
    run = detail["run"]
    return {
        "status": run["status"],
        "failureReason": run["failureReason"],
        "workflow": run["workflowName"],
        "jobCount": run["jobCount"],
        "jobs": sorted(
            (
                {
                    "name": job["jobName"],
                    "status": job["status"],
                    "error": job["errorMessage"],
                    "outputs": job["outputs"],
                    "steps": [
                        {
                            "index": step["stepIndex"],
                            "name": step["stepName"],
                            "status": step["status"],
                            "exit": step["exitCode"],
                            "lines": step["logLines"] if step["stepIndex"] >= 0 else None,
                            "bytes": step["logBytes"] if step["stepIndex"] >= 0 else None,
                        }
                        for step in job["steps"]
                    ],
                }
                for job in detail["jobs"]
            ),
            key=lambda job: job["name"],
        ),
    }


def executions(marks: Path) -> dict[tuple[str, str, int], int]:
    """How often each (run, job, attempt) began."""
    counted: dict[tuple[str, str, int], int] = {}
    for line in marks.read_text().splitlines():
        match = re.fullmatch(r"(\S+) (.+) (\d+)", line)
        assert match, f"a torn mark: {line!r}"
        key = (match[1], match[2], int(match[3]))
        counted[key] = counted.get(key, 0) + 1
    return counted


class Judge:
    """Blocking; called in a thread. `baseline`: an undisturbed run's normal form."""

    def __init__(self, stack: Stack, baseline: dict[str, Any], marks: Path) -> None:
        self._stack = stack
        self._baseline = baseline
        self._marks = marks
        self.verdict = Verdict()

    def judge(self, deliveries: Deliveries, *, runner_kills: int) -> Verdict:
        """`deliveries` all have been answered; one more run, the undisturbed one, is there."""
        verdict = self.verdict
        wanted = len(deliveries.accepted) + 1

        def ended() -> bool:
            with contextlib.suppress(Exception):
                listing = self._stack.api("GET", "/runs", params={"pageSize": 1})
                unfinished = self._stack.api("GET", "/runs", params={"pageSize": 1, "status": _OPEN})
                return listing["total"] >= wanted and unfinished["total"] == 0
            return False

        try:
            eventually(ended, within_seconds=180, what="all runs ended")
        except AssertionError as error:
            verdict.problems.append(str(error))
        listed = self._runs()
        verdict.runs = len(listed)
        if len(listed) != wanted:
            verdict.problems.append(f"{wanted} accepted deliveries but {len(listed)} runs")
        seen = Counter(run["deliveryId"] for run in listed)
        for accepted in deliveries.accepted:
            if seen[accepted.delivery] != 1:
                verdict.problems.append(
                    f"delivery {accepted.delivery} by {accepted.route}: {seen[accepted.delivery]} runs"
                )
        counted = executions(self._marks)
        for run in listed:
            self._run(run, counted, deliveries.cancels.get(run["deliveryId"]))
        if verdict.runner_deaths > runner_kills:
            verdict.problems.append(
                f"{verdict.runner_deaths} jobs failed by the death of their runner; {runner_kills} were killed"
            )
        return verdict

    def _runs(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = []
        while True:
            page = len(listed) // 100 + 1
            answer = self._stack.api("GET", "/runs", params={"pageSize": 100, "page": page})
            listed += answer["runs"]
            if not answer["hasMore"]:
                return listed

    def _run(
        self, listed: dict[str, Any], counted: dict[tuple[str, str, int], int], cancel: str | None
    ) -> None:
        run_id = listed["runId"]
        detail = eventually(lambda: self._detail(run_id), what=f"the orchestrator's word on run {run_id}")
        problems = self._record(detail, cancel)
        for job in detail["jobs"]:
            problems += self._job(job, detail, counted)
        projected = listed["status"], listed["jobCount"], listed["failureReason"]
        truth = detail["run"]["status"], detail["run"]["jobCount"], detail["run"]["failureReason"]
        if projected != truth:
            problems.append(f"the list says {projected}, the orchestrator {truth}")
        if problems:
            told = [
                f"{event['eventType']} {event['jobId'] or ''} {event['metadata']}"
                for event in detail["events"]
            ]
            problems.append("its time line:\n      " + "\n      ".join(told))
        self.verdict.problems += [f"run {run_id}: {problem}" for problem in problems]

    def _detail(self, run_id: str) -> dict[str, Any]:
        with contextlib.suppress(AssertionError):
            detail = self._stack.detail(run_id)
            if detail["source"] == "orchestrator":
                return detail
        return {}

    def _record(self, detail: dict[str, Any], cancel: str | None) -> list[str]:
        form, run = normal_form(detail), detail["run"]
        statuses = {job["status"] for job in detail["jobs"]}
        if run["status"] == "cancelled" and cancel in {"asked", "unknown"}:
            self.verdict.cancelled += 1
            allowed = {"success", "cancelled", "skipped"}
            return [] if statuses <= allowed else [f"cancelled, but its jobs are {statuses}"]
        if cancel == "asked" and run["status"] != "failed":
            return [f"its cancel was accepted, but it ended as {run['status']}"]
        if form == self._baseline:
            return []
        died = [
            job
            for job in detail["jobs"]
            if job["status"] == "failed" and _RUNNER_DIED.search(job["errorMessage"] or "")
        ]
        self.verdict.runner_deaths += len(died)
        if died and run["status"] == "failed" and run["failureReason"] in {j["errorMessage"] for j in died}:
            others = {job["status"] for job in detail["jobs"] if job not in died}
            return [] if others <= {"success", "skipped", "cancelled"} else [f"its jobs are {statuses}"]
        return [f"record differs from an undisturbed run: {form}"]

    def _job(
        self, job: dict[str, Any], detail: dict[str, Any], counted: dict[tuple[str, str, int], int]
    ) -> list[str]:
        problems: list[str] = []
        run_id, name, final = detail["run"]["runId"], job["jobName"], job["attempt"]
        attempts = {a: n for (r, j, a), n in counted.items() if (r, j) == (run_id, name)}
        if any(count > 1 for count in attempts.values()):
            problems.append(f"{name}: executed twice under one attempt: {attempts}")
        if job["status"] == "success" and attempts.get(final) != 1:
            problems.append(f"{name}: final attempt {final} has no execution: {attempts}")
        if max(attempts, default=0) > final:
            problems.append(f"{name}: an attempt after the final one ({final}): {attempts}")
        told = {
            event["metadata"].get("attempt")
            for event in detail["events"]
            if event["jobId"] == job["jobId"] and event["eventType"] == "orchestrator.agent.assigned"
        }
        if told != set(range(1, final + 1)):
            problems.append(f"{name}: the time line shows attempts {told} of {final}")
        self.verdict.retried += len(attempts) > 1
        if job["status"] == "success":
            log, expected = self._stack.log(run_id, job["jobId"], 0), expected_log(name)
            if log != expected:
                problems.append(f"{name}: log differs, {len(log)} bytes for {len(expected)}")
        return problems


async def unsettled_rows(stack: Stack) -> list[str]:
    """What the databases still hold that should have come to an end."""
    state = stack.state()
    assert state is not None
    problems: list[str] = []
    checks = {
        "kici_orchestrator": {
            "unprocessed deliveries": "SELECT count(*) FROM inbox WHERE processed_at IS NULL",
            "dead-lettered deliveries": "SELECT count(*) FROM inbox WHERE dlq_at IS NOT NULL",
            "open jobs": "SELECT count(*) FROM execution_jobs WHERE completed_at IS NULL",
            "open runs": "SELECT count(*) FROM execution_runs WHERE completed_at IS NULL",
            "open steps of ended jobs": "SELECT count(*) FROM execution_steps WHERE completed_at IS NULL",
            "outbox rows": "SELECT count(*) FROM outbox",
        },
        "kici_platform": {
            "webhooks never replayed": "SELECT count(*) FROM webhook_inbox",
            "webhooks counted as waiting": "SELECT coalesce(sum(entries), 0) FROM webhook_inbox_usage",
        },
    }
    for database, statements in checks.items():
        connection = await asyncpg.connect(database_url(state["databaseUrl"], database))
        try:
            for what, statement in statements.items():
                give_up = time.monotonic() + 20
                while (left := await connection.fetchval(statement)) and time.monotonic() < give_up:
                    await connection.fetchval("SELECT pg_sleep(0.1)::text")
                if left:
                    problems.append(f"{left} {what}")
        finally:
            await connection.close()
    return problems
