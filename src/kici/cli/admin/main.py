"""`kici-admin`: mounts the command groups."""

import typer

from kici.cli.admin import agents, deliveries, events, runs, sources

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Operate an orchestrator: sources, runs, agents, queue, events.",
)
app.add_typer(sources.app, name="source")
app.add_typer(runs.app, name="runs")
app.add_typer(runs.queue, name="queue")
app.add_typer(deliveries.app, name="event-log")
app.add_typer(deliveries.registrations, name="registration")
app.add_typer(agents.app, name="agent")
app.add_typer(events.dlq, name="event-dlq")
app.add_typer(events.events, name="event")
app.add_typer(events.trust, name="trust")


def main() -> None:
    app(prog_name="kici-admin")


if __name__ == "__main__":
    main()
