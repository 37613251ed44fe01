"""`kici`: the author's and newcomer's command. Each command's module is imported when it is asked for,
so that `kici --help` stays quick and an agent's image needs no server code."""

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

# name → (module, attribute: a Typer app with subcommands or one holding this command, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("kici.cli.up.commands", "Start Platform, orchestrator, agents and PostgreSQL on this machine"),
    "down": ("kici.cli.up.commands", "Stop what `kici up` started"),
    "status": ("kici.cli.up.commands", "What runs here, where, and how much memory it takes"),
    "reset": ("kici.cli.up.commands", "Delete the data directory"),
    "init": ("kici.cli.init", "Set up .kici/ in this repository"),
    "compile": ("kici.cli.author", "Compile .kici/workflows to .kici/kici.lock.json"),
    "hook": ("kici.cli.hook", "Compile before every commit: `kici hook install`"),
    "explain": ("kici.cli.author", "Explain an error code"),
    "run": ("kici.cli.run", "Run the working tree: `kici run local push`, `kici run remote push`"),
    "preview": ("kici.cli.preview", "Show what an event would start, and why"),
    "fixture": ("kici.cli.fixture", "Payload of an event, or a fixture to begin with"),
    "runs": ("kici.cli.runs", "List, show, watch, follow, cancel and repeat runs"),
    "approve": ("kici.cli.holds", "Agree to what a run waits for"),
    "reject": ("kici.cli.holds", "Refuse what a run waits for"),
    "workflows": ("kici.cli.workflows", "Workflows that the server knows"),
    "endpoints": ("kici.cli.endpoints", "Webhooks, schedules and events of the compiled workflows"),
    "secrets": ("kici.cli.secrets", "Names of secrets that test runs may use"),
    "types": ("kici.cli.types", "Write types for secret names"),
    "diagnostics": ("kici.cli.diagnostics", "Runs of the last day, alerts, orchestrators and agents"),
    "doctor": ("kici.cli.doctor", "Check this machine, this repository and the server"),
    "verify-attestation": ("kici.cli.attestation", "Check build provenance of a file"),
    "admin": ("kici.cli.drain", "Drain a worker; `kici-admin` has the rest"),
    "login": ("kici.cli.login", "Sign this machine in"),
    "logout": ("kici.cli.login", "Revoke this machine's token and forget it"),
    "whoami": ("kici.cli.login", "Who you are, where, and until when"),
    "org": ("kici.cli.account", "Organizations: list, use, current"),
    "orchestrators": ("kici.cli.account", "Orchestrator clusters: list, use"),
    "pat": ("kici.cli.account", "Make a personal access token"),
    "version": ("kici.cli.version", "Version and the six build fields"),
}


class LazyGroup(TyperGroup):
    """Knows every command's name and help line without importing any."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(entry[0])
        command: Any = typer.main.get_command(module.app)
        # A module holds either one group of this name or several commands, this one among them.
        inner = getattr(command, "commands", {}).get(cmd_name)
        return inner if inner is not None else command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        formatter.write_usage("kici", "COMMAND [ARGS]…")
        formatter.write_paragraph()
        formatter.write_text("Self-hosted CI/CD whose workflows are plain, typed Python.")
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        formatter.write_paragraph()
        formatter.write_text("Start with `kici up`. Each command explains itself with --help.")


app = typer.Typer(cls=LazyGroup, add_completion=True, no_args_is_help=True)


@app.callback()
def root() -> None:
    """Self-hosted CI/CD whose workflows are plain, typed Python."""


def main() -> None:
    app(prog_name="kici")


if __name__ == "__main__":
    sys.exit(main())
