"""`kici-admin runs …` and `kici-admin queue list`."""

from typing import Annotated, Any

import typer

from kici.cli.admin.api import DataDirOption, JsonOption, call, emit, errors_as_exit_codes, table

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Runs as the orchestrator knows them.")
queue = typer.Typer(add_completion=False, no_args_is_help=True, help="Jobs that wait.")

Run = Annotated[str, typer.Argument(help="Run id.", metavar="RUN")]


@app.command("list")
def list_runs(
    status: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Workflow name.")] = None,
    repo: Annotated[str | None, typer.Option(help="Repository.")] = None,
    branch: Annotated[str | None, typer.Option(help="Branch.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100)] = 20,
    page: Annotated[int, typer.Option(min=1)] = 1,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest first.

    Example: kici-admin runs list --status failed
    """
    with errors_as_exit_codes():
        answer = call(
            data_dir,
            "GET",
            "/runs",
            status=status,
            workflow=workflow,
            repository=repo,
            branch=branch,
            pageSize=limit,
            page=page,
        )
        if as_json:
            emit(answer)
            return
        rows = [
            [
                r["displayStatus"],
                r["workflowName"],
                r["repoIdentifier"],
                r["branch"] or r["ref"],
                r["sha"][:7],
                r["runId"],
                r["failureReason"],
            ]
            for r in answer["runs"]
        ]
        table(
            ["status", "workflow", "repository", "branch", "commit", "run", "failure"],
            rows,
            empty="No runs.",
        )


@app.command()
def show(run: Run, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """A run with its jobs and steps.

    Example: kici-admin runs show RUN
    """
    with errors_as_exit_codes():
        detail = call(data_dir, "GET", f"/runs/{run}")
        if as_json:
            emit(detail)
            return
        header = detail["run"]
        print(
            f"{header['displayStatus']}  {header['workflowName']}  {header['repoIdentifier']} {header['ref']} {header['sha'][:7]}"
        )
        print(f"why      {header['triggerReason']}")
        print(f"request  {header['requestId']}")
        if header["failureReason"]:
            print(f"failure  {header['failureReason']}")
        rows: list[list[Any]] = []
        for job in detail["jobs"]:
            rows.append(
                [
                    job["displayName"],
                    job["status"],
                    job["attempt"],
                    job["agentId"],
                    job["errorMessage"] or job["waitingReason"],
                ]
            )
            rows += [
                [
                    f"  {step['stepIndex']} {step['stepName']}",
                    step["status"],
                    None,
                    None,
                    step["errorMessage"],
                ]
                for step in job["steps"]
            ]
        table(["job", "status", "attempt", "agent", "message"], rows, empty="No jobs.")


@app.command()
def cancel(
    run: Run,
    force: Annotated[bool, typer.Option("--force", help="Kill now; no hooks.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Stop a run.

    Example: kici-admin runs cancel RUN
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "POST", f"/runs/{run}/cancel", body={"force": force})
        print(
            f"{answer['agentsNotified']} running jobs are told, {answer['pendingCancelled']} waiting ones are cancelled"
        )


@queue.command("list")
def list_queue(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Waiting jobs in the order in which they go, and why they wait.

    Example: kici-admin queue list
    """
    with errors_as_exit_codes():
        jobs = call(data_dir, "GET", "/queue")
        if as_json:
            emit(jobs)
            return
        waiting = [
            [j["jobName"], ", ".join(j["runsOnLabels"]), j["queuedAt"], j["waitingReason"], j["runId"]]
            for j in jobs
        ]
        table(["job", "labels", "since", "waits for", "run"], waiting, empty="The queue is empty.")
