"""`kici-admin agent …`: tokens that agents sign in with, and agents."""

from typing import Annotated

import typer

from kici.cli.admin.api import DataDirOption, JsonOption, call, emit, errors_as_exit_codes, table

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Agents and their tokens.")


@app.command()
def register(
    label: Annotated[
        list[str] | None,
        typer.Option(help="The only labels its agents may add to kici: ones; repeatable; without it, any."),
    ] = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for an agent; it is shown this once.

    Example: kici-admin agent register > agent-token
    """
    with errors_as_exit_codes():
        answer = call(data_dir, "POST", "/agent-tokens", body={"labels": label or None})
        if as_json:
            emit(answer)
        else:
            print(answer["token"])


@app.command("list")
def list_agents(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Known agents and tokens.

    Example: kici-admin agent list
    """
    with errors_as_exit_codes():
        agents = call(data_dir, "GET", "/agents")
        tokens = call(data_dir, "GET", "/agent-tokens")
        if as_json:
            emit({"agents": agents, "tokens": tokens})
            return
        rows = [
            [
                a["agentId"],
                ("busy" if a["busy"] else "idle") if a["connected"] else "away",
                a["hostname"],
                a["version"],
                a["lastSeenAt"],
                ", ".join(a["labels"]),
            ]
            for a in agents
        ]
        table(
            ["agent", "state", "host", "version", "last seen", "labels"],
            rows,
            empty="No agent has connected yet.",
        )
        print()
        rows = [
            [t["display"], t["kind"], "revoked" if t["revokedAt"] else "valid", t["lastUsedAt"], t["id"]]
            for t in tokens
        ]
        table(["token", "kind", "state", "last used", "id"], rows, empty="No tokens.")


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(help="Token id, from `agent list`.", metavar="TOKEN-ID")],
    data_dir: DataDirOption = None,
) -> None:
    """End a token; agents that use it are disconnected at once and stop.

    Example: kici-admin agent revoke TOKEN-ID
    """
    with errors_as_exit_codes():
        call(data_dir, "DELETE", f"/agent-tokens/{token}")
        print("revoked")
