"""`kici runs list|show|logs|watch|cancel|rerun`: runs as the Platform shows them, from a terminal."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kici.cli.client import Client, find_target
from kici.cli.errors import FAILED, USAGE, errors_as_exit_codes
from kici.cli.output import console, emit, fail, moment, table
from kici.cli.runs.words import ago, colour, duration, mark, utc_now

if TYPE_CHECKING:
    from kici.cli.local.history import Entry

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, show, follow, cancel and repeat runs."
)

DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
RunArgument = Annotated[str, typer.Argument(help="Run id, or `latest`.")]

_UNSUCCESSFUL = frozenset({"failed", "cancelled"})
_SHORTEST_ID = 8  # that `runs show` looks for in the history of local runs


async def _resolve(client: Client, run: str) -> str:
    if run != "latest":
        return run
    from kici.cli.runs.latest import latest

    found = await latest(client)
    if found is None:
        raise fail("there is no run yet", FAILED)
    return found


@app.command("list")
def list_runs(
    status: Annotated[
        list[str] | None, typer.Option(help="success, failed, running, …; repeatable.")
    ] = None,
    workflow: Annotated[list[str] | None, typer.Option(help="Workflow name; repeatable.")] = None,
    branch: Annotated[list[str] | None, typer.Option(help="Branch; repeatable.")] = None,
    repo: Annotated[list[str] | None, typer.Option(help="Repository; repeatable.")] = None,
    trigger: Annotated[list[str] | None, typer.Option(help="push, pull_request, …; repeatable.")] = None,
    source: Annotated[list[str] | None, typer.Option(help="Routing key of a source; repeatable.")] = None,
    since: Annotated[str | None, typer.Option(help="2h, 7d, or a date.")] = None,
    page: Annotated[int, typer.Option(min=1)] = 1,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest runs first, 20 a page.

    Example: kici runs list --status failed --branch main --since 7d
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            filters = {
                "status": status,
                "workflow": workflow,
                "branch": branch,
                "repository": repo,
                "triggerType": trigger,
                "source": source,
                "since": moment(since, utc_now()).isoformat() if since else None,
                "page": page,
            }
            return await client.get(
                await client.org("/runs"), **{name: value for name, value in filters.items() if value}
            )

    with errors_as_exit_codes():
        answer = asyncio.run(body())
        if as_json:
            emit(answer)
            return
        if not answer["runs"]:
            print("No runs.")
            return
        now = utc_now()
        table(
            ("status", "workflow", "branch", "commit", "took", "when", "run"),
            (
                (
                    f"[{colour(run['displayStatus'])}]{mark(run['displayStatus'])} {run['displayStatus']}[/]",
                    run["workflowName"],
                    run["branch"] or run["ref"],
                    run["sha"][:7],
                    duration(run["durationMs"]),
                    ago(run["createdAt"], now),
                    run["runId"],
                )
                for run in answer["runs"]
            ),
            squeezed=("workflow", "branch"),
        )
        first = (answer["page"] - 1) * answer["pageSize"] + 1
        more = "+" if answer["totalIsCapped"] else ""
        console().print(
            f"[dim]Showing {first}-{first + len(answer['runs']) - 1} of {answer['total']}{more} runs[/]"
        )


@app.command()
def show(run: RunArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """One run: why it started, its jobs and steps, and what failed. Exit 1 when the run failed.

    Runs of `kici run local` are found in this machine's history, by the beginning of their id.

    Example: kici runs show latest
    """
    from kici.cli.local.history import find

    local = find(run) if len(run) >= _SHORTEST_ID else None
    if local is not None:
        _show_local(local, as_json=as_json)
        return

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            return await client.detail(await _resolve(client, run))

    with errors_as_exit_codes():
        detail = asyncio.run(body())
        if as_json:
            emit(detail)
        else:
            from kici.cli.runs import tree

            now, screen = utc_now(), console()
            screen.print(tree.head(detail, now), soft_wrap=True)
            for row in tree.rows(detail, now, folded=False):
                screen.print(row, soft_wrap=True)
        if detail["run"]["status"] in _UNSUCCESSFUL:
            raise SystemExit(FAILED)


def _show_local(entry: "Entry", *, as_json: bool) -> None:
    """A run that no server knows, as its tree was when it ended."""
    if as_json:
        import msgspec

        emit(msgspec.to_builtins(entry))
    else:
        from kici.cli.local.screen import Screen

        print(
            f"Local run {entry.run_id} of {entry.root}: {entry.event} {entry.ref} {entry.sha[:7]}".rstrip()
        )
        sys.stdout.flush()
        Screen(sys.stdout.buffer, quiet=True, live=False).tree(entry.run)
    if entry.run.status in _UNSUCCESSFUL:
        raise SystemExit(FAILED)


@app.command()
def watch(run: RunArgument, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """The live tree of a run, wherever it runs, then the last lines of what failed.

    In a pipe: one line per change. With --json: the run when it has ended. Exit 1 unless it succeeded.

    Example: kici runs watch latest
    """

    async def body() -> dict[str, Any]:
        from kici.cli.runs.following import watch as follow

        async with Client(find_target(data_dir=data_dir)) as client:
            run_id = await _resolve(client, run)
            if not as_json:
                return await follow(client, run_id)
            await client.wait_for_run(run_id, patience_seconds=7 * 86_400)
            return await client.detail(run_id)

    with errors_as_exit_codes():
        detail = asyncio.run(body())
        if as_json:
            emit(detail)
        if detail["run"]["status"] in _UNSUCCESSFUL:
            raise SystemExit(FAILED)


@app.command()
def logs(
    run: RunArgument,
    job: Annotated[str | None, typer.Option(help="Job name; all jobs without it.")] = None,
    step: Annotated[str | None, typer.Option(help="Step name or index; -1 is the preparation.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Log lines under `=== job › step status ===`, setup and hook rows too. With --json: one object per step.

    With --follow: exit 1 unless the run succeeded.

    Example: kici runs logs latest -f
    """

    async def body() -> str:
        from kici.cli.runs.following import collect_logs, print_logs

        async with Client(find_target(data_dir=data_dir)) as client:
            run_id = await _resolve(client, run)
            if not as_json:
                return await print_logs(client, run_id, job, step, follow=follow)
            if follow:
                await client.wait_for_run(run_id, patience_seconds=7 * 86_400)
            status, documents = await collect_logs(client, run_id, job, step)
            emit(documents)
            return status

    with errors_as_exit_codes():
        status = asyncio.run(body())
        if follow and status in _UNSUCCESSFUL:
            raise SystemExit(FAILED)


@app.command()
def rerun(
    run: RunArgument,
    failed_only: Annotated[
        bool, typer.Option("--failed-only", help="Keep what succeeded; run the rest again.")
    ] = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a run again, on the same commit with the same event.

    Example: kici runs rerun latest --failed-only
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            run_id = await _resolve(client, run)
            mode = "failed" if failed_only else "all"
            return await client.post(await client.org(f"/runs/{run_id}/rerun"), {"mode": mode})

    with errors_as_exit_codes():
        answer = asyncio.run(body())
        if as_json:
            emit(answer)
        else:
            print(answer["newRunId"])


@app.command()
def cancel(
    run: Annotated[str | None, typer.Argument(help="Run id, or `latest`.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Kill now; no hooks, no clean-up.")] = False,
    branch: Annotated[
        str | None, typer.Option(help="Instead of one run: all that run on this branch.")
    ] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run: SIGTERM, grace, hooks. --force kills.

    Example: kici runs cancel latest
    """

    async def body() -> dict[str, Any]:
        async with Client(find_target(data_dir=data_dir)) as client:
            if branch is not None:
                return await client.post(await client.org("/runs/cancel-by-branch"), {"branch": branch})
            assert run is not None
            run_id = await _resolve(client, run)
            return {"runId": run_id, **await client.cancel(run_id, force=force)}

    with errors_as_exit_codes():
        if (run is None) == (branch is None):
            raise fail("name one run, or a branch with --branch", USAGE)
        answer = asyncio.run(body())
        if as_json:
            emit(answer)
        elif branch is not None:
            print(f"Cancelling {answer['cancelledRuns']} runs on {branch}")
        else:
            print(
                f"Cancelling {answer['runId']}: {answer['agentsNotified']} running,"
                f" {answer['pendingCancelled']} waiting jobs"
            )
