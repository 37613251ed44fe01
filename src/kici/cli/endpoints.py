"""`kici endpoints`: what from outside starts these workflows, read from the lock file alone."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec import Struct

from kici.cli.author import find_kici_dir
from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import emit, table
from kici.cli.runs.words import utc_now
from kici.spec import lock, triggers
from kici.spec.errors import InvalidInput, KiciError

app = typer.Typer(add_completion=False)


class WebhookEndpoint(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    source: str
    url: str  # with {orgId} where no server is known
    events: list[str]


class ScheduleEndpoint(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    cron: str
    timezone: str
    next_fire: datetime | None


class EventEndpoint(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    kind: str  # kici_event | dispatch | workflow_complete | job_complete | lifecycle
    names: list[str]


class Endpoints(Struct, frozen=True, kw_only=True, rename="camel"):
    webhooks: list[WebhookEndpoint]
    schedules: list[ScheduleEndpoint]
    events: list[EventEndpoint]


@app.command()
def endpoints(
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Webhook addresses, schedules with their next time, and event names of the compiled workflows.

    Example: kici endpoints
    """
    with errors_as_exit_codes():
        found = collect(_read(find_kici_dir(kici_dir)), base=_base(), now=utc_now())
        if as_json:
            emit(found)
        elif not (found.webhooks or found.schedules or found.events):
            print("Only git events start these workflows. `kici preview` lists them.")
        else:
            _print(found)


def collect(document: lock.LockFile, *, base: str, now: datetime) -> Endpoints:
    """`base`: the address that senders use, up to the source's name."""
    from kici.engine.cron import next_fire

    webhooks: list[WebhookEndpoint] = []
    schedules: list[ScheduleEndpoint] = []
    events: list[EventEndpoint] = []
    for workflow in document.workflows:
        name = workflow.name
        for trigger in workflow.triggers:
            match trigger:
                case triggers.GenericWebhookTrigger():
                    webhooks.append(
                        WebhookEndpoint(
                            workflow=name,
                            source=trigger.source,
                            url=f"{base}/{trigger.source}{_path(trigger.path)}",
                            events=trigger.events,
                        )
                    )
                case triggers.ScheduleTrigger():
                    schedules.append(
                        ScheduleEndpoint(
                            workflow=name,
                            cron=trigger.cron,
                            timezone=trigger.timezone,
                            next_fire=next_fire(trigger.cron, trigger.timezone, now),
                        )
                    )
                case triggers.KiciEventTrigger():
                    events.append(EventEndpoint(workflow=name, kind="kici_event", names=[trigger.name]))
                case triggers.DispatchTrigger():
                    events.append(EventEndpoint(workflow=name, kind="dispatch", names=trigger.types))
                case triggers.WorkflowCompleteTrigger():
                    names = [trigger.name] if trigger.name else []
                    events.append(EventEndpoint(workflow=name, kind="workflow_complete", names=names))
                case triggers.JobCompleteTrigger():
                    names = [" › ".join(part for part in (trigger.workflow, trigger.job) if part)]
                    events.append(
                        EventEndpoint(workflow=name, kind="job_complete", names=[n for n in names if n])
                    )
                case triggers.LifecycleTrigger():
                    events.append(EventEndpoint(workflow=name, kind="lifecycle", names=trigger.events))
                case _:
                    pass
    return Endpoints(webhooks=webhooks, schedules=schedules, events=events)


def _path(path: str) -> str:
    return "/" + path.strip("/") if path.strip("/") else ""


def _read(folder: Path) -> lock.LockFile:
    path = folder.parent / lock.LOCK_PATH
    try:
        return msgspec.json.decode(path.read_bytes(), type=lock.LockFile)
    except FileNotFoundError:
        raise InvalidInput(f"there is no {path}: run `kici compile` first") from None
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{path} cannot be read ({error}): run `kici compile`") from None


def _base() -> str:
    from kici.cli.client import find_target

    try:
        target = find_target()
    except KiciError:  # offline is fine: the file says everything but the address
        return "https://<platform>/webhook/<orgId>/generic"
    return f"{target.platform_url}/webhook/{target.org_id or '<orgId>'}/generic"


def _print(found: Endpoints) -> None:
    if found.webhooks:
        table(
            ("webhook", "workflow", "events"),
            ((entry.url, entry.workflow, ", ".join(entry.events) or "any") for entry in found.webhooks),
        )
    if found.schedules:
        table(
            ("schedule", "zone", "next", "workflow"),
            (
                (
                    entry.cron,
                    entry.timezone,
                    entry.next_fire.strftime("%Y-%m-%d %H:%M UTC") if entry.next_fire else "never",
                    entry.workflow,
                )
                for entry in found.schedules
            ),
        )
    if found.events:
        table(
            ("event", "names", "workflow"),
            ((entry.kind, ", ".join(entry.names) or "any", entry.workflow) for entry in found.events),
        )
