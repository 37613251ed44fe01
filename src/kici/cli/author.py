"""`kici compile`, `kici explain`: an author's way to a committed lock file."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.spec.errors import InvalidInput

if TYPE_CHECKING:
    from kici.compiler.pipeline import Compiled
    from kici.sdk.problems import Problem
    from kici.spec.lock import CompilerInfo

app = typer.Typer(add_completion=False, no_args_is_help=True)


class Format(StrEnum):
    TEXT = "text"
    JSON = "json"
    GITHUB = "github"


class UnknownCode(InvalidInput):
    """Not a code of the compiler."""


class NoKiciDir(InvalidInput):
    """`--kici-dir` names something else."""


@app.command("compile")
def compile_command(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the lock file is out of date.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings are errors.")] = False,
    no_sync: Annotated[
        bool, typer.Option("--no-sync", help="Leave the dependencies of .kici as they are.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Compile again whenever something in .kici changes.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also list the workflows and what they are made of.")
    ] = False,
    format: Annotated[Format, typer.Option("--format", help="How to print problems.")] = Format.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Compile .kici/workflows to .kici/kici.lock.json.

    Example: kici compile --check
    """
    with errors_as_exit_codes():
        _set_debug(debug)
        shown = Format.JSON if as_json else format
        if watch and (check or shown is Format.JSON):
            raise InvalidInput("--watch goes with neither --check nor --json")
        asked = _Asked(
            folder=find_kici_dir(kici_dir),
            check=check,
            strict=strict,
            sync=not no_sync,
            verbose=verbose,
            shown=shown,
        )
        failed = _watch(asked) if watch else _compile(asked)
    if failed:
        raise typer.Exit(FAILED)


@app.command("explain")
def explain_command(
    code: Annotated[str, typer.Argument(help="A code such as E102.")],
) -> None:
    """Explain an error code: cause, example, remedy.

    Example: kici explain E102
    """
    with errors_as_exit_codes():
        from kici.compiler.codes import explanations
        from kici.sdk.problems import nearest

        known = explanations()
        found = known.get(code.upper())
        if found is None:
            guess = nearest(code.upper(), known)
            raise UnknownCode(
                f"{code} is no code of the compiler" + (f"; did you mean {guess}?" if guess else "")
            )
        print(f"{code.upper()}: {found.title}\n\n{found.cause}")
        if found.example:
            indented = "\n".join(f"    {line}" for line in found.example.rstrip("\n").split("\n"))
            print(f"\nExample:\n\n{indented}")
        print(f"\nRemedy: {found.remedy}")


def find_kici_dir(given: Path | None) -> Path:
    """The `.kici` that a command works on. Raises NoKiciDir for a wrong `given`, LockIsFolder; the default may
    not exist."""
    from kici.compiler.content import KICI_DIR, LOCK_NAME
    from kici.compiler.pipeline import find_kici_dir as search

    if given is not None and (given.name != KICI_DIR or not given.is_dir()):
        raise NoKiciDir(f"--kici-dir {given}: not a folder named {KICI_DIR}")
    folder = given or search(Path.cwd()) or Path.cwd() / KICI_DIR
    if (folder / LOCK_NAME).is_dir():
        raise LockIsFolder(f"{KICI_DIR}/{LOCK_NAME} is a folder: remove it, then run `kici compile`")
    return folder


def compiler_info() -> "CompilerInfo":
    """Which build compiles; the environment's Python range is filled in later."""
    from kici.runtime.buildinfo import build_info
    from kici.spec.lock import CompilerInfo

    build = build_info()
    return CompilerInfo(
        sdk_version=build.sdk_version, sdk_bundle_hash=build.sdk_bundle_hash, requires_python=""
    )


class LockIsFolder(InvalidInput):
    """Where the lock file belongs there is something else."""


class _Asked(NamedTuple):
    """What one call of `kici compile` wants."""

    folder: Path
    check: bool
    strict: bool
    sync: bool
    verbose: bool
    shown: Format


def _watch(asked: _Asked) -> bool:
    """Until Ctrl-C, which ends it well: False."""
    from kici.compiler.watching import snapshot, wait_for_change
    from kici.spec.errors import KiciError

    seen = snapshot(asked.folder)
    try:
        while True:
            try:
                _compile(asked)
            except KiciError as error:  # the dependencies cannot be synced: the next change may help
                print(f"error: {error}", file=sys.stderr)
            sys.stdout.flush()
            seen = wait_for_change(asked.folder, seen)
    except KeyboardInterrupt:
        return False


def _compile(asked: _Asked) -> bool:
    """Whether it failed. Problems go to stderr, or to stdout where a program reads them."""
    from kici.cli.local.places import warn_below_top
    from kici.compiler import lockfile
    from kici.compiler.content import LOCK_NAME
    from kici.compiler.pipeline import check_against_disk, compile_repository

    folder = asked.folder
    misplaced = warn_below_top(folder)
    compiled = compile_repository(
        folder,
        compiler=compiler_info(),
        announce=(lambda line: print(line, file=sys.stderr)) if asked.sync else None,
    )
    problems = list(compiled.problems)
    stale = check_against_disk(folder, compiled) if asked.check else None
    if stale is not None:
        problems.append(stale)
    fatal = (
        compiled.document is None
        or stale is not None
        or (asked.strict and (misplaced or any(problem.severity == "warning" for problem in problems)))
    )
    changed = False
    if not fatal and not asked.check and compiled.data is not None:
        changed = lockfile.write(folder / LOCK_NAME, compiled.data)
        if asked.sync:
            _refresh_types(folder)
    if compiled.output:
        sys.stderr.write(compiled.output)
    _print(compiled, problems, asked, fatal=fatal, changed=changed)
    return fatal


def _refresh_types(folder: Path) -> None:
    """For people who are signed in; that it fails is worth a line, and no more."""
    from kici.cli.config import load
    from kici.spec.errors import KiciError

    if not load().token:
        return
    from kici.cli.types import refresh

    try:
        refresh(folder)
    except (KiciError, OSError) as error:
        print(f"warning: .kici/types is as it was: {error}", file=sys.stderr)


def _print(
    compiled: "Compiled", problems: Sequence["Problem"], asked: _Asked, *, fatal: bool, changed: bool
) -> None:
    from kici.compiler import rendering
    from kici.spec.lock import LOCK_PATH

    names = [workflow.name for workflow in compiled.document.workflows] if compiled.document else []
    if asked.shown is Format.JSON:
        import msgspec

        document = {
            "ok": not fatal,
            "lockFile": LOCK_PATH,
            "changed": changed,
            "contentHash": compiled.document.content_hash if compiled.document else None,
            "workflows": names,
            "problems": [rendering.as_object(problem) for problem in problems],
        }
        print(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    for problem in problems:
        if asked.shown is Format.GITHUB:
            print(rendering.as_annotation(problem))
        else:
            print(rendering.as_text(problem), file=sys.stderr)
    if fatal:
        print(f"✗ {rendering.summary(problems)}", file=sys.stderr)
        return
    count = f"{len(names)} workflow{'s' if len(names) != 1 else ''}"
    if asked.check:
        print(f"✓ {LOCK_PATH} is up to date ({count})")
    else:
        print(f"✓ Compiled workflows → {LOCK_PATH} ({count}{'' if changed else ', unchanged'})")
    if asked.verbose and compiled.document is not None:
        print("\n".join(rendering.contents(compiled.document)))


def _set_debug(debug: bool) -> None:
    if debug:
        os.environ["KICI_DEBUG"] = "true"
