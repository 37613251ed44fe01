"""Pieces of `kici run local`: events from git, copies of the tree, the screen."""

import asyncio
import io
import os
import subprocess
import time
from pathlib import Path

import pytest

from kici.cli.local.event import make_occasion
from kici.cli.local.repository import NoRepository, Repository
from kici.cli.local.screen import Screen
from kici.cli.local.workspace import Workspaces, collect
from kici.engine.triggers import match_workflow
from kici.spec.errors import InvalidInput
from kici.spec.events import Event
from kici.spec.lock import (
    GenericWebhookTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    TagTrigger,
    WebhookTrigger,
)


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


def event_of(root: Path, word: str, **changes: object) -> Event:
    fields: dict[str, object] = {"branch": None, "sha": None, "files": (), "payload": None, **changes}
    return make_occasion(word, Repository(root), folder_name=root.name, **fields).event  # type: ignore[arg-type]


def glob(pattern: str) -> list[Pattern]:
    return [Pattern(type="glob", pattern=pattern)]


@pytest.mark.parametrize(
    ("word", "trigger"),
    [
        ("push", PushTrigger(branches=glob("main"), repos=glob("team/*"))),
        ("pr", PrTrigger(target=glob("main"), source=glob("topic"))),
        ("pr:sync", PrTrigger(events=["synchronize"])),
        ("pr:close", PrTrigger(events=["closed"])),
        ("pr:labeled", PrTrigger(events=["labeled"])),
        ("tag", TagTrigger(patterns=glob("v*"))),
        ("generic_webhook:stripe", GenericWebhookTrigger(source="stripe")),
        ("webhook:stripe", GenericWebhookTrigger(source="stripe")),
        ("webhook_event:deployment", WebhookTrigger(events=["deployment"])),
    ],
)
def test_every_word_matches_its_own_trigger(tree: Path, word: str, trigger: object) -> None:
    """AU-111."""
    git(tree, "tag", "v1.2")
    if word.startswith("pr"):
        git(tree, "checkout", "-qb", "topic")
    decision = match_workflow([trigger], event_of(tree, word))  # type: ignore[list-item]
    assert decision.matched, decision.reason


def test_a_push_knows_its_files_and_commit(tree: Path) -> None:
    """AU-112."""
    (tree / "changed.txt").write_text("new")
    (tree / "new.txt").write_text("1")
    event = event_of(tree, "push")
    assert event.changed_files == ["changed.txt", "new.txt", "second.txt"]
    assert event.payload["after"] == git(tree, "rev-parse", "HEAD")
    assert event.payload["before"] == git(tree, "rev-parse", "HEAD^")
    assert event.payload["head_commit"]["message"] == "second\n\nbody"
    assert event.payload["repository"]["full_name"] == event.source_repo == "team/project"
    assert event_of(tree, "push", files=["x"], branch="other").changed_files == ["x"]
    assert event_of(tree, "push", branch="other").target_branch == "other"
    assert event_of(tree, "push", sha="HEAD^").changed_files is None  # a first commit: not known


def test_payload_and_wrong_words(tree: Path) -> None:
    """AU-112."""
    event = event_of(tree, "generic_webhook:stripe", payload={"action": "paid", "amount": 3})
    assert (event.action, event.payload["amount"]) == ("paid", 3)
    with pytest.raises(InvalidInput, match="'pish' is no event"):
        event_of(tree, "pish")
    with pytest.raises(InvalidInput, match="name one with --branch"):
        event_of(tree, "tag")
    with pytest.raises(InvalidInput, match="names no commit"):
        event_of(tree, "push", sha="nowhere")


def test_without_git(tmp_path: Path) -> None:
    """AU-113."""
    with pytest.raises(NoRepository, match="--in-place"):
        Repository(tmp_path)
    occasion = make_occasion(
        "push", None, folder_name="project", branch=None, sha=None, files=(), payload=None
    )
    assert (occasion.event.target_branch, occasion.event.changed_files, occasion.sha) == ("main", None, "")
    git(tmp_path, "init", "-q")
    with pytest.raises(NoRepository, match="no commit yet"):
        Repository(tmp_path)


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
    ]


def test_quiet_shows_notices_only() -> None:
    """AU-117."""
    stream = io.BytesIO()
    screen = Screen(stream, quiet=True)
    screen.output("a", b"one\n")
    screen.line("a", "two")
    screen.finish("a")
    screen.notice("three")
    assert stream.getvalue() == b"three\n"
