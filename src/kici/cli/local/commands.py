"""The command itself: from its options to an exit code (AU-136)."""

import asyncio
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kici.cli.errors import DRIFT, FAILED, INTERRUPTED, USAGE, errors_as_exit_codes
from kici.cli.printable import printable
from kici.spec.errors import InvalidInput, KiciError

if TYPE_CHECKING:
    from kici.cli.local.session import Told

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def run_group() -> None:
    """Run workflows."""


@app.command("local")
def run_local_command(
    event: Annotated[
        str | None,
        typer.Argument(
            metavar="[EVENT|FIXTURE]",
            help="push, pr:sync, release:published, kici_event:NAME, … or a fixture's id or glob. "
            "Default: the first trigger of --workflow, else push.",
        ),
    ] = None,
    pick: Annotated[
        bool, typer.Option("-p", "--pick", help="Choose a trigger from a list; its event matches.")
    ] = False,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only this workflow.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Only this job and what it needs.")] = None,
    step: Annotated[
        list[str] | None,
        typer.Option("--step", help="Only this step of the jobs that have it. Repeatable."),
    ] = None,
    matrix: Annotated[
        list[str] | None,
        typer.Option("--matrix", metavar="KEY=VALUE", help="Only these combinations. Repeatable."),
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Branch of a push, target of a PR, name of a tag.")
    ] = None,
    sha: Annotated[
        str | None, typer.Option("--sha", help="This commit instead of the working tree.")
    ] = None,
    payload: Annotated[
        Path | None, typer.Option("--payload", help="JSON file: the event's payload.")
    ] = None,
    files: Annotated[list[str] | None, typer.Option("--files", help="A changed file. Repeatable.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="KEY=VALUE", help="A typed input of a dispatch. Repeatable."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Jobs at a time. Default: CPUs.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="A failure does not stop other jobs from starting.")
    ] = False,
    container: Annotated[
        bool, typer.Option("--container", help="Jobs that name a container run in it: podman or docker.")
    ] = False,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Run the other jobs in a container of this image, too."),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="KEY=VALUE", help="A secret, over those of .kici. Repeatable."),
    ] = None,
    context: Annotated[
        list[str] | None,
        typer.Option("--context", help="Also the secrets of this section of .kici/.secrets. Repeatable."),
    ] = None,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Run in the working tree itself; needs no git.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the copies of the tree.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing: steps with a check say what they would do.")
    ] = False,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="With --check: exit 3 when something would change.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Approve whatever asks for approval.")] = False,
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
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run the workflows that an event starts, from the working tree, on this machine.

    Example: kici run local push --job test --matrix python=3.12
    """
    with errors_as_exit_codes(), _refusal_in(junit, event or workflow or "push"):
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        if no_color:
            os.environ["NO_COLOR"] = "1"
        from kici.cli.local.compiling import CompileFailed
        from kici.cli.local.places import kici_folder, refuse_below_top
        from kici.cli.local.screen import Screen
        from kici.cli.local.selection import Filters
        from kici.cli.local.session import Wishes, run_local
        from kici.cli.occasions import Given

        if fail_on_drift and not check:
            raise InvalidInput("--fail-on-drift goes with --check")
        if sha is not None and in_place:
            raise InvalidInput("--sha does not go with --in-place")
        if pick and event is not None:
            raise InvalidInput(f"either --pick or an event, not both: {event}")
        folder = kici_folder(kici_dir)
        refuse_below_top(folder)
        wishes = Wishes(
            folder=folder,
            event=event,
            workflow=workflow,
            given=Given(
                branch=branch,
                sha=sha,
                files=files or (),
                payload=read_payload(payload),
                inputs=pairs("--input", inputs),
            ),
            filters=Filters(job=job, steps=step or [], combination=pairs("--matrix", matrix)),
            pick=pick,
            concurrency=concurrency,
            keep_going=keep_going,
            in_place=in_place,
            keep=keep,
            check_mode="check-fail-on-drift" if fail_on_drift else "check" if check else "apply",
            yes=yes,
            env=env or [],
            contexts=context or [],
            containers=container,
            image=image,
        )
        screen = Screen((sys.stderr if as_json else sys.stdout).buffer, quiet=quiet)
        try:
            told = asyncio.run(run_local(wishes, screen))
        except CompileFailed:
            _write_refusal(junit, event or workflow or "push", "the workflows do not compile")
            raise typer.Exit(USAGE) from None
        _tell(told, as_json=as_json, junit=junit)
        if screen.lost is not None:
            raise screen.lost
    if told.interrupted:
        raise typer.Exit(INTERRUPTED)
    if told.drifted and fail_on_drift:
        raise typer.Exit(DRIFT)
    if not told.ok:
        raise typer.Exit(FAILED)


@contextmanager
def _refusal_in(junit: Path | None, name: str) -> Generator[None]:
    """An error that no run tells of is a failing case as well."""
    try:
        yield
    except KiciError as error:
        _write_refusal(junit, name, str(error))
        raise


def _write_refusal(junit: Path | None, name: str, message: str) -> None:
    if junit is None:
        return
    from kici.cli.local.junit import Rejected, document

    with suppress(OSError):  # what is wrong is about to be said
        junit.write_bytes(document([], rejected=[Rejected(name=name, message=message)]))


def _tell(told: "Told", *, as_json: bool, junit: Path | None) -> None:
    """What programs read. A single report is the document itself."""
    if junit is not None:
        from kici.cli.local.junit import Rejected, document

        rejected = [
            Rejected(name=report.fixture or report.event, message=report.error_message)
            for report in told.reports
            if report.error_message is not None
        ]
        try:
            junit.write_bytes(
                document([run for report in told.reports for run in report.runs], rejected=rejected)
            )
        except OSError as error:
            raise InvalidInput(f"--junit {junit}: {error.strerror}") from None
    if as_json:
        import msgspec

        shown: Any = (
            told.reports[0] if len(told.reports) == 1 else {"ok": told.ok, "fixtures": told.reports}
        )
        print(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())


def read_payload(path: Path | None) -> dict[str, Any] | None:
    """A JSON object from a file. Raises InvalidInput."""
    if path is None:
        return None
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInput(f"--payload {path}: {error}") from None


def pairs(option: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Options written KEY=VALUE. Raises InvalidInput."""
    found: dict[str, str] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidInput(f"{option} {text}: write KEY=VALUE")
        found[printable(key)] = printable(value)
    return found
