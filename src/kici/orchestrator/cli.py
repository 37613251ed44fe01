"""`kici-orchestrator [serve] | --version | --check-config | admin-token NAME`."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from kici.orchestrator.settings import OrchestratorSettings

app = typer.Typer(add_completion=False, help="The KiCI orchestrator: events, runs, queue, logs.")


@app.callback(invoke_without_command=True)
def default(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
    check_config: bool = typer.Option(False, "--check-config", help="Read the settings and end."),
) -> None:
    if version:
        from kici.runtime.buildinfo import build_info

        print(build_info().version)
        raise typer.Exit
    if check_config:
        _settings()
        print("configuration ok")
        raise typer.Exit
    if context.invoked_subcommand is None:
        serve()


def _settings() -> "OrchestratorSettings":
    from kici.orchestrator.settings import OrchestratorSettings, problems
    from kici.runtime.settings import BadSettings, load

    try:
        settings = load(OrchestratorSettings, os.environ)
        found = problems(settings)
        if found:
            raise BadSettings(found)
    except BadSettings as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    return settings


@app.command()
def serve() -> None:
    """Run until SIGTERM."""
    import uvloop

    from kici.orchestrator import app as root
    from kici.runtime import logging
    from kici.spec.errors import KiciError

    settings = _settings()
    instance_id = root.instance_id_of(settings)
    logging.configure("orchestrator", instance_id, level=settings.log_level, style=settings.log_format)
    try:
        uvloop.run(root.serve(settings, instance_id))
    except KiciError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


@app.command("admin-token")
def admin_token(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    role: Annotated[str, typer.Option(help="owner, admin or auditor.")] = "owner",
) -> None:
    """Make a token for kici-admin and print it, once. Needs the settings of the orchestrator."""
    import asyncio
    import secrets

    from kici.orchestrator.db.bootstrap import add_admin_token
    from kici.runtime.database import connect

    roles: tuple[Literal["owner", "admin", "auditor"], ...] = ("owner", "admin", "auditor")
    if role not in roles:
        print(f"error: a role is {', '.join(roles)}", file=sys.stderr)
        raise typer.Exit(2)
    settings = _settings()
    token = f"kici_admin_{secrets.token_hex(32)}"

    async def insert() -> None:
        engine = connect(
            settings.database_url, pool_size=1, application_name="kici-orchestrator admin-token"
        )
        try:
            async with engine.begin() as tx:
                await add_admin_token(tx, token, name=name, role=role)
        finally:
            await engine.dispose()

    asyncio.run(insert())
    print(token)


def main() -> None:
    app()
