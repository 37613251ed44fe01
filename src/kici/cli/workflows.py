"""`kici workflows list`: what the server would start, from which commit, and when it last did."""

import asyncio
from datetime import datetime
from typing import Annotated, Any

import typer

from kici.cli.client import Client, find_target
from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import emit, moment, table
from kici.cli.runs.words import ago, utc_now
from kici.spec.errors import InvalidInput
from kici.spec.triggers import trigger_types

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Registered workflows.")


@app.callback()
def workflows() -> None:
    """Registered workflows."""


@app.command("list")
def list_command(
    stale: Annotated[
        str | None, typer.Option(metavar="AGE", help="Only those that have not run for so long, as 30d.")
    ] = None,
    trigger_type: Annotated[str | None, typer.Option(help="push, pr, schedule, …")] = None,
    repo: Annotated[str | None, typer.Option(help="Repository.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Workflows of the default branches, as the orchestrators registered them.

    Example: kici workflows list --stale 30d
    """

    async def body() -> list[dict[str, Any]]:
        async with Client(find_target(data_dir=data_dir)) as client:
            return (await client.get(await client.org("/registrations")))["registrations"]

    with errors_as_exit_codes():
        if trigger_type is not None and trigger_type not in trigger_types():
            raise InvalidInput(
                f"trigger type {trigger_type!r} is unknown: it is one of {', '.join(trigger_types())}"
            )
        now = utc_now()
        limit = moment(stale, now) if stale else None
        found = [
            entry
            for entry in asyncio.run(body())
            if (trigger_type is None or trigger_type in entry["triggerTypes"])
            and (repo is None or entry["repoIdentifier"] == repo)
            and (limit is None or _last(entry) < limit)
        ]
        if as_json:
            emit({"registrations": found})
        elif not found:
            print("No registered workflow fits. A push to the default branch registers its workflows.")
        else:
            table(
                ("workflow", "repository", "triggers", "commit", "last run", "state"),
                (
                    (
                        entry["workflowName"],
                        entry["repoIdentifier"],
                        ", ".join(entry["triggerTypes"]) or "–",
                        entry["commitSha"][:7],
                        ago(entry["lastTriggeredAt"], now) if entry["lastTriggeredAt"] else "never",
                        _state(entry),
                    )
                    for entry in found
                ),
                squeezed=("workflow", "repository"),
            )
            for entry in found:
                if entry["problem"]:
                    print(f"{entry['workflowName']} ({entry['repoIdentifier']}): {entry['problem']}")


def _state(entry: dict[str, Any]) -> str:
    """One word; what the problem is stands below the table."""
    if entry["disabled"]:
        return "disabled"
    if entry["problem"]:
        return "problem"
    return "stale" if entry["stale"] else "active"


def _last(entry: dict[str, Any]) -> datetime:
    """When it last ran; a workflow that never did counts from its registration."""
    return datetime.fromisoformat(entry["lastTriggeredAt"] or entry["updatedAt"])
