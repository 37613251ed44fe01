"""`kici hook install` (AU-105): into git's own hook or into the file of the manager that is there."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kici.cli.hook import COMMAND, MARKER
from kici.cli.main import app

pytestmark = pytest.mark.process


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def install(folder: Path, *arguments: str) -> str:
    before = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, ["hook", "install", *arguments])
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repo"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    return folder


def test_gits_own_hook_runs_before_the_commit_and_is_written_once(repository: Path) -> None:
    """AU-105: the marker makes a second installation harmless; a failing compile stops the commit."""
    assert "created" in install(repository)
    assert "already there" in install(repository)
    hook = repository / ".git/hooks/pre-commit"
    assert hook.read_text().count(MARKER) == 1
    tools = repository.parent / "bin"
    tools.mkdir()
    kici = tools / "kici"
    kici.write_text(
        "#!/bin/sh\necho \"$@\" >> ../called; mkdir -p .kici; echo '{}' > .kici/kici.lock.json\n"
    )
    kici.chmod(0o755)
    (repository / "a").write_text("a")
    git(repository, "add", "a")
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GIT_AUTHOR_NAME": "A"}
    commit = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-qm", "one"]
    subprocess.run(commit, cwd=repository, env=env, check=True)
    assert (repository.parent / "called").read_text() == "compile\n"
    assert ".kici/kici.lock.json" in git(repository, "ls-files")
    kici.write_text("#!/bin/sh\nexit 1\n")
    (repository / "b").write_text("b")
    git(repository, "add", "b")
    assert subprocess.run(commit, cwd=repository, env=env, check=False).returncode == 1


def test_a_worktree_gets_the_hook_of_its_repository(repository: Path) -> None:
    """AU-105: worktrees work."""
    git(repository, "commit", "-q", "--allow-empty", "-m", "one")
    git(repository, "worktree", "add", "-q", str(repository.parent / "tree"))
    install(repository.parent / "tree")
    assert MARKER in (repository / ".git/hooks/pre-commit").read_text()


def test_what_a_hook_did_before_it_still_does(repository: Path) -> None:
    hook = repository / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/bash\nexec ./checks\n")
    assert "updated" in install(repository)
    assert hook.read_text().splitlines()[0] == "#!/bin/bash"
    assert hook.read_text().index(COMMAND) < hook.read_text().index("exec ./checks")


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (
            ".pre-commit-config.yaml",
            "repos:\n  - repo: https://example.org/x\n    hooks: []\n",
            "- id: kici-compile",
        ),
        (
            ".pre-commit-config.yaml",
            "repos:\n- repo: https://example.org/x\n  hooks: []\n",
            "- repo: local",
        ),
        ("lefthook.yml", "pre-commit:\n  commands:\n    lint:\n      run: make lint\n", "kici-compile:"),
        ("lefthook.yml", "pre-push:\n  commands: {}\n", "kici-compile:"),
    ],
)
def test_a_manager_gets_an_entry_in_its_file(repository: Path, name: str, before: str, after: str) -> None:
    """AU-105: pre-commit, prek and lefthook; what stood there stays."""
    import yaml

    (repository / name).write_text(before)
    assert "updated" in install(repository)
    assert "already there" in install(repository)
    text = (repository / name).read_text()
    assert after in text
    document = yaml.safe_load(text)
    assert document
    if "repos" in document:
        assert [entry["repo"] for entry in document["repos"]] == ["local", "https://example.org/x"]
    else:
        assert "kici-compile" in document["pre-commit"]["commands"]


def test_husky_and_the_way_round_it(repository: Path) -> None:
    """AU-105: --git writes git's own hook whatever manager is there."""
    (repository / ".husky").mkdir()
    assert ".husky/pre-commit" in install(repository)
    assert ".git/hooks/pre-commit" in install(repository, "--git")


def test_a_hook_that_is_no_shell_script_is_left_alone(repository: Path) -> None:
    hook = repository / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/usr/bin/env python3\nprint(1)\n")
    before = Path.cwd()
    os.chdir(repository)
    try:
        done = CliRunner().invoke(app, ["hook", "install"])
    finally:
        os.chdir(before)
    assert done.exit_code == 1
    assert COMMAND in done.output
    assert hook.read_text().endswith("print(1)\n")
