"""What runs while things break, and what must be true afterwards."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.stack import Repository, Stack

# Two matrix children, a join that reads their outputs, a log that is longer than one block.
WORKFLOW = '''
import os

from kici import Context, job, push, step, workflow

MARKS = {marks!r}


def note(ctx: Context) -> None:
    """One line per execution of a job: appends are atomic."""
    line = f"{{ctx.run_info.run_id}} {{ctx.run_info.job}} {{ctx.run_info.attempt}}\\n"
    with open(MARKS, "a") as file:
        file.write(line)


@step
async def count(ctx: Context) -> dict[str, int]:
    note(ctx)
    size = int(ctx.matrix["size"])
    await ctx.sh('seq -f "line %.0f" 1 "$size"; sleep 0.2; echo done', size=size)
    return {{"size": size}}


counts = job("count", runs_on="kici:os:linux", matrix={{"size": [300, 5000]}}, steps=[count])


@job(runs_on="kici:os:linux", needs=[counts])
async def total(ctx: Context) -> None:
    note(ctx)
    print("joined")
    await ctx.sh("sleep 0.1; printf 'no newline at the end'")


faults = workflow("faults", on=push(branches="main"), jobs=[counts, total])
'''

JOBS = {"count (300)": 300, "count (5000)": 5000, "total": None}


def expected_log(job_name: str) -> bytes:
    size = JOBS[job_name]
    if size is None:
        return b"joined\nno newline at the end"
    return b"".join(b"line %d\n" % number for number in range(1, size + 1)) + b"done\n"


@dataclass
class Verdict:
    runs: int = 0
    retried: int = 0
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
    counted: dict[tuple[str, str, int], int] = {}
    for line in marks.read_text().splitlines():
        match = re.fullmatch(r"(\S+) (.+) (\d+)", line)
        assert match, f"a torn mark: {line!r}"
        key = (match[1], match[2], int(match[3]))
        counted[key] = counted.get(key, 0) + 1
    return counted


def check_run(
    stack: Stack, detail: dict[str, Any], baseline: dict[str, Any], counted: dict[tuple[str, str, int], int]
) -> tuple[int, list[str]]:
    """How many jobs were retried, and what is wrong with this run."""
    problems: list[str] = []
    run_id = detail["run"]["runId"]
    form = normal_form(detail)
    if form != baseline:
        problems.append(f"run {run_id}: record differs from an undisturbed run: {form}")
    retried = 0
    for job in detail["jobs"]:
        attempts = {a: n for (r, name, a), n in counted.items() if r == run_id and name == job["jobName"]}
        if any(count > 1 for count in attempts.values()):
            problems.append(f"run {run_id} {job['jobName']}: executed twice under one attempt: {attempts}")
        if attempts.get(job["attempt"]) != 1:
            problems.append(
                f"run {run_id} {job['jobName']}: final attempt {job['attempt']} has no execution: {attempts}"
            )
        if max(attempts, default=0) > job["attempt"]:
            problems.append(f"run {run_id} {job['jobName']}: an attempt after the final one: {attempts}")
        retried += len(attempts) > 1
        if job["status"] == "success":
            log = stack.log(run_id, job["jobId"], 0)
            if log != expected_log(job["jobName"]):
                problems.append(
                    f"run {run_id} {job['jobName']}: log differs, {len(log)} bytes for {len(expected_log(job['jobName']))}"
                )
    return retried, problems


@dataclass
class Deliveries:
    """Sends deliveries for one repository and remembers which were accepted."""

    stack: Stack
    repository: Repository
    accepted: list[str] = field(default_factory=list[str])
    sent: int = 0

    def send(self, *, give_up_seconds: float = 60.0) -> str:
        """One delivery; the same id again until it is accepted, as a forge re-sends."""
        self.sent += 1
        delivery = f"fault-{self.sent}-{time.time_ns()}"
        until = time.monotonic() + give_up_seconds
        while True:
            try:
                self.stack.admin(
                    "POST", f"/sources/{self.repository.name}/trigger", json={"deliveryId": delivery}
                )
            except Exception:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                self.accepted.append(delivery)
                return delivery
