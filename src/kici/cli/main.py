"""`kici`: the author's and newcomer's command. Each command's module is imported when it is asked for,
so that `kici --help` stays quick and an agent's image needs no server code."""

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

# Section → name → (module, one line of help). The module has a Typer app `app`: a group of that name, or one
# that holds this command among others.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Write workflows": {
        "init": ("kici.cli.init", "Set up .kici/ in this repository"),
        "compile": ("kici.cli.author", "Compile .kici/workflows to .kici/kici.lock.json"),
        "preview": ("kici.cli.preview", "Show what an event would start, and why"),
        "run": ("kici.cli.run", "Run the working tree here or on a server: `run local push`"),
        "fixture": ("kici.cli.fixture", "Payload of an event, or a fixture to begin with"),
        "endpoints": ("kici.cli.endpoints", "Webhooks, schedules and events of the workflows"),
        "types": ("kici.cli.types", "Write types for secret names"),
        "hook": ("kici.cli.hook", "Compile before every commit: `hook install`"),
        "explain": ("kici.cli.author", "Explain an error code"),
        "docs": ("kici.cli.docs", "Open the documentation, or print it for a model"),
    },
    "Follow runs": {
        "runs": ("kici.cli.runs", "List, show, watch, follow, cancel and repeat runs"),
        "approve": ("kici.cli.holds", "Agree to what a run waits for"),
        "reject": ("kici.cli.holds", "Refuse what a run waits for"),
        "workflows": ("kici.cli.workflows", "Workflows that the server knows"),
        "secrets": ("kici.cli.secrets", "Names of secrets that test runs may use"),
        "verify-attestation": ("kici.cli.attestation", "Check the build provenance of a file"),
    },
    "Sign in": {
        "login": ("kici.cli.login", "Sign this machine in"),
        "logout": ("kici.cli.login", "Revoke this machine's token and forget it"),
        "whoami": ("kici.cli.login", "Who you are, where, and until when"),
        "org": ("kici.cli.account", "Organizations: list, use, current"),
        "orchestrators": ("kici.cli.account", "Orchestrator clusters: list, use"),
        "pat": ("kici.cli.account", "Make a personal access token"),
    },
    "Run a server": {
        "up": ("kici.cli.up.commands", "Start Platform, orchestrator, agents and PostgreSQL here"),
        "down": ("kici.cli.up.commands", "Stop what `kici up` started"),
        "status": ("kici.cli.up.commands", "What runs here, where, and how much memory it takes"),
        "reset": ("kici.cli.up.commands", "Delete the data directory"),
        "diagnostics": ("kici.cli.diagnostics", "Runs of the last day, alerts, orchestrators and agents"),
        "doctor": ("kici.cli.doctor", "Check this machine, this repository and the server"),
        "admin": ("kici.cli.drain", "Drain a worker; `kici-admin` has the rest"),
        "version": ("kici.cli.version", "Version and the six build fields"),
    },
}
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


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
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])
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
