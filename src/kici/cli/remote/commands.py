"""The command itself: from its options to an exit code (AU-136)."""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kici.cli.errors import DRIFT, FAILED, INTERRUPTED, USAGE, errors_as_exit_codes
from kici.spec.errors import InvalidInput

if TYPE_CHECKING:
    from kici.cli.remote.report import RemoteReport


def run_remote_command(
    event: Annotated[
        str | None,
        typer.Argument(
            metavar="[FIXTURE|GLOB|EVENT]", help="A fixture's id, a glob over ids, or push, pr, …"
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every fixture of .kici/tests.")] = False,
    pick: Annotated[bool, typer.Option("-p", "--pick", help="Choose a trigger from a list.")] = False,
    workflow: Annotated[
        str | None, typer.Option("--workflow", help="Only this workflow, whatever its triggers say.")
    ] = None,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="Fixtures at once, not up to the first failure.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Start, print the URL, and leave.")] = False,
    org: Annotated[str | None, typer.Option("--org", help="Name or id; else the active one.")] = None,
    orchestrator: Annotated[
        str | None, typer.Option("--orchestrator", help="Cluster; else the saved one, or the only one.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY=VALUE", help="A secret, over those of .kici. Repeatable."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="Also the secrets of this section of .kici/.secrets. Repeatable."),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="KEY=VALUE", help="A typed input of a dispatch. Repeatable."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Send the whole working tree, not the difference to a commit there."),
    ] = False,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="Narrow runs_on_all to these hosts. Repeatable.")
    ] = None,
    target_allow_empty: Annotated[
        bool, typer.Option("--target-allow-empty", help="No host at all skips the job.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: steps with a check say what they would do.")
    ] = False,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="With --check: exit 3 when something would change.")
    ] = False,
    approve_all: Annotated[
        bool, typer.Option("--approve-all", "--yes", help="Approve what this run asks approval for.")
    ] = False,
    show_history: Annotated[
        bool, typer.Option("--history", help="List the remote runs that this machine started.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No output of jobs, only how they end.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One document on stdout, all else on stderr.")
    ] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the outcome of every step as JUnit XML.")
    ] = None,
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run workflows of the working tree, uncommitted changes included, on the server's agents.

    Example: kici run remote push --workflow ci
    """
    with errors_as_exit_codes():
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        if no_color:
            os.environ["NO_COLOR"] = "1"
        if show_history:
            _print_history(as_json=as_json)
            return
        if fail_on_drift and not check:
            raise InvalidInput("--fail-on-drift goes with --check")
        if sum((every, pick, event is not None)) > 1:
            raise InvalidInput("give one of: an event or fixture, --all, --pick")

        from kici.cli.client import find_target
        from kici.cli.local.commands import pairs
        from kici.cli.local.compiling import CompileFailed
        from kici.cli.local.places import kici_folder
        from kici.cli.local.screen import Screen
        from kici.cli.remote.session import Interrupted, Wishes, prepare, run_remote

        wishes = Wishes(
            folder=kici_folder(kici_dir),
            event=event,
            workflow=workflow,
            every=every,
            pick=pick,
            parallel=parallel,
            wait=not no_wait,
            org=org,
            cluster=orchestrator,
            env=env or [],
            contexts=context or [],
            inputs=pairs("--input", inputs),
            full=full,
            targets=target or [],
            target_allow_empty=target_allow_empty,
            approve_all=approve_all,
            check_mode="check-fail-on-drift" if fail_on_drift else "check" if check else "apply",
            progress=not (quiet or as_json),
        )
        found = find_target(data_dir=data_dir)
        screen = Screen((sys.stderr if as_json else sys.stdout).buffer, quiet=quiet)
        try:
            report = asyncio.run(run_remote(wishes, found, prepare(wishes), screen))
        except CompileFailed:
            raise typer.Exit(USAGE) from None
        except Interrupted:
            raise typer.Exit(INTERRUPTED) from None
        _tell(report, as_json=as_json, junit=junit)
    if report.interrupted:
        raise typer.Exit(INTERRUPTED)
    if fail_on_drift and any(run.drifted for fixture in report.fixtures for run in fixture.runs):
        raise typer.Exit(DRIFT)
    if any(fixture.bad_input for fixture in report.fixtures):
        raise typer.Exit(USAGE)
    if not report.ok:
        raise typer.Exit(FAILED)


def _tell(report: "RemoteReport", *, as_json: bool, junit: Path | None) -> None:
    if junit is not None:
        from kici.cli.local.junit import Rejected, document

        runs = [run for fixture in report.fixtures for run in fixture.runs]
        rejected = [
            Rejected(name=fixture.fixture, message=fixture.message or fixture.status)
            for fixture in report.fixtures
            if fixture.status != "accepted"
        ]
        try:
            junit.write_bytes(document(runs, rejected=rejected))
        except OSError as error:
            raise InvalidInput(f"--junit {junit}: {error.strerror}") from None
    if as_json:
        from kici.cli.output import emit

        emit(report)


def _print_history(*, as_json: bool) -> None:
    from kici.cli.output import emit, table
    from kici.cli.remote.history import entries
    from kici.cli.runs.words import ago, colour, mark, utc_now

    found = entries()
    if as_json:
        emit({"runs": found})
        return
    if not found:
        print("No remote run was started from this machine.")
        return
    now = utc_now()
    table(
        ("status", "workflow", "fixture", "branch", "when", "run"),
        (
            (
                f"[{colour(run.status)}]{mark(run.status)} {run.status}[/]",
                run.workflow,
                run.fixture,
                run.branch,
                ago(datetime.fromtimestamp(run.started_at_ms / 1000, UTC).isoformat(), now),
                run.run_id,
            )
            for run in found
        ),
        squeezed=("workflow", "fixture", "branch"),
    )
