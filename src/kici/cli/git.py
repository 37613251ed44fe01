"""The little that commands ask git: where the repository is, and which branch is the default one."""

import subprocess
from pathlib import Path


def repository_root() -> Path:
    """The working tree's top; the current folder outside a repository."""
    top = ask("rev-parse", "--show-toplevel")
    return Path(top) if top else Path.cwd()


def default_branch(root: Path) -> str:
    """What the remote says, else the branch that is checked out, else main."""
    remote = ask("-C", str(root), "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    if remote:
        return remote.removeprefix("origin/")
    return ask("-C", str(root), "symbolic-ref", "--short", "HEAD") or "main"


def ask(*arguments: str) -> str:
    """The output of git, empty when it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
