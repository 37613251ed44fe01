"""`kici approve`, `kici reject`: what waits for people (AU-138)."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from kici.cli.capabilities import collection
from kici.cli.client import Client, find_target
from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.cli.output import emit, fail

app = typer.Typer(add_completion=False, no_args_is_help=True)

RunArgument = Annotated[str, typer.Argument(help="Run id.")]
JobOption = Annotated[str | None, typer.Option(help="Only the hold of this job.")]
StepOption = Annotated[str | None, typer.Option(help="Only the hold of this step: name or index.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")]


@app.command()
def approve(
    run: RunArgument,
    job: JobOption = None,
    step: StepOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Agree to what a run waits for. Without --job and --step: its only pending hold.

    Example: kici approve 0192f0c1-7c7e-7cc3-98a5-b2a1f6d0e001 --job deploy
    """
    with errors_as_exit_codes():
        asyncio.run(_decide(run, job, step, "approve", {}, data_dir=data_dir, as_json=as_json))


@app.command()
def reject(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why; it stands in the run's failure reason.")],
    job: JobOption = None,
    step: StepOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse what a run waits for: the run fails, and says why.

    Example: kici reject 0192f0c1-7c7e-7cc3-98a5-b2a1f6d0e001 --reason "not during the freeze"
    """
    with errors_as_exit_codes():
        body = {"reason": reason}
        asyncio.run(_decide(run, job, step, "reject", body, data_dir=data_dir, as_json=as_json))


async def _decide(
    run: str,
    job: str | None,
    step: str | None,
    verb: str,
    body: dict[str, str],
    *,
    data_dir: str | None,
    as_json: bool,
) -> None:
    async with Client(find_target(data_dir=data_dir)) as client:
        listed = await collection(client, "/held-runs", "approvals", runId=run, status="pending")
        hold = chosen(listed["holds"], run=run, job=job, step=step)
        answer: dict[str, Any] = await client.post(
            await client.org(f"/held-runs/{hold['id']}/{verb}"), body
        )
    if as_json:
        emit(answer)
    elif verb == "reject":
        print(f"Rejected {_describe(hold)}")
    else:
        left = sum(1 for clause in answer.get("clauses", ()) if not clause["satisfied"])
        print(f"{left} clause{'s' if left != 1 else ''} left" if left else f"Released {_describe(hold)}")


def chosen(
    holds: Sequence[Mapping[str, Any]], *, run: str, job: str | None, step: str | None
) -> Mapping[str, Any]:
    """The one that is meant. Exits with the list to choose from when there are several."""
    meant = [hold for hold in holds if _is(hold, job, step)]
    if not meant:
        raise fail(f"run {run} has no pending hold{_which(job, step)}", FAILED)
    if len(meant) > 1:
        lines = "\n".join(f"  {_describe(hold)}" for hold in meant)
        raise fail(
            f"run {run} has {len(meant)} pending holds; choose with --job and --step:\n{lines}", FAILED
        )
    return meant[0]


def _is(hold: Mapping[str, Any], job: str | None, step: str | None) -> bool:
    """Step by name or by index: people know one, scripts the other."""
    return (job is None or hold.get("jobName") == job) and (
        step is None
        or step in {str(hold[key]) for key in ("stepName", "stepIndex") if hold.get(key) is not None}
    )


def _which(job: str | None, step: str | None) -> str:
    return (f" of job {job!r}" if job else "") + (f" at step {step!r}" if step else "")


def _describe(hold: Mapping[str, Any]) -> str:
    place = " › ".join(str(hold[key]) for key in ("jobName", "stepName") if hold.get(key))
    return f"{hold['id']} {place or 'the whole run'}: {hold.get('reason') or 'no reason given'}"
