"""`kici diagnostics`: is everything well on the server, and if not, what is not."""

import asyncio
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from msgspec import Struct

from kici.cli.client import Client, find_target
from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import console, emit
from kici.cli.runs.words import ago, duration, utc_now
from kici.spec.errors import KiciError

app = typer.Typer(add_completion=False)

_COUNTED = ("success", "failed", "cancelled", "running", "queued")


class Diagnostics(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the server says, and what is wrong with it in words."""

    last_day: dict[str, int]  # display status → runs
    alerts: list[str]
    orchestrators: list[dict[str, Any]]
    summary: dict[str, Any] | None  # of the orchestrator that answered


@app.command()
def diagnostics(
    orchestrator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this cluster or instance.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Labels and versions too.")] = False,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Runs of the last 24 hours, alerts, and the tree of orchestrators and agents.

    Example: kici diagnostics --verbose
    """
    with errors_as_exit_codes():
        now = utc_now()
        found = asyncio.run(_collect(orchestrator, now, data_dir))
        if as_json:
            emit(found)
        else:
            _print(found, now, verbose=verbose)


async def _collect(name: str | None, now: datetime, data_dir: str | None) -> Diagnostics:
    async with Client(find_target(data_dir=data_dir)) as client:
        since = (now - timedelta(days=1)).isoformat()
        counts: dict[str, int] = {}
        for status in _COUNTED:
            page = await client.get(await client.org("/runs"), status=status, since=since, pageSize=1)
            counts[status] = page["total"]
        listed = (await client.get(await client.org("/orchestrators")))["orchestrators"]
        if name is not None:
            listed = [entry for entry in listed if name in {entry["clusterName"], entry["instanceId"]}]
        try:
            summary = await client.get(await client.org("/diagnostics"))
        except KiciError:
            summary = None
    return Diagnostics(
        last_day=counts, alerts=alerts_of(listed, summary, counts), orchestrators=listed, summary=summary
    )


def alerts_of(
    orchestrators: list[dict[str, Any]], summary: dict[str, Any] | None, counts: dict[str, int]
) -> list[str]:
    """One sentence each: what is wrong, and what to look at."""
    alerts: list[str] = []
    if not any(entry["connected"] for entry in orchestrators):
        alerts.append(
            "No orchestrator is connected: nothing runs. Look at its log, and at KICI_PLATFORM_URL."
        )
    versions = {entry["version"] for entry in orchestrators if entry["connected"]}
    if len(versions) > 1:
        alerts.append(f"Orchestrators of several versions are connected: {', '.join(sorted(versions))}.")
    if summary is None:
        if any(entry["connected"] for entry in orchestrators):
            alerts.append("The orchestrator does not answer in time.")
        return alerts
    ready = [agent for agent in summary["agents"] if agent["connected"]]
    if not ready:
        alerts.append("No agent is connected: jobs wait until their queue time-out.")
    alerts += map(_shortage, summary["shortages"])
    if summary["inboxDepth"] > 100:
        alerts.append(f"{summary['inboxDepth']} deliveries wait to be worked on.")
    if summary["outboxDepth"] > 1000:
        alerts.append(f"{summary['outboxDepth']} changes have not reached the Platform yet.")
    ended = counts["success"] + counts["failed"]
    if ended >= 10 and counts["failed"] * 2 > ended:
        alerts.append(f"{counts['failed']} of {ended} runs of the last 24 hours failed.")
    return alerts


def _shortage(entry: dict[str, Any]) -> str:
    one = entry["jobs"] == 1
    waits = "1 job waits" if one else f"{entry['jobs']} jobs wait"
    return (
        f"{waits} for an agent with "
        f"{entry['wanted'] or 'any labels'}, which no connected agent fits: "
        f"{'' if one else 'the longest '}for {duration(entry['waitingMs'])}. "
        "Correct `runs_on`, or connect such an agent."
    )


def _print(found: Diagnostics, now: datetime, *, verbose: bool) -> None:
    from rich.tree import Tree

    screen = console()
    screen.print(
        "[bold]Last 24 hours[/]  "
        + "  ".join(f"{status} {count}" for status, count in found.last_day.items())
    )
    for alert in found.alerts:
        screen.print(f"[red]![/] {alert}", soft_wrap=True)
    if not found.alerts:
        screen.print("[green]✓[/] nothing to worry about")
    for entry in found.orchestrators:
        state = (
            "[green]connected[/]"
            if entry["connected"]
            else f"[red]away since {ago(entry['lastSeenAt'], now)}[/]"
        )
        tree = Tree(f"orchestrator {entry['clusterName']} [dim]{entry['instanceId']}[/] {state}")
        if verbose:
            tree.add(
                f"[dim]version {entry['version']} · mode {entry['mode']} · host {entry['hostname']}[/]"
            )
        summary = found.summary
        if summary is not None and summary["instanceId"] == entry["instanceId"]:
            tree.add(
                f"{summary['runningJobs']} running, {summary['queuedJobs']} queued jobs · "
                f"inbox {summary['inboxDepth']} · outbox {summary['outboxDepth']}"
            )
            for agent in summary["agents"]:
                what = "busy" if agent["busy"] else "idle" if agent["connected"] else "[red]away[/]"
                labels = f" [dim]{' '.join(agent['labels'])}[/]" if verbose else ""
                tree.add(
                    f"agent {agent['agentId']} [dim]{agent['platform']}/{agent['arch']}[/] {what}{labels}"
                )
        screen.print(tree)
