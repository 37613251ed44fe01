"""`kici hook install`: compile and stage the lock file before every commit (AU-105).

Where a hook manager already has the repository, its file gets an entry; else git's own hook does. A marker
comment makes a second installation harmless.
"""

import os
import re
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from kici.cli.errors import errors_as_exit_codes
from kici.cli.git import ask
from kici.spec.errors import KiciError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="A git hook that keeps the lock file fresh."
)

MARKER = "kici: compile and stage the lock file"
COMMAND = "kici compile && git add .kici/kici.lock.json"

_SHELL = f"# {MARKER}\n{COMMAND} || exit 1\n"
_PRE_COMMIT = f"""\
  # {MARKER}
  - repo: local
    hooks:
      - id: kici-compile
        name: kici compile
        entry: sh -c '{COMMAND}'
        language: system
        files: ^\\.kici/
        pass_filenames: false
"""
_LEFTHOOK = f"""\
# {MARKER}
pre-commit:
  commands:
    kici-compile:
      glob: ".kici/**"
      run: {COMMAND}
"""


class HookNotInstalled(KiciError):
    code: ClassVar[str] = "hook_not_installed"


@app.callback()
def hook() -> None:
    """A git hook that keeps the lock file fresh."""


@app.command("install")
def install_command(
    git: Annotated[bool, typer.Option("--git", help="git's own hook, whatever manager there is.")] = False,
) -> None:
    """Compile and stage the lock file before every commit.

    Knows pre-commit, prek, lefthook and husky; else it writes git's own hook.

    Example: kici hook install
    """
    with errors_as_exit_codes():
        top = ask("rev-parse", "--show-toplevel")
        if not top:
            raise HookNotInstalled(
                "this is no git repository: run it where you commit, or `git init` first"
            )
        print(install(Path(top), prefer_git=git))


def install(root: Path, *, prefer_git: bool) -> str:
    """One line that says what happened. Raises HookNotInstalled."""
    if not prefer_git:
        for name in (".pre-commit-config.yaml", ".pre-commit-config.yml"):
            if (root / name).is_file():  # pre-commit and prek read the same file
                return _extend_pre_commit(root / name)
        for name in ("lefthook.yml", "lefthook.yaml", ".lefthook.yml", ".lefthook.yaml"):
            if (root / name).is_file():
                return _extend_lefthook(root / name)
        if (root / ".husky").is_dir():
            return _extend_script(root / ".husky" / "pre-commit", shebang="")
    path = ask(
        "-C", str(root), "rev-parse", "--git-path", "hooks/pre-commit"
    )  # also in worktrees, submodules
    if not path:
        raise HookNotInstalled("git does not say where its hooks are")
    return _extend_script(root / path, shebang="#!/bin/sh\n")


def _extend_script(path: Path, *, shebang: str) -> str:
    before = path.read_text("utf-8") if path.exists() else ""
    if MARKER in before:
        return f"already there: {path}"
    first = before.splitlines()[0] if before else ""
    if first.startswith("#!") and not re.search(r"\b(ba|da|z|k)?sh\b", first):
        raise HookNotInstalled(
            f"{path} is a program of its own ({first}); call `{COMMAND}` from it, or move it aside"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Before what is there: a script may end with exec or exit.
    head, rest = (first + "\n", before[len(first) + 1 :]) if first.startswith("#!") else (shebang, before)
    _write(path, f"{head}{_SHELL}{rest}")
    path.chmod(0o755)
    return f"{'updated' if before else 'created'}: {path}"


def _extend_pre_commit(path: Path) -> str:
    before = path.read_text("utf-8")
    if MARKER in before:
        return f"already there: {path}"
    found = re.search(r"^repos:[ \t]*(#.*)?\n", before, re.MULTILINE)
    if found is None:
        raise HookNotInstalled(
            f"{path} has no line `repos:` that opens a list; add by hand:\n{_PRE_COMMIT}"
        )
    entry = _PRE_COMMIT
    if re.match(r"-", before[found.end() :]):  # the file does not indent its list
        entry = "".join(line[2:] for line in _PRE_COMMIT.splitlines(keepends=True))
    _write(path, before[: found.end()] + entry + before[found.end() :])
    return f"updated: {path}"


def _extend_lefthook(path: Path) -> str:
    before = path.read_text("utf-8")
    if MARKER in before:
        return f"already there: {path}"
    commands = re.search(
        r"^pre-commit:[ \t]*\n(?:[ \t]+.*\n)*?([ \t]+)commands:[ \t]*\n", before, re.MULTILINE
    )
    if commands is not None:
        unit = commands[1]
        entry = (
            f"{unit * 2}# {MARKER}\n{unit * 2}kici-compile:\n"
            f'{unit * 3}glob: ".kici/**"\n{unit * 3}run: {COMMAND}\n'
        )
        _write(path, before[: commands.end()] + entry + before[commands.end() :])
        return f"updated: {path}"
    if re.search(r"^pre-commit:", before, re.MULTILINE):
        raise HookNotInstalled(f"{path} has a `pre-commit:` without `commands:`; add by hand:\n{_LEFTHOOK}")
    _write(path, before + ("" if not before or before.endswith("\n") else "\n") + _LEFTHOOK)
    return f"updated: {path}"


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".kici-tmp")
    scratch.write_text(text, "utf-8")
    if path.exists():
        scratch.chmod(path.stat().st_mode & 0o777)
    os.replace(scratch, path)
