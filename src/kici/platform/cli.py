"""`kici-platform [serve] | --version | --check-config`."""

import os
import sys

import typer

from kici.runtime import logging
from kici.runtime.settings import BadSettings, load

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The KiCI Platform: people, webhooks, dashboard.",
)


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


def _settings():  # noqa: ANN202  the type would import the settings of a server into --version
    from kici.platform.settings import PlatformSettings, trusted_networks

    try:
        settings = load(PlatformSettings, os.environ)
        trusted_networks(settings.trusted_proxies)
    except BadSettings as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    return settings


@app.command()
def serve() -> None:
    """Run until SIGTERM."""
    import uvloop

    from kici.platform import app as root
    from kici.spec.errors import KiciError

    settings = _settings()
    logging.configure(
        "platform", settings.platform_instance_id, level=settings.log_level, style=settings.log_format
    )
    try:
        uvloop.run(root.serve(settings))
    except KiciError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    except Exception as error:  # the log is where people look
        logging.get_logger(__name__).error("platform.failed", exc_info=error)
        raise typer.Exit(1) from None


def main() -> None:
    app()
