"""`kici runs logs` and `kici runs watch`: a run's lines or its tree, until it ends."""

import asyncio
import sys
from datetime import datetime
from typing import Any

from kici.cli.client import TERMINAL, Client
from kici.cli.errors import FAILED, USAGE
from kici.cli.runs.words import duration, mark, utc_now

EXCERPT_LINES = 20
POLL_S = 0.4


async def print_logs(
    client: Client, run_id: str, job: str | None, step: str | None, *, follow: bool
) -> list[dict[str, Any]]:
    """Under `=== job › step status ===`; answers the steps with their lines. Raises SystemExit for a name
    that does not exist, and for a followed run that does not succeed."""
    printed: dict[tuple[str, int, int], int] = {}  # (job, attempt, step) → lines shown
    documents: dict[tuple[str, int, int], dict[str, Any]] = {}
    heading: tuple[str, int, int] | None = None
    while True:
        detail = await client.detail(run_id)
        ended = detail["run"]["status"] in TERMINAL
        for j, s in _chosen(detail, job, step):
            key = (j["jobId"], s["attempt"], s["stepIndex"])
            offset = printed.get(key, 0)
            done = s["status"] in TERMINAL
            if follow and done and key in printed and offset >= (s["logLines"] or 0):
                continue
            # A line still being written is left for the next round.
            lines = await new_lines(client, run_id, j["jobId"], s["stepIndex"], offset, whole=done)
            printed[key] = offset + len(lines)
            document = documents.setdefault(key, {"jobName": j["jobName"], **s, "lines": []})
            document.update(s)
            document["lines"] += lines
            if heading != key and (lines or not follow):
                print(f"=== {j['displayName']} › {s['stepName']} {s['status']} ===")
                heading = key
            for line in lines:
                print(line)
        if ended or not follow:
            break
        sys.stdout.flush()
        await asyncio.sleep(POLL_S)
    if follow and detail["run"]["status"] != "success":
        raise SystemExit(FAILED)
    return list(documents.values())


async def collect_logs(
    client: Client, run_id: str, job: str | None, step: str | None
) -> list[dict[str, Any]]:
    """What `print_logs` prints now, as documents."""
    detail = await client.detail(run_id)
    documents: list[dict[str, Any]] = []
    for j, s in _chosen(detail, job, step):
        lines = await new_lines(client, run_id, j["jobId"], s["stepIndex"], 0, whole=True)
        documents.append({"jobName": j["jobName"], **s, "lines": lines})
    return documents


def _chosen(
    detail: dict[str, Any], job: str | None, step: str | None
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    jobs = [j for j in detail["jobs"] if job is None or job in {j["jobName"], j["baseJobName"], j["jobId"]}]
    if job is not None and not jobs:
        names = ", ".join(j["jobName"] for j in detail["jobs"])
        print(f"error: run {detail['run']['runId']} has no job {job!r}; it has {names}", file=sys.stderr)
        raise SystemExit(USAGE)
    return [
        (j, s)
        for j in jobs
        for s in j["steps"]
        if step is None or step in {s["stepName"], str(s["stepIndex"])}
    ]


async def new_lines(
    client: Client, run_id: str, job_id: str, step_index: int, offset: int, *, whole: bool
) -> list[str]:
    lines: list[str] = []
    while True:
        page = await client.log_page(run_id, job_id, step_index, offset=offset + len(lines), limit=20_000)
        fresh = page["lines"]
        if not whole and not page["complete"] and fresh:
            fresh = fresh[:-1]
        lines += fresh
        if not fresh or offset + len(lines) >= page["totalLines"]:
            return lines


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
