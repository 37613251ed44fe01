"""`kici-admin event-log …` and `kici-admin registration list`: what came in, and what it started."""

import time
from typing import Annotated, Any

import typer

from kici.cli.admin.api import (
    USAGE,
    AdminFailed,
    DataDirOption,
    JsonOption,
    call,
    emit,
    errors_as_exit_codes,
    table,
)

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Deliveries and what became of them.")
DECISION_S = 10.0

registrations = typer.Typer(add_completion=False, no_args_is_help=True, help="Registered workflows.")


@app.command("list")
def list_deliveries(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    before: Annotated[str | None, typer.Option(help="Cursor of the next page.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest first.

    Example: kici-admin event-log list
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/deliveries", limit=limit, before=before)
        if as_json:
            emit(answer)
            return
        rows = [
            [
                d["receivedAt"],
                d["sourceName"],
                d["event"],
                d["ref"],
                d["status"],
                d["matchedCount"],
                d["deliveryId"],
                d["error"],
            ]
            for d in answer["deliveries"]
        ]
        table(
            ["received", "source", "event", "ref", "status", "runs", "delivery", "error"],
            rows,
            empty="No deliveries.",
        )
        if answer["nextBefore"]:
            print(f'Next page: --before "{answer["nextBefore"]}"')


@app.command()
def show(
    delivery: Annotated[str, typer.Argument(help="Delivery id.", metavar="DELIVERY")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Why each workflow did or did not start.

    Example: kici-admin event-log show DELIVERY
    """
    with errors_as_exit_codes():
        view = call(data_dir, "GET", f"/deliveries/{delivery}")
        if as_json:
            emit(view)
            return
        print(
            f"{view['status']}  {view['event']} {view['ref'] or ''} from {view['sourceName']}, request {view['requestId']}"
        )
        if view["error"]:
            print(f"error  {view['error']}")
        print_decisions(view["decisions"])


def print_decisions(decisions: list[dict[str, Any]]) -> None:
    """What each workflow decided, and by which checks."""
    for decision in decisions:
        mark = "✓" if decision["matched"] else "–"
        run = f"  run {decision['runId']}" if decision["runId"] else ""
        print(f"{mark} {decision['workflowName']}: {decision['reason']}{run}")
        for check in decision["checks"]:
            sign = "✓" if check["matched"] else "✗"
            print(f"    {sign} {check['check']}: expected {check['expected']}, was {check['actual']}")


def wait_for_decision(data_dir: str | None, delivery_id: str) -> dict[str, Any] | None:
    """The delivery once it is decided; None when that takes longer than people wait."""
    give_up = time.monotonic() + DECISION_S
    while time.monotonic() < give_up:
        view = call(data_dir, "GET", f"/deliveries/{delivery_id}")
        if view["processedAt"] is not None:
            return view
        time.sleep(0.05)
    return None


@app.command()
def retry(
    delivery: Annotated[str, typer.Argument(help="Delivery id.", metavar="DELIVERY")],
    data_dir: DataDirOption = None,
) -> None:
    """Give a delivery that failed for good another set of attempts.

    Example: kici-admin event-log retry DELIVERY
    """
    with errors_as_exit_codes():
        call(data_dir, "POST", f"/event-log/{delivery}/retry")
        print(f"{delivery} is tried again")


@registrations.command("list")
def list_registrations(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Workflows of connected repositories' default branches.

    Example: kici-admin registration list
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/registrations")
        if as_json:
            emit(answer)
            return
        rows = [
            [
                r["workflowName"],
                r["repoIdentifier"],
                ", ".join(r["triggerTypes"]),
                "disabled" if r["disabled"] else "problem" if r["problem"] else "enabled",
                r["lastTriggeredAt"],
                r["problem"] or r["nextFireAt"],
                r["commitSha"][:7],
                r["id"],
            ]
            for r in answer["registrations"]
        ]
        table(
            ["workflow", "repository", "triggers", "state", "last triggered", "next fire", "commit", "id"],
            rows,
            empty="No workflow is registered: push to a default branch.",
        )


Registration = Annotated[str, typer.Argument(help="Id, from `registration list --json`.", metavar="ID")]


@registrations.command("enable")
def enable_registration(registration: Registration, data_dir: DataDirOption = None) -> None:
    """Let events start the workflow again.

    Example: kici-admin registration enable ID
    """
    with errors_as_exit_codes():
        call(data_dir, "POST", f"/registrations/{registration}/enable")
        print("enabled")


@registrations.command("run")
def run_registration(
    registration: Registration,
    given: Annotated[
        list[str] | None, typer.Option("--input", "-i", help="NAME=VALUE; may be repeated.")
    ] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start the workflow now, at the commit of its default branch.

    Example: kici-admin registration run ID --input target=prod
    """
    with errors_as_exit_codes():
        inputs: dict[str, str] = {}
        for word in given or ():
            name, mark, value = word.partition("=")
            if not mark:
                raise AdminFailed(f"--input {word}: wanted is NAME=VALUE", USAGE)
            inputs[name] = value
        answer = call(data_dir, "POST", f"/registrations/{registration}/run", body={"inputs": inputs})
        if as_json:
            emit(answer)
        else:
            print(answer["newRunId"])


@registrations.command("disable")
def disable_registration(registration: Registration, data_dir: DataDirOption = None) -> None:
    """No event starts the workflow until it is enabled; running runs go on.

    Example: kici-admin registration disable ID
    """
    with errors_as_exit_codes():
        call(data_dir, "POST", f"/registrations/{registration}/disable")
        print("disabled")
