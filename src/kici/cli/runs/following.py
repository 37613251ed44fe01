"""`kici runs logs` and `kici runs watch`: a run's lines or its tree, until it ends."""

import asyncio
import sys
from datetime import datetime
from typing import Any

from kici.cli.client import TERMINAL, Client, Unreachable
from kici.cli.errors import USAGE
from kici.cli.runs.order import Row, in_order
from kici.cli.runs.patience import Patience
from kici.cli.runs.steplog import StepLog
from kici.cli.runs.words import duration, lost_attempt, mark, utc_now
from kici.spec.states import JOB_TERMINAL, StepStatus

EXCERPT_LINES = 20
POLL_S = 0.4
_WITHOUT_LOG = frozenset({StepStatus.PENDING, StepStatus.SKIPPED})

Key = tuple[str, int, int]  # job id, attempt, step index


class _Printer:
    """Text under `=== job › step status ===`, each part once. Of one that is interrupted in the middle of a line,
    the line feed that follows is not printed again."""

    def __init__(self) -> None:
        self._under: Key | None = None
        self._open = False
        self._interrupted: set[Key] = set()

    def write(self, key: "Key", title: str, text: str) -> None:
        if key in self._interrupted and text.startswith("\n"):
            text = text[1:]
            self._interrupted.discard(key)
        if text:
            self.under(key, title)
            sys.stdout.write(text)
            self._open = not text.endswith("\n")

    def under(self, key: "Key", title: str) -> None:
        if self._under == key:
            return
        self.close()
        print(f"=== {title} ===")
        self._under = key

    def close(self) -> None:
        if self._open:
            print()
            self._open = False
            if self._under is not None:
                self._interrupted.add(self._under)


async def print_logs(
    client: Client, run_id: str, job: str | None, step: str | None, *, follow: bool
) -> str:
    """Answers the run's status. Raises SystemExit for a name that does not exist; followed, Unreachable when
    the server stays away."""
    path = await client.org(f"/runs/{run_id}")
    logs: dict[Key, StepLog] = {}
    printer, patience, told = _Printer(), Patience(_say), set[str]()
    while True:
        try:
            detail = await client.detail(run_id)
            status = detail["run"]["status"]
            ended = status in TERMINAL
            if follow and detail["source"] == "projection" and not ended:
                raise Unreachable("the orchestrator is away")
            for j, s in _chosen(detail, job, step, wait=follow and not ended):
                if (lost := lost_attempt(detail, j)) is not None and lost not in told:
                    told.add(lost)
                    _say(lost)
                key = (j["jobId"], s["attempt"], s["stepIndex"])
                title = f"{j['displayName']} › {s['stepName']} {s['status']}"
                if not follow:
                    printer.under(key, title)
                if s["status"] in _WITHOUT_LOG:
                    continue
                log = logs.setdefault(key, StepLog(client, path, j["jobId"], s["stepIndex"]))
                await log.show(
                    s,
                    ended=j["status"] in JOB_TERMINAL,
                    write=lambda text, key=key, title=title: printer.write(key, title, text),
                )
            patience.found()
            if ended or not follow:
                printer.close()
                return status
        except Unreachable as error:
            if not follow:
                raise
            patience.lost(error)
        sys.stdout.flush()
        await asyncio.sleep(POLL_S)


async def collect_logs(
    client: Client, run_id: str, job: str | None, step: str | None
) -> tuple[str, list[dict[str, Any]]]:
    """The run's status, and what `print_logs` prints now, as documents."""
    detail = await client.detail(run_id)
    path = await client.org(f"/runs/{run_id}")
    documents: list[dict[str, Any]] = []
    for j, s in _chosen(detail, job, step, wait=False):
        parts: list[str] = []
        if s["status"] not in _WITHOUT_LOG:
            log = StepLog(client, path, j["jobId"], s["stepIndex"])
            await log.show(s, ended=j["status"] in JOB_TERMINAL, write=parts.append)
        lines = "".join(parts).split("\n")
        if not lines[-1]:
            lines.pop()
        documents.append({"jobName": j["jobName"], **s, "lines": lines})
    return detail["run"]["status"], documents


def _chosen(
    detail: dict[str, Any], job: str | None, step: str | None, *, wait: bool
) -> list[tuple[dict[str, Any], Row]]:
    """`wait`: a name that is not there yet may still come, with a job that is made while the run runs."""
    jobs = [
        j
        for j in detail["jobs"]
        if job is None or job in {j["jobName"], j["baseJobName"], j["displayName"], j["jobId"]}
    ]
    found = [
        (j, s)
        for j in jobs
        for s in in_order(j["steps"])
        if step is None or step in {s["stepName"], str(s["stepIndex"])}
    ]
    if job is not None and not jobs:
        may_come = wait and any(j["kind"] != "job" and j["status"] not in TERMINAL for j in detail["jobs"])
        if not may_come:
            raise _unknown(
                f"run {detail['run']['runId']} has no job {job!r}", [j["jobName"] for j in detail["jobs"]]
            )
    elif step is not None and not found and not wait:
        names = dict.fromkeys(s["stepName"] for j in jobs for s in in_order(j["steps"]))
        raise _unknown(f"no step {step!r}", list(names))
    return found


def _unknown(what: str, known: list[str]) -> SystemExit:
    print(f"error: {what}; there are: {', '.join(known) or 'none'}", file=sys.stderr)
    return SystemExit(USAGE)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def watch(client: Client, run_id: str) -> dict[str, Any]:
    """Draw the run until it ends; answers its last state. In a pipe: one line per change."""
    from rich.console import Console, Group
    from rich.live import Live

    from kici.cli.runs import tree

    console = Console(highlight=False)
    if not console.is_terminal:
        return await _watch_plainly(client, run_id)

    def picture(detail: dict[str, Any], frame: int, now: datetime) -> Group:
        rows = list(tree.rows(detail, now, folded=True, frame=frame))
        room = max(console.height - 6, 5)
        hidden = len(rows) - room
        if frame and hidden > 0:  # a live picture never scrolls: the newest rows stay
            rows = rows[-room:]
        return Group(tree.head(detail, now), *rows)

    detail = await client.detail(run_id)
    frame = 1
    with Live(console=console, refresh_per_second=12, transient=True) as live:
        while detail["run"]["status"] not in TERMINAL:
            for _ in range(5):
                live.update(picture(detail, frame, utc_now()))
                frame += 1
                await asyncio.sleep(POLL_S / 5)
            detail = await client.detail(run_id)
    console.print(picture(detail, 0, utc_now()))
    await _print_excerpts(client, console, detail)
    return detail


async def _watch_plainly(client: Client, run_id: str) -> dict[str, Any]:
    """`job › step status duration`, one line whenever something changed."""
    known: dict[tuple[str, int, int], str] = {}
    while True:
        detail = await client.detail(run_id)
        for job in detail["jobs"]:
            for step in [*job["steps"], None]:
                key = (job["jobId"], job["attempt"], step["stepIndex"] if step else -1_000)
                row = step or job
                if known.get(key) == row["status"] or row["status"] == "pending":
                    continue
                known[key] = row["status"]
                name = f"{job['displayName']} › {step['stepName']}" if step else job["displayName"]
                took = "" if row["durationMs"] is None else f" {duration(row['durationMs'])}"
                why = f": {row['errorMessage']}" if row["errorMessage"] else ""
                print(f"{mark(row['status'])} {name} {row['status']}{took}{why}", flush=True)
        if detail["run"]["status"] in TERMINAL:
            run = detail["run"]
            print(
                f"{mark(run['status'])} {run['workflowName']} {run['status']} {duration(run['durationMs'])}"
            )
            return detail
        await asyncio.sleep(POLL_S)


async def _print_excerpts(client: Client, console: Any, detail: dict[str, Any]) -> None:
    """The last lines of what failed: the reason is nearly always there."""
    from rich.markup import escape

    from kici.cli.runs.tree import failing_steps

    run_id = detail["run"]["runId"]
    for job, step in failing_steps(detail)[:3]:
        page = await client.log_page(run_id, job["jobId"], step["stepIndex"], tail=EXCERPT_LINES)
        title = f"{job['displayName']} › {step['stepName']}"
        console.print(f"\n[red]── {escape(title)} ──[/] [dim]last {len(page['lines'])} lines[/]")
        for line in page["lines"]:
            console.file.write(line + "\n")
    if detail["run"]["status"] != "success":
        console.print(f"\n[dim]All of it: kici runs logs {run_id}[/]")
