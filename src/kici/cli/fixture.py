"""`kici fixture`: the payload of an event, or a fixture to begin with (AU-121)."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kici.cli.errors import errors_as_exit_codes
from kici.spec.errors import InvalidInput

if TYPE_CHECKING:
    from kici.cli.events import Named
    from kici.cli.local.repository import Repository
    from kici.spec.triggers import Trigger

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.command("fixture")
def fixture_command(
    event: Annotated[str, typer.Argument(help="An event word: push, pr:sync, release:published, …")],
    output: Annotated[Path | None, typer.Option("--output", help="Write to this file.")] = None,
    python: Annotated[
        bool, typer.Option("--python", help="A fixture for .kici/tests instead of a payload.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file of --output.")] = False,
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Print the payload of an event as JSON, or a fixture in Python.

    Example: kici fixture pr --output pr.json
    """
    with errors_as_exit_codes():
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        from kici.cli.local.places import kici_folder
        from kici.cli.local.repository import NoRepository, Repository

        folder = kici_folder(kici_dir)
        try:
            repository = Repository(folder.parent)
        except NoRepository:
            repository = None
        triggers = _known_triggers(folder)
        text = (
            _stub(event, triggers) if python else _payload(event, triggers, repository, folder.parent.name)
        )
        if output is None:
            sys.stdout.write(text)
            return
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            device = output.exists() and not output.is_file()  # /dev/stdout
            with output.open("w" if force or device else "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise InvalidInput(f"--output {output}: it exists; --force overwrites it") from None
        except OSError as error:
            raise InvalidInput(f"--output {output}: {error.strerror}") from None
        print(f"✓ {output}")


def _payload(word: str, triggers: "list[Named]", repository: "Repository | None", folder_name: str) -> str:
    """The event's body as `--payload` takes it."""
    import msgspec

    from kici.cli.events import Given, make_occasion

    without_tags = word == "tag" and not (repository and repository.newest_tag("HEAD"))
    event = make_occasion(
        word,
        repository,
        folder_name=folder_name,
        triggers=triggers,
        given=Given(branch="v1.0.0" if without_tags else None),
    ).event
    payload: Any = event.payload["payload"] if event.type == "kici_event" else event.payload
    return msgspec.json.format(msgspec.json.encode(payload), indent=2).decode() + "\n"


def _known_triggers(folder: Path) -> "list[Named]":
    """Those of the lock file as it stands; a repository without one has none yet."""
    import msgspec

    from kici.compiler.content import LOCK_NAME
    from kici.spec.lock import LockFile

    try:
        document = msgspec.json.decode((folder / LOCK_NAME).read_bytes(), type=LockFile)
    except (OSError, msgspec.DecodeError):
        return []
    return [(workflow.name, trigger) for workflow in document.workflows for trigger in workflow.triggers]


_STUB = '''\
"""Events to try workflows with: `kici run local {id}`, `kici preview {id}`."""

from kici import fixture, {factory}

{name} = fixture("{id}", event={factory}({arguments}))
'''


def _stub(word: str, triggers: "list[Named]") -> str:
    """A module with one fixture whose trigger is written out."""
    from kici.cli.events import trigger_for

    kind, _, detail = word.partition(":")
    trigger = trigger_for(word, triggers)
    factory = _FACTORIES.get(kind, kind)
    id = "-".join(filter(None, ["sample", kind, detail])).replace("_", "-").lower()
    name = "".join(letter if letter.isalnum() else "_" for letter in id)
    arguments = ", ".join(f"{key}={value!r}" for key, value in _arguments(trigger).items())
    return _STUB.format(id=id, name=name, factory=factory, arguments=arguments)


_FACTORIES = {"webhook": "generic_webhook", "webhook_event": "webhook", "pull_request": "pr"}


def _arguments(trigger: "Trigger") -> dict[str, Any]:
    """What the factory of the SDK is called with to make this trigger again; regexes become globs of one."""
    from kici.cli.samples import matching
    from kici.spec.triggers import InputField, Pattern

    found: dict[str, Any] = {}
    for field in trigger.__struct_fields__:
        value: Any = getattr(trigger, field)
        if not value or field in {"description", "auth"} or (field, value) == ("timezone", "UTC"):
            continue
        first = value[0] if isinstance(value, list) else None
        if isinstance(first, InputField):
            continue
        if isinstance(first, Pattern):
            patterns = [entry.pattern for entry in value if entry.type == "glob"]
            patterns = patterns or [matching(value) or "main"]
            value = patterns[0] if len(patterns) == 1 else patterns
        found[field] = value
    return found
