"""`kici run local|remote`: the working tree here, or on a server's agents."""

import typer

from kici.cli.local import run_local_command
from kici.cli.remote.commands import run_remote_command

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Run workflows of the working tree.")
app.command("local")(run_local_command)
app.command("remote")(run_remote_command)
