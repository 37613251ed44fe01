"""`kici-admin event-dlq …`, `event …` and `trust …`: events between workflows, and those that went wrong."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
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

dlq = typer.Typer(add_completion=False, no_args_is_help=True, help="Events that could not be dispatched.")
events = typer.Typer(add_completion=False, no_args_is_help=True, help="Events and whom they started.")
trust = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Which repository takes events of which other one."
)

Event = Annotated[str, typer.Argument(help="Event id.", metavar="EVENT")]
YesOption = Annotated[bool, typer.Option("--yes", help="Yes, delete it.")]


@dlq.command("list")
def list_dead(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    before: Annotated[str | None, typer.Option(help="Time of the next page's start.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Latest first, with the error of the last attempt.

    Example: kici-admin event-dlq list --limit 20
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/event-dlq", limit=limit, before=before)
        if as_json:
            emit(answer)
            return
        rows = [
            [
                e["eventId"],
                e["eventName"],
                e["dlqReason"],
                e["attempts"],
                e["lastError"],
                e["sourceRepo"],
                e["sourceRoutingKey"],
                e["dlqAt"],
            ]
            for e in answer["events"]
        ]
        table(
            ["event", "name", "reason", "attempts", "last error", "source", "routing key", "since"],
            rows,
            empty="No dead events.",
        )
        if answer["nextBefore"]:
            print(f'Next page: --before "{answer["nextBefore"]}"')


@dlq.command()
def count(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """How many there are.

    Example: kici-admin event-dlq count
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/event-dlq/count")
        if as_json:
            emit(answer)
        else:
            print(answer["count"])


@dlq.command("show")
def show_dead(event: Event, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """One of them, with its payload and what each workflow said.

    Example: kici-admin event-dlq show EVENT
    """
    with errors_as_exit_codes():
        dead = call(data_dir, "GET", f"/event-dlq/{event}")
        view = call(data_dir, "GET", f"/events/{event}")
        if as_json:
            emit({**view, **dead})
            return
        print(f"{dead['dlqReason']} since {dead['dlqAt']}, {dead['attempts']} attempts")
        _print_event(view)


@dlq.command()
def retry(event: Event, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Give it another set of attempts, beginning now.

    Example: kici-admin event-dlq retry EVENT
    """
    with errors_as_exit_codes():
        call(data_dir, "POST", f"/event-dlq/{event}/retry")
        if as_json:
            emit({"eventId": event, "retried": True})
        else:
            print(f"{event} is tried again")


@dlq.command()
def discard(
    event: Event, yes: YesOption = False, data_dir: DataDirOption = None, as_json: JsonOption = False
) -> None:
    """Delete it for good.

    Example: kici-admin event-dlq discard EVENT --yes
    """
    with errors_as_exit_codes():
        if not yes:
            raise AdminFailed(f"this deletes event {event} for good; say --yes", USAGE)
        call(data_dir, "DELETE", f"/event-dlq/{event}")
        if as_json:
            emit({"eventId": event, "discarded": True})
        else:
            print(f"{event} is gone")


@events.command("list")
def list_events(
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    before: Annotated[str | None, typer.Option(help="Event id of the next page's start.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Newest first: what was emitted, and what somebody waits for.

    Example: kici-admin event list
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/events", limit=limit, before=before)
        if as_json:
            emit(answer)
            return
        rows = [
            [
                e["createdAt"],
                e["eventName"],
                e["sourceRepo"],
                e["status"],
                e["matchedCount"],
                e["eventId"],
                e["note"],
            ]
            for e in answer["events"]
        ]
        table(["made", "name", "source", "status", "runs", "event", "note"], rows, empty="No events.")
        if answer["nextBefore"]:
            print(f"Next page: --before {answer['nextBefore']}")


@events.command("show")
def show_event(event: Event, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Why each workflow did or did not start.

    Example: kici-admin event show EVENT
    """
    with errors_as_exit_codes():
        view = call(data_dir, "GET", f"/events/{event}")
        if as_json:
            emit(view)
        else:
            _print_event(view)


@events.command("emit")
def emit_event(
    name: Annotated[str, typer.Argument(help="Name, as `kici_event` has it.", metavar="NAME")],
    payload_file: Annotated[
        Path | None, typer.Option(help="JSON object; without it the payload is empty.")
    ] = None,
    repo: Annotated[list[str] | None, typer.Option(help="Only workflows of this repository.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Send an event to workflows that wait for it.

    Example: kici-admin event emit deploy-complete --payload-file deploy.json
    """
    with errors_as_exit_codes():
        body = {"name": name, "payload": _payload(payload_file), "targetRepos": repo or None}
        answer = call(data_dir, "POST", "/events/emit", body=body)
        if as_json:
            emit(answer)
        else:
            print(answer["deliveryId"])


@trust.command("list")
def list_trust(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """A repository always takes its own events; these are the others.

    Example: kici-admin trust list
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/trust")
        if as_json:
            emit(answer)
            return
        rows = [
            [
                t["sourceRepo"],
                t["targetRepo"],
                "all" if t["allowedEvents"] is None else ", ".join(t["allowedEvents"]),
                t["id"],
            ]
            for t in answer["trust"]
        ]
        table(["from", "to", "events", "id"], rows, empty="No repository takes events of another one.")


@trust.command("add")
def add_trust(
    source: Annotated[str, typer.Argument(help="Repository that sends.", metavar="SOURCE")],
    target: Annotated[str, typer.Argument(help="Repository that receives.", metavar="TARGET")],
    event: Annotated[
        list[str] | None, typer.Option(help="Glob over event names; may be repeated. Default: all.")
    ] = None,
    source_routing_key: Annotated[str, typer.Option(help="Where several sources have SOURCE.")] = "",
    target_routing_key: Annotated[str, typer.Option(help="Where several sources have TARGET.")] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let events of SOURCE start workflows of TARGET.

    Example: kici-admin trust add acme/app acme/deploy --event 'deploy-*'
    """
    with errors_as_exit_codes():
        body = {
            "sourceRepo": source,
            "targetRepo": target,
            "sourceRoutingKey": source_routing_key,
            "targetRoutingKey": target_routing_key,
            "allowedEvents": event or None,
        }
        answer = call(data_dir, "POST", "/trust", body=body)
        if as_json:
            emit(answer)
        else:
            print(f"{target} takes events of {source} ({answer['id']})")


@trust.command("remove")
def remove_trust(
    trust_id: Annotated[str, typer.Argument(help="Id, from `trust list`.", metavar="ID")],
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """From now on, too, for events that are under way.

    Example: kici-admin trust remove ID
    """
    with errors_as_exit_codes():
        call(data_dir, "DELETE", f"/trust/{trust_id}")
        if as_json:
            emit({"id": trust_id, "removed": True})
        else:
            print("removed")


def _print_event(view: dict[str, Any]) -> None:
    print(
        f"{view['status']}  {view['eventName']} from {view['sourceRepo'] or 'an operator'}, made {view['createdAt']}"
    )
    if view["sourceRunId"]:
        print(f"run    {view['sourceRunId']}, chain depth {view['chainDepth']}")
    if view["note"]:
        print(f"note   {view['note']}")
    print(f"payload {msgspec.json.encode(view['payload']).decode()}")
    for decision in view["decisions"]:
        mark = "✓" if decision["matched"] else "–"
        run = f"  run {decision['runId']}" if decision["runId"] else ""
        print(f"{mark} {decision['workflowName']}: {decision['reason']}{run}")
        for check in decision["checks"]:
            sign = "✓" if check["matched"] else "✗"
            print(f"    {sign} {check['check']}: expected {check['expected']}, was {check['actual']}")


def _payload(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AdminFailed(f"{path}: the payload is a JSON object: {error}", USAGE) from error
