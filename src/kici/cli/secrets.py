"""`kici secrets list`: which environments a test run may use, and the names of their secrets."""

import asyncio
from typing import Annotated, Any

import typer

from kici.cli.capabilities import collection
from kici.cli.client import Client, find_target
from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import emit, table

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Names of secrets; never their values.")


@app.callback()
def secrets() -> None:
    """Names of secrets; never their values."""


@app.command("list")
def list_command(
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Environments that `kici run remote` may use, with the names of their secrets.

    Example: kici secrets list
    """

    async def body() -> list[dict[str, Any]]:
        async with Client(find_target(data_dir=data_dir)) as client:
            found = await collection(
                client, "/environments", "environments and secrets", includeSecrets=True
            )
        return [entry for entry in found["environments"] if entry["allowLocalExecution"]]

    with errors_as_exit_codes():
        usable = asyncio.run(body())
        if as_json:
            emit({"environments": usable})
        elif not usable:
            print("No environment allows local execution. Its settings have a switch for it.")
        else:
            table(
                ("environment", "secrets"),
                ((entry["name"], ", ".join(entry["secretNames"]) or "–") for entry in usable),
            )
