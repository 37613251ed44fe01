"""Pieces of `kici run local`: events from git, copies of the tree, the screen."""

import asyncio
import io
import os
import subprocess
import time
from pathlib import Path

import pytest

from kici.cli.local.repository import Repository
from kici.cli.local.screen import Screen
from kici.cli.local.workspace import Workspaces, collect


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=root, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "-q", "-b", "main")
    (root / "kept.txt").write_text("1")
    (root / "gone.txt").write_text("1")
    (root / "changed.txt").write_text("old")
    git(root, "add", ".")
    git(root, "commit", "-qm", "first")
    (root / "second.txt").write_text("1")
    git(root, "add", ".")
    git(root, "commit", "-qm", "second\n\nbody")
    git(root, "remote", "add", "origin", "git@example.org:team/project.git")
    return root


def test_a_copy_has_the_tree_as_it_is(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-113."""
    monkeypatch.setenv("KICI_RUN_DIR", str(tmp_path / "runs"))
    (tree / ".gitignore").write_text("ignored\n")
    (tree / ".kiciignore").write_text("secret\n")
    for name in ("ignored", "secret", "untracked.txt"):
        (tree / name).write_text("x")
    (tree / "changed.txt").write_text("staged")
    git(tree, "add", "changed.txt")
    (tree / "gone.txt").unlink()
    (tree / "link").symlink_to("kept.txt")
    (tree / "tool").write_text("#!/bin/sh\n")
    (tree / "tool").chmod(0o755)
    repository = Repository(tree)
    workspaces = Workspaces(tree, repository, sha=repository.head, branch="main", hash_files=[])
    place, tmp = workspaces.make(1, checkout=True)
    assert sorted(path.name for path in place.iterdir()) == [
        ".git", ".gitignore", ".kiciignore", "changed.txt", "kept.txt", "link", "second.txt", "tool",
        "untracked.txt",
    ]  # fmt: skip
    assert (place / "changed.txt").read_text() == "staged"
    assert os.readlink(place / "link") == "kept.txt"
    assert os.access(place / "tool", os.X_OK)
    assert tmp.is_dir()
    assert git(place, "rev-parse", "HEAD") == repository.head
    assert git(place, "symbolic-ref", "--short", "HEAD") == "main"
    assert git(place, "remote", "get-url", "origin") == "git@example.org:team/project.git"
    assert git(tree, "status", "--porcelain").count("\n") >= 4  # the author's own tree is as it was
    older = Workspaces(tree, repository, sha=repository.commit("HEAD^"), branch=None, hash_files=[])
    place, _tmp = older.make(1, checkout=True)
    assert (place / "changed.txt").read_text() == "old"
    assert not (place / "second.txt").exists()
    older.drop(1)
    assert not older.close(keep=False)
    assert not older.folder.exists()
    assert workspaces.close(keep=True)
    assert workspaces.folder.exists()


def test_a_job_without_checkout_gets_its_workflow_only(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AU-61."""
    monkeypatch.setenv("KICI_RUN_DIR", str(tmp_path / "runs"))
    (tree / ".kici" / "workflows").mkdir(parents=True)
    (tree / ".kici" / "workflows" / "ci.py").write_text("x = 1\n")
    repository = Repository(tree)
    workspaces = Workspaces(tree, repository, sha=repository.head, branch=None, hash_files=["kept.txt"])
    place, _tmp = workspaces.make(1, checkout=False)
    assert sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()) == [
        ".kici/workflows/ci.py",
        "kept.txt",
    ]


def test_old_copies_are_collected(tmp_path: Path) -> None:
    """AU-113."""
    old, new, other = (tmp_path / name for name in ("kici-run-old", "kici-run-new", "other"))
    for folder in (old, new, other):
        folder.mkdir()
    for folder in (old, other):
        os.utime(folder, (1, 1))
    collect(tmp_path, now_s=time.time())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kici-run-new", "other"]


async def test_lines_of_jobs_do_not_mix() -> None:
    """AU-117."""
    stream = io.BytesIO()
    screen = Screen(stream, quiet=False)
    screen.announce(["a", "long"])
    screen.output("a", b"one\ntw")
    screen.output("long", b"x\n\ny\n")
    screen.output("a", b"o\nthree")
    screen.finish("a")
    screen.line("a", "end")
    screen.output("long", b"dots.")
    while b"dots." not in stream.getvalue():
        await asyncio.sleep(0.01)
    screen.output("long", b"..\nlast")
    while b"last" not in stream.getvalue():
        await asyncio.sleep(0.01)
    screen.notice("Cancelling")  # ends the open line, whose own end then is not an empty line
    screen.output("long", b"\n\nbye")
    screen.finish("long")
    assert stream.getvalue().decode().splitlines() == [
        "a    │ one",
        "long │ x",
        "long │ ",
        "long │ y",
        "a    │ two",
        "a    │ three",
        "a    │ end",
        "long │ dots...",
        "long │ last",
        "Cancelling",
        "long │ ",
        "long │ bye",
    ]


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("colors", [True, False])
async def test_a_step_cannot_play_with_the_screen(colors: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-117, AU-135: colours stay where there are any; titles, links, cursors and overwriting do not."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    if not colors:
        monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    screen = Screen(stream, quiet=False, live=False)
    screen.output("a", b"\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\r\n")
    screen.output("a", b"\x1b[2J\x1b[3;4H\x1b7\x1b(B\x1bPq\x1b\\\x1b[1;38:2:1:2:3mbold\x1b[0m\x1b[K\n")
    screen.output("a", b"10%\r20%\r")
    screen.output("a", b"30%\r")
    screen.output("a", b"\ncut \x1b]0;ti")
    await asyncio.sleep(0.3)  # longer than an unfinished line waits
    screen.output("a", b"tle\x07here\n90%\r")
    screen.output("a", b"100%")
    screen.finish("a")
    lines = [line.partition(b"\xe2\x94\x82")[2] for line in stream.getvalue().splitlines()]
    reset = b"\x1b[0m" if colors else b""
    bold = b"\x1b[1;38:2:1:2:3mbold\x1b[0m" if colors else b"bold"
    assert lines == [reset + b" " + text for text in (b"link", bold, b"30%", b"cut here", b"100%")]
    assert b"\r" not in stream.getvalue()


def test_quiet_shows_notices_only() -> None:
    """AU-117."""
    stream = io.BytesIO()
    screen = Screen(stream, quiet=True)
    screen.output("a", b"one\n")
    screen.line("a", "two")
    screen.finish("a")
    screen.notice("three")
    assert stream.getvalue() == b"three\n"
