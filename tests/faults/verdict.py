"""What must be true when everything is quiet again."""

import asyncio
import contextlib
import itertools
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.faults.deliveries import Deliveries
from tests.faults.invariants import pending
from tests.faults.plan import Sending
from tests.faults.workload import FOLLOWERS, MAY_WARN, expected_log
from tests.support.stack import Stack, eventually

# How the death of the process that executes a job is told.
_RUNNER_DIED = re.compile(r"the runner was killed by signal 9|the process that started the runner died")
_CLEARLY_SECONDS = 1.0  # two that came within it have no order
_OPEN = ["pending", "queued", "running", "cancelling", "held"]


@dataclass
class Verdict:
    runs: int = 0
    retried: int = 0  # jobs
    runner_deaths: int = 0  # jobs that failed because their runner was killed
    cancelled: int = 0  # runs
    superseded: int = 0  # runs that a newer one of their concurrency group ended
    followers: int = 0  # runs that events of jobs started
    turns: int = 0  # that were taken in concurrency groups
    undisturbed: int = 0
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
                    "kind": job["kind"],
                    "error": job["errorMessage"],
                    "rules": [(rule["label"], rule["passed"]) for rule in job["rules"]],
                    "secrets": sorted(job["secretOutputKeys"]),
                    "outputs": job["outputs"],
                    "steps": [
                        {
                            "index": step["stepIndex"],
                            "name": step["stepName"],
                            "status": step["status"],
                            "exit": step["exitCode"],
                            "check": step["checkOutcome"],
                            "lines": step["logLines"] if _told_by_author(step) else None,
                            "bytes": step["logBytes"] if _told_by_author(step) else None,
                        }
                        for step in job["steps"]
                        if not step["stepType"].startswith("cache:") or step["status"] != "success"
                    ],
                }
                for job in detail["jobs"]
            ),
            key=lambda job: job["name"],
        ),
    }


def _told_by_author(step: dict[str, Any]) -> bool:
    return step["stepIndex"] >= 0 and step["stepType"] == "step" and step["stepName"] not in MAY_WARN


def executions(marks: Path) -> dict[tuple[str, str, int], int]:
    """How often each (run, job, attempt) began."""
    counted: dict[tuple[str, str, int], int] = {}
    for line in marks.read_text().splitlines():
        match = re.fullmatch(r"(\S+) (.+) (\d+)", line)
        assert match, f"a torn mark: {line!r}"
        key = (match[1], match[2], int(match[3]))
        counted[key] = counted.get(key, 0) + 1
    return counted


@dataclass(frozen=True)
class Baselines:
    """How each workflow goes when nothing breaks, by workflow and check mode, and the logs of its jobs."""

    forms: dict[tuple[str, str], dict[str, Any]]
    logs: dict[tuple[str, str, str], bytes]
    runs: frozenset[str]

    @classmethod
    def taken(cls, stack: Stack, deliveries: Deliveries, first: dict[str, Any]) -> "Baselines":
        """`first`: the one of `faults`, which has ended. Blocking."""
        wanted = {"faults": first["run"]["runId"]}
        sends = [Sending("direct", scenario) for scenario in ("shapes", "dressed", "groups")]
        sends += [Sending("remote", mode) for mode in ("apply", "check")]
        for sending in sends:
            accepted = deliveries.send(sending)
            if accepted.run_id:
                wanted[f"far {sending.scenario}"] = accepted.run_id
            else:
                for workflow in accepted.workflows:
                    wanted[workflow] = stack.find_run(workflow=workflow)["runId"]
        for run_id in wanted.values():
            detail = stack.wait_for_end(run_id)
            assert detail["run"]["status"] == "success", detail
        wanted |= {name: stack.find_run(workflow=name)["runId"] for name in FOLLOWERS}
        forms: dict[tuple[str, str], dict[str, Any]] = {}
        logs: dict[tuple[str, str, str], bytes] = {}
        for run_id in wanted.values():
            detail = stack.wait_for_end(run_id)
            assert detail["run"]["status"] == "success", detail
            key = detail["run"]["workflowName"], detail["run"]["checkMode"]
            forms[key] = normal_form(detail)
            for job in detail["jobs"]:
                if _has_log(job):
                    logs[*key, job["jobName"]] = stack.log(run_id, job["jobId"], 0)
        for name in ("count (300)", "count (5000)", "total"):
            assert logs["faults", "apply", name] == expected_log(name)
        return cls(forms, logs, frozenset(wanted.values()))


def _has_log(job: dict[str, Any]) -> bool:
    """Of its first step."""
    return job["status"] == "success" and any(
        step["stepIndex"] == 0 and _told_by_author(step) and step["logBytes"] for step in job["steps"]
    )


class Judge:
    """Blocking; called in a thread."""

    def __init__(self, stack: Stack, baselines: Baselines, marks: Path) -> None:
        self._stack = stack
        self._baselines = baselines
        self._marks = marks
        self.verdict = Verdict()

    def judge(self, deliveries: Deliveries, *, runner_kills: int) -> Verdict:
        """`deliveries` all have been answered."""
        verdict = self.verdict
        wanted = Counter(
            (accepted.delivery, workflow)
            for accepted in deliveries.accepted
            for workflow in accepted.workflows
        )
        by_hand = {accepted.run_id for accepted in deliveries.accepted if accepted.run_id}

        def ended() -> bool:
            with contextlib.suppress(Exception):
                listing = self._stack.api("GET", "/runs", params={"pageSize": 1})
                unfinished = self._stack.api("GET", "/runs", params={"pageSize": 1, "status": _OPEN})
                return (
                    listing["total"] > wanted.total() + len(by_hand)
                    and unfinished["total"] == 0
                    and asyncio.run(pending(self._stack)) == 0
                )
            return False

        try:
            eventually(ended, within_seconds=180, what="all runs ended")
        except AssertionError as error:
            verdict.problems.append(str(error))
        listed = self._runs()
        verdict.runs = len(listed)
        verdict.undisturbed = len(self._baselines.runs)
        self._each_once(listed, wanted, by_hand, deliveries.doubtful)
        counted = executions(self._marks)
        details: dict[str, dict[str, Any]] = {}
        for run in listed:
            details[run["runId"]] = self._run(run, counted, deliveries.cancels.get(run["runId"]))
        if verdict.runner_deaths > runner_kills:
            verdict.problems.append(
                f"{verdict.runner_deaths} jobs failed by the death of their runner; {runner_kills} were killed"
            )
        self._turns(details)
        return verdict

    def _each_once(
        self,
        listed: list[dict[str, Any]],
        wanted: Counter[tuple[str, str]],
        by_hand: set[str],
        doubtful: int,
    ) -> None:
        """Every start has its run; the others follow from runs, or from answers that were lost."""
        problems = self.verdict.problems
        seen = Counter((run["deliveryId"], run["workflowName"]) for run in listed)
        problems += [
            f"delivery {delivery}: {seen[delivery, workflow]} runs of {workflow}"
            for delivery, workflow in wanted
            if seen[delivery, workflow] != 1
        ]
        known = {run["runId"] for run in listed}
        problems += [f"run {run_id} was started by hand and is not there" for run_id in by_hand - known]
        self.verdict.followers = sum(run["workflowName"] in FOLLOWERS for run in listed)
        unexplained = [
            run
            for run in listed
            if run["workflowName"] not in FOLLOWERS
            and run["runId"] not in by_hand | self._baselines.runs
            and wanted[run["deliveryId"], run["workflowName"]] == 0
        ]
        if len(unexplained) > doubtful:
            problems.append(
                f"{doubtful} answers to starts by hand were lost, but {len(unexplained)} runs are nobody's: "
                + ", ".join(f"{run['workflowName']} {run['runId']}" for run in unexplained)
            )

    def _turns(self, details: dict[str, dict[str, Any]]) -> None:
        """Holders of a group follow each other, in the order in which they came."""
        taken: dict[str, dict[tuple[str, str, int], dict[str, int]]] = defaultdict(
            lambda: defaultdict(dict)
        )
        for line in Path(f"{self._marks}.turns").read_text().splitlines():
            group, what, run_id, attempt, at_ns, job = line.split(" ", 5)
            taken[group][run_id, job, int(attempt)][what] = int(at_ns)
        for group, holders in taken.items():
            spans: list[tuple[int, int, str]] = []
            for (run_id, name, attempt), marks in holders.items():
                job = next(job for job in details[run_id]["jobs"] if job["jobName"] == name)
                if attempt == job["attempt"] and "begins" in marks:
                    spans.append((marks["begins"], marks.get("ends", marks["begins"]), run_id))
            spans.sort()
            self.verdict.turns += len(spans)
            for (begun, ended, one), (next_begun, _, other) in itertools.pairwise(spans):
                if next_begun < ended:
                    self.verdict.problems.append(
                        f"group {group}: {other} began {(ended - next_begun) / 1e6:.0f} ms before {one} ended"
                        f" (which began {(next_begun - begun) / 1e6:.0f} ms before it)"
                    )
            if group == "queue":
                self._in_order([run_id for _, _, run_id in spans], details)

    def _in_order(self, runs: list[str], details: dict[str, dict[str, Any]]) -> None:
        """A run that came clearly later does not go first."""
        latest = None
        for run_id in runs:
            came = datetime.fromisoformat(details[run_id]["run"]["createdAt"])
            if latest is not None and (latest[0] - came).total_seconds() > _CLEARLY_SECONDS:
                self.verdict.problems.append(f"run {latest[1]} came after {run_id} and went first")
            if latest is None or came > latest[0]:
                latest = came, run_id

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
    ) -> dict[str, Any]:
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
        name = listed["workflowName"]
        self.verdict.problems += [f"run {run_id} of {name}: {problem}" for problem in problems]
        return detail

    def _detail(self, run_id: str) -> dict[str, Any]:
        with contextlib.suppress(AssertionError):
            detail = self._stack.detail(run_id)
            if detail["source"] == "orchestrator":
                return detail
        return {}

    def _record(self, detail: dict[str, Any], cancel: str | None) -> list[str]:
        form, run = normal_form(detail), detail["run"]
        statuses = {job["status"] for job in detail["jobs"]}
        superseded = run["workflowName"] == "newest" and "uperseded" in str(detail["events"])
        if run["status"] == "cancelled" and (cancel in {"asked", "unknown"} or superseded):
            self.verdict.superseded += superseded
            self.verdict.cancelled += not superseded
            allowed = {"success", "cancelled", "skipped"}
            return [] if statuses <= allowed else [f"cancelled, but its jobs are {statuses}"]
        if cancel == "asked" and run["status"] != "failed":
            return [f"its cancel was accepted, but it ended as {run['status']}"]
        baseline = self._baselines.forms[run["workflowName"], run["checkMode"]]
        if form == baseline:
            return []
        died = [
            job
            for job in detail["jobs"]
            if job["status"] == "failed" and _RUNNER_DIED.search(job["errorMessage"] or "")
        ]
        # A row that prepares others takes them along: one death.
        self.verdict.runner_deaths += sum(job["attempt"] > 0 for job in died)
        if died and run["status"] == "failed" and run["failureReason"] in {j["errorMessage"] for j in died}:
            others = {job["status"] for job in detail["jobs"] if job not in died}
            return [] if others <= {"success", "skipped", "cancelled"} else [f"its jobs are {statuses}"]
        return [f"record differs from an undisturbed run: {difference(form, baseline)}"]

    def _job(
        self, job: dict[str, Any], detail: dict[str, Any], counted: dict[tuple[str, str, int], int]
    ) -> list[str]:
        problems: list[str] = []
        run, name, final = detail["run"], job["jobName"], job["attempt"]
        run_id = run["runId"]
        for mark in ("", "~cleanup"):
            attempts = {a: n for (r, j, a), n in counted.items() if (r, j) == (run_id, name + mark)}
            noted = job["kind"] in {"job", "hooks"} and not (mark and name not in {"mint", "spend"})
            if any(count > 1 for count in attempts.values()):
                problems.append(f"{name}{mark}: executed twice under one attempt: {attempts}")
            if noted and job["status"] == "success" and attempts.get(final) != 1:
                problems.append(f"{name}{mark}: final attempt {final} has no execution: {attempts}")
            if max(attempts, default=0) > final:
                problems.append(f"{name}{mark}: an attempt after the final one ({final}): {attempts}")
            self.verdict.retried += len(attempts) > 1 and not mark
        told = {
            event["metadata"].get("attempt")
            for event in detail["events"]
            if event["jobId"] == job["jobId"] and event["eventType"] == "orchestrator.agent.assigned"
        }
        if told != set(range(1, final + 1)):
            problems.append(f"{name}: the time line shows attempts {told} of {final}")
        expected = self._baselines.logs.get((run["workflowName"], run["checkMode"], name))
        if expected is not None and job["status"] == "success":
            log = self._stack.log(run_id, job["jobId"], 0)
            if log != expected:
                problems.append(f"{name}: log differs, {len(log)} bytes for {len(expected)}")
        return problems


def difference(form: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """What is not the same, jobs by their name."""
    jobs = {job["name"]: job for job in form["jobs"]}
    wanted = {job["name"]: job for job in baseline["jobs"]}
    found = {name: form[name] for name in form if name != "jobs" and form[name] != baseline[name]}
    return found | {
        name: jobs.get(name) or "missing"
        for name in sorted(jobs.keys() | wanted.keys())
        if jobs.get(name) != wanted.get(name)
    }
