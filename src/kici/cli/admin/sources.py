"""`kici-admin source …`: what starts runs."""

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from kici.cli.admin.api import (
    AdminFailed,
    DataDirOption,
    JsonOption,
    call,
    emit,
    errors_as_exit_codes,
    table,
)
from kici.cli.admin.deliveries import print_decisions, wait_for_decision

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Repositories and webhooks that start runs."
)
add = typer.Typer(add_completion=False, no_args_is_help=True, help="Connect a source.")
app.add_typer(add, name="add")

Handle = Annotated[str, typer.Argument(help="Name, id or routing key.", metavar="SOURCE")]


def _secret(given: str) -> str:
    """`@file` reads a file, `-` standard input; anything else is the secret itself."""
    if given == "-":
        return sys.stdin.read().strip()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AdminFailed(f"cannot read {given[1:]}: {error.strerror}", 2) from error
    return given


def _show(answer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        emit(answer)
        return
    source = answer["source"]
    print(f"name          {source['name']}")
    print(f"routing key   {source['routingKey']}")
    print(f"kind          {source['kind']}, verified by {source['verificationMethod']}")
    print(f"state         {'enabled' if source['enabled'] else 'disabled'}")
    if source["config"].get("path"):
        print(f"path          {source['config']['path']}")
    print(f"direct URL    {answer['directUrl']}")
    print(f"Platform URL  {answer['platformUrl'] or 'not known yet'}")


@add.command("local")
def add_local(
    name: Annotated[str, typer.Option(help="How the source is called.")],
    path: Annotated[str, typer.Option(help="A git repository on the orchestrator's machine.")],
    repository: Annotated[
        str, typer.Option(help="How runs call it; without it, the last part of the path.")
    ] = "",
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a repository on this machine.

    Example: kici-admin source add local --name shop --path /srv/git/shop.git
    """
    with errors_as_exit_codes():
        body = {"kind": "local", "name": name, "path": os.path.abspath(path), "repository": repository}
        _show(call(data_dir, "POST", "/sources", body=body), as_json=as_json)


@add.command("generic")
def add_generic(
    name: Annotated[str, typer.Option(help="How the source is called, and the end of its URL.")],
    secret: Annotated[str, typer.Option(help="The secret, @FILE, or - for standard input.")] = "",
    verification: Annotated[
        str, typer.Option(help="hmac_sha256, bearer_token, api_key, ip_allowlist or none.")
    ] = "hmac_sha256",
    header: Annotated[str, typer.Option(help="Where the signature or token stands.")] = "",
    allow: Annotated[list[str] | None, typer.Option(help="CIDR for ip_allowlist; repeatable.")] = None,
    event_header: Annotated[str, typer.Option(help="Header that names the event.")] = "X-Event-Type",
    event_path: Annotated[str, typer.Option(help="JSONPath in the body, where the header is absent.")] = "",
    key_header: Annotated[
        str, typer.Option(help="Header with the sender's delivery id; several usual ones without it.")
    ] = "",
    key_path: Annotated[str, typer.Option(help="JSONPath of the delivery id.")] = "",
    dedup_window: Annotated[int, typer.Option(help="Seconds in which an id is the same delivery.")] = 300,
    event: Annotated[list[str] | None, typer.Option(help="Accept only this event; repeatable.")] = None,
    payload_format: Annotated[
        str, typer.Option(help="`github`: what GitHub sends; it starts what the repository it names has.")
    ] = "",
    rate_limit: Annotated[int, typer.Option(help="Deliveries per minute; 0 for no limit.")] = 600,
    max_bytes: Annotated[int, typer.Option(help="Largest body.")] = 1_048_576,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Accept signed webhooks.

    Example: kici-admin source add generic --name deploys --secret @secret-file
    """
    with errors_as_exit_codes():
        body = {
            "kind": "generic",
            "name": name,
            "verificationMethod": verification,
            "secret": _secret(secret) if secret else "",
            "headerName": header,
            "allowlist": allow or [],
            "eventTypeHeader": event_header,
            "eventTypePath": event_path,
            "idempotencyKeyHeader": key_header,
            "idempotencyKeyPath": key_path,
            "dedupWindowSeconds": dedup_window,
            "allowedEvents": event or [],
            "payloadFormat": payload_format,
            "rateLimitRpm": rate_limit,
            "maxPayloadBytes": max_bytes,
        }
        _show(call(data_dir, "POST", "/sources", body=body), as_json=as_json)


@app.command("list")
def list_sources(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """All sources.

    Example: kici-admin source list
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "GET", "/sources")
        if as_json:
            emit(answer)
            return
        rows = [
            [
                s["name"],
                s["kind"],
                s["verificationMethod"],
                "enabled" if s["enabled"] else "disabled",
                s["config"].get("path"),
                s["routingKey"],
            ]
            for s in answer["sources"]
        ]
        table(
            ["name", "kind", "verified by", "state", "path", "routing key"],
            rows,
            empty="No sources. Connect one: kici-admin source add local --name NAME --path PATH",
        )


@app.command("get")
def get_source(handle: Handle, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """One source and its webhook URLs.

    Example: kici-admin source get shop
    """
    with errors_as_exit_codes():
        _show(call(data_dir, "GET", f"/sources/{handle}"), as_json=as_json)


@app.command("update")
def update(
    handle: Handle,
    add_secret: Annotated[
        str | None, typer.Option(help="One more secret, @FILE, or -; the present ones stay valid.")
    ] = None,
    secret: Annotated[str | None, typer.Option(help="The only secret from now on, @FILE, or -.")] = None,
    event: Annotated[list[str] | None, typer.Option(help="Accept only this event; repeatable.")] = None,
    rate_limit: Annotated[int | None, typer.Option(help="Deliveries per minute; 0 for no limit.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Largest body.")] = None,
    path: Annotated[str | None, typer.Option(help="Where a local repository is now.")] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what is given and nothing else.

    Example: kici-admin source update deploys --add-secret @new-secret-file
    """
    with errors_as_exit_codes():
        body = {
            "addSecret": None if add_secret is None else _secret(add_secret),
            "secrets": None if secret is None else [_secret(secret)],
            "allowedEvents": event,
            "rateLimitRpm": rate_limit,
            "maxPayloadBytes": max_bytes,
            "path": None if path is None else os.path.abspath(path),
        }
        given = {name: value for name, value in body.items() if value is not None}
        if not given:
            raise AdminFailed("say what is to change, see --help", 2)
        _show(call(data_dir, "PATCH", f"/sources/{handle}", body=given), as_json=as_json)


@app.command("enable")
def enable(handle: Handle, data_dir: DataDirOption = None) -> None:
    """Take deliveries again.

    Example: kici-admin source enable shop
    """
    with errors_as_exit_codes():
        call(data_dir, "PATCH", f"/sources/{handle}", body={"enabled": True})
        print(f"{handle} is enabled")


@app.command("disable")
def disable(handle: Handle, data_dir: DataDirOption = None) -> None:
    """Answer deliveries with 404 until it is enabled again.

    Example: kici-admin source disable shop
    """
    with errors_as_exit_codes():
        call(data_dir, "PATCH", f"/sources/{handle}", body={"enabled": False})
        print(f"{handle} is disabled")


@app.command("remove")
def remove(
    handle: Handle,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, remove it.")] = False,
    hard: Annotated[bool, typer.Option("--hard", help="Also forget its row.")] = False,
    data_dir: DataDirOption = None,
) -> None:
    """Forget its secrets, disable its registrations; runs stay.

    Example: kici-admin source remove shop --yes
    """
    with errors_as_exit_codes():
        if not yes:
            raise AdminFailed(f"this removes the secrets and registrations of {handle}; say --yes", 2)
        call(data_dir, "DELETE", f"/sources/{handle}", hard="true" if hard else None)
        print(f"{handle} is removed")


@app.command("trigger-local")
def trigger_local(
    handle: Handle,
    event: Annotated[str, typer.Option(help="push or pull_request.")] = "push",
    ref: Annotated[str | None, typer.Option(help="Branch or full ref; HEAD's without it.")] = None,
    sha: Annotated[str | None, typer.Option(help="Commit; the ref's without it.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is decided what starts.")] = True,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Post the event that a push of the current head would be, and say what it starts.

    Example: kici-admin source trigger-local shop
    """
    with errors_as_exit_codes():
        body = {"event": event, "ref": ref, "sha": sha}
        answer = call(data_dir, "POST", f"/sources/{handle}/trigger", body=body)
        decided = wait_for_decision(data_dir, answer["deliveryId"]) if wait else None
        if as_json:
            emit({**answer, "decisions": decided["decisions"] if decided is not None else None})
            return
        print(
            f"accepted {event} of {answer['ref']} at {answer['sha'][:7]}, delivery {answer['deliveryId']}"
        )
        if decided is not None:
            if decided["error"]:
                print(f"error  {decided['error']}")
            print_decisions(decided["decisions"])
        elif wait:
            print(f"not decided yet; kici-admin event-log show {answer['deliveryId']}")


@app.command("install-hook")
def install_hook(handle: Handle, data_dir: DataDirOption = None) -> None:
    """Write a post-receive hook that reports every push; run it again after moving things.

    Example: kici-admin source install-hook shop
    """
    with errors_as_exit_codes():
        hook = call(data_dir, "GET", f"/sources/{handle}/hook")
        folder = Path(hook["hooksDir"])
        try:
            state = _write_hook(folder, hook)
        except OSError as error:
            raise AdminFailed(f"cannot write the hook in {folder}: {error.strerror}") from error
        print(f"{state} {folder / 'post-receive'}")


def _write_hook(folder: Path, hook: dict[str, Any]) -> str:
    """Somebody else's hook is kept beside ours and still runs, first."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "post-receive"
    state = "installed"
    if target.exists():
        if hook["mark"] in target.read_text(encoding="utf-8", errors="replace"):
            state = "updated"
        else:
            os.replace(target, folder / "post-receive.before-kici")
            state = "installed, the earlier hook runs first:"
    for file in hook["files"]:
        scratch = folder / f".{file['name']}.new"
        scratch.write_text(
            file["content"].replace("@PYTHON@", shlex.quote(sys.executable)), encoding="utf-8"
        )
        scratch.chmod(0o755 if file["executable"] else 0o644)
        os.replace(scratch, folder / file["name"])
    return state
