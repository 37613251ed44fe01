"""`kici runs list|show|logs|cancel`: runs as the Platform shows them, from a terminal."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from kici.cli.client import TERMINAL, Client, find_target
from kici.cli.errors import FAILED, USAGE, errors_as_exit_codes

app = typer.Typer(add_completion=False, no_args_is_help=True, help="List, show, follow and cancel runs.")

DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[str, typer.Argument(help="Run id, or `latest`.")]

_COLOURS = {
    "success": "green",
    "failed": "red",
    "error": "red",
    "timed_out": "red",
    "running": "yellow",
    "cancelling": "yellow",
    "queued": "bright_yellow",
    "pending": "bright_yellow",
}
_WIDTHS = {"status": 9, "commit": 7, "took": 5, "when": 7, "run": 36}
_MARKS = {
    "success": "✓",
    "failed": "✗",
    "error": "✗",
    "timed_out": "✗",
    "timed_out_stale": "✗",
    "skipped": "–",
}


def _emit(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def duration(ms: int | None) -> str:
    if ms is None:
        return "–"
    if ms < 10_000:
        return f"{ms / 1000:.1f}s"
    seconds = ms // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def ago(moment: str | None, now: datetime) -> str:
    if moment is None:
        return "–"
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


async def _resolve(client: Client, run: str) -> str:
    if run != "latest":
        return run
    runs = await client.runs(pageSize=1)
    if not runs:
        print("error: there is no run yet", file=sys.stderr)
        raise SystemExit(FAILED)
    return runs[0]["runId"]


@app.command("list")
def list_runs(
    status: Annotated[
        list[str] | None, typer.Option(help="success, failed, running, …; repeatable.")
    ] = None,
    workflow: Annotated[list[str] | None, typer.Option(help="Workflow name; repeatable.")] = None,
    branch: Annotated[list[str] | None, typer.Option(help="Branch; repeatable.")] = None,
    repo: Annotated[list[str] | None, typer.Option(help="Repository; repeatable.")] = None,
    page: Annotated[int, typer.Option(min=1)] = 1,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest runs first, 20 a page.

    Example: kici runs list --status failed --branch main
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            filters = {
                "status": status,
                "workflow": workflow,
                "branch": branch,
                "repository": repo,
                "page": page,
            }
            return await client.get(
                await client.org("/runs"), **{name: value for name, value in filters.items() if value}
            )

    with errors_as_exit_codes():
        answer = asyncio.run(body())
        if as_json:
            _emit(answer)
            return
        from rich.console import Console
        from rich.table import Table

        console = Console()
        if not console.is_terminal:
            console = Console(width=400)  # piped: one whole row a line, whatever is squeezed on a screen
        if not answer["runs"]:
            console.print("No runs.")
            return
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("status", "workflow", "branch", "commit", "took", "when", "run"):
            squeezed = column in {"workflow", "branch"}
            table.add_column(column, no_wrap=True, min_width=None if squeezed else _WIDTHS.get(column))
        now = datetime.fromtimestamp(_now(), UTC)
        for run in answer["runs"]:
            word = run["displayStatus"]
            table.add_row(
                f"[{_COLOURS.get(word, 'default')}]{_MARKS.get(word, '●')} {word}[/]",
                run["workflowName"],
                run["branch"] or run["ref"],
                run["sha"][:7],
                duration(run["durationMs"]),
                ago(run["createdAt"], now),
                run["runId"],
            )
        console.print(table)
        first = (answer["page"] - 1) * answer["pageSize"] + 1
        more = "+" if answer["totalIsCapped"] else ""
        console.print(
            f"[dim]Showing {first}-{first + len(answer['runs']) - 1} of {answer['total']}{more} runs[/]"
        )


def _now() -> float:
    import time

    return time.time()


@app.command()
def show(run: RunArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """One run: why it started, its jobs and steps, and what failed. Exit 1 when the run failed.

    Example: kici runs show latest
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            return await client.detail(await _resolve(client, run))

    with errors_as_exit_codes():
        detail = asyncio.run(body())
        if as_json:
            _emit(detail)
        else:
            _print_detail(detail)
        if detail["run"]["status"] in {"failed", "cancelled"}:
            raise SystemExit(FAILED)


def _print_detail(detail: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    run = detail["run"]
    word = run["displayStatus"]
    console.print(
        f"[{_COLOURS.get(word, 'default')} bold]{word}[/] [bold]{run['workflowName']}[/] · "
        f"{run['repoIdentifier']} · {run['branch'] or run['ref']} @ {run['sha'][:7]} · {duration(run['durationMs'])}",
        soft_wrap=True,
    )
    console.print(f"[dim]{run['runId']} · {run['triggerReason']}[/]", soft_wrap=True)
    if detail["source"] == "projection":
        console.print("[yellow]The orchestrator is away: this is the Platform's copy.[/]")
    if run["failureReason"]:
        console.print(f"[red]{run['failureReason']}[/]", soft_wrap=True)
    for job in detail["jobs"]:
        _print_row(console, "", job["displayName"], job["status"], job["durationMs"])
        if job["waitingReason"]:
            console.print(f"    [dim]{job['waitingReason']}[/]", soft_wrap=True)
        for step in job["steps"]:
            code = f" exit {step['exitCode']}" if step["exitCode"] else ""
            _print_row(console, "    ", step["stepName"], step["status"], step["durationMs"], code)
        if job["errorMessage"]:
            console.print(f"    [red]{job['errorMessage']}[/]", soft_wrap=True)


def _print_row(console: Any, indent: str, name: str, status: str, ms: int | None, suffix: str = "") -> None:
    colour = _COLOURS.get(status, "default")
    console.print(f"{indent}[{colour}]{_MARKS.get(status, '●')}[/] {name} [dim]{duration(ms)}{suffix}[/]")


@app.command()
def logs(
    run: RunArgument,
    job: Annotated[str | None, typer.Option(help="Job name; all jobs without it.")] = None,
    step: Annotated[int | None, typer.Option(help="Step index; -1 is the preparation.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Log lines under `=== job › step status ===`. With --json: one object per step.

    Example: kici runs logs latest -f
    """
    with errors_as_exit_codes():
        asyncio.run(_logs(run, job, step, follow=follow, data_dir=data_dir, as_json=as_json))


async def _logs(
    run: str, job: str | None, step: int | None, *, follow: bool, data_dir: str | None, as_json: bool
) -> None:
    documents: list[dict[str, Any]] = []
    async with Client(find_target(data_dir=data_dir)) as client:
        run_id = await _resolve(client, run)
        printed: dict[tuple[str, int, int], int] = {}  # (job, attempt, step) → lines shown
        heading: tuple[str, int, int] | None = None
        while True:
            detail = await client.detail(run_id)
            ended = detail["run"]["status"] in TERMINAL
            chosen = [j for j in detail["jobs"] if job is None or job in {j["jobName"], j["jobId"]}]
            if job is not None and not chosen:
                names = ", ".join(j["jobName"] for j in detail["jobs"])
                print(f"error: run {run_id} has no job {job!r}; it has {names}", file=sys.stderr)
                raise SystemExit(USAGE)
            for j in chosen:
                for s in j["steps"]:
                    if step is not None and s["stepIndex"] != step:
                        continue
                    key = (j["jobId"], s["attempt"], s["stepIndex"])
                    offset = printed.get(key, 0)
                    # A line still being written is left for the next round.
                    done = s["status"] in TERMINAL
                    if follow and done and offset and offset >= (s["logLines"] or 0):
                        continue
                    lines = await _new_lines(client, run_id, j["jobId"], s["stepIndex"], offset, whole=done)
                    printed[key] = offset + len(lines)
                    if as_json:
                        documents.append({"jobName": j["jobName"], **s, "lines": lines})
                        continue
                    if heading != key and (lines or not follow):
                        print(f"=== {j['jobName']} › {s['stepName']} {s['status']} ===")
                        heading = key
                    for line in lines:
                        print(line)
            if ended or not follow:
                break
            sys.stdout.flush()
            await asyncio.sleep(0.5)
    if as_json:
        _emit(documents)
    if follow and detail["run"]["status"] != "success":
        raise SystemExit(FAILED)


async def _new_lines(
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


@app.command()
def cancel(
    run: RunArgument,
    force: Annotated[bool, typer.Option("--force", help="Kill now; no hooks, no clean-up.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run: SIGTERM, grace, hooks. A second cancel, or --force, kills.

    Example: kici runs cancel latest
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            run_id = await _resolve(client, run)
            return {"runId": run_id, **await client.cancel(run_id, force=force)}

    with errors_as_exit_codes():
        answer = asyncio.run(body())
        if as_json:
            _emit(answer)
        else:
            print(
                f"Cancelling {answer['runId']}: {answer['agentsNotified']} running,"
                f" {answer['pendingCancelled']} waiting jobs"
            )
