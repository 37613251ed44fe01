"""A job of a remote run: the author's working tree comes over HTTP instead of a checkout (AU-124, AU-125)."""

import base64
import hashlib
import io
import secrets
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from kici.protocol.agent_v1 import Overlay
from kici.protocol.overlay import MANIFEST_PATH, Manifest, seal
from kici.spec.states import JobStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project

pytestmark = pytest.mark.process

WORKFLOW = """
    @step
    async def show(ctx: Context) -> dict[str, str]:
        head = await ctx.sh("git rev-parse HEAD")
        status = await ctx.sh("git status --porcelain")
        return {"data": open("data.txt").read(), "head": head.text, "status": status.text}

    jobs = [job("build", runs_on="kici:os:linux", steps=[show])]
"""


def _pack(files: dict[str, bytes], **manifest: object) -> tuple[bytes, str]:
    """Sealed bytes and the key as a dispatch has it."""
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    head = msgspec.json.encode({"sha": "0" * 40, "checksums": checksums, **manifest})
    msgspec.json.decode(head, type=Manifest)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {MANIFEST_PATH: head, **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    key = secrets.token_bytes(32)
    return b"".join(seal(key, [buffer.getvalue()])), base64.b64encode(key).decode()


def _difference(project: Project, base: str, **manifest: object) -> tuple[bytes, str]:
    state = {"branch": "main", "refs": {}, "remotes": {}}
    words = {"sha": project.sha, "base": base, "git": state, "deletions": ["gone.txt"], **manifest}
    return _pack({"data.txt": b"changed"}, **words)


def _tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


async def test_the_working_tree_runs_as_the_author_has_it(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-124: with its own `.git`, so that git works in steps; nothing is cloned."""
    project.write({"data.txt": "committed"}).workflow(WORKFLOW)
    (project.root / "data.txt").write_text("not committed")
    sealed, key = _pack(_tree(project.root))
    orchestrator.blobs["/blobs/ticket"] = sealed
    await orchestrator.registered()
    overlay = Overlay(path="/blobs/ticket", key=key, size_bytes=len(sealed))
    dispatch = project.dispatch(overlay=overlay, is_test_run=True, checkout={"repo_url": ""})
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.outputs == {
        "show": {"data": "not committed", "head": project.sha, "status": " M data.txt"}
    }
    events = orchestrator.events(dispatch.job_id)
    assert events[:2] == ["agent.overlay.start", "agent.overlay.end"]
    assert "agent.clone.start" not in events


async def test_a_difference_is_laid_over_its_commit(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-124 [S]."""
    project.write({"data.txt": "committed", "gone.txt": "x"}).workflow(WORKFLOW)
    sealed, key = _difference(project, project.sha)
    orchestrator.blobs["/blobs/ticket"] = sealed
    await orchestrator.registered()
    overlay = Overlay(path="/blobs/ticket", key=key, size_bytes=len(sealed), base=project.sha)
    ended = await orchestrator.run(project.dispatch(overlay=overlay, is_test_run=True))
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.outputs == {
        "show": {"data": "changed", "head": project.sha, "status": " M data.txt\n D gone.txt"}
    }


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("base", "another commit than its run"),
        ("gone", "cannot be checked out"),
        ("head", "are not in its repository"),
    ],
)
async def test_a_difference_to_something_else_fails_before_any_step(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project, harm: str, said: str
) -> None:
    """AU-124: another base than the run's, a base that is gone, a HEAD whose objects did not come."""
    project.write({"data.txt": "committed", "gone.txt": "x"}).workflow(WORKFLOW)
    base = "1" * 40 if harm == "gone" else project.sha
    sealed, key = _difference(project, base, **({"sha": "2" * 40} if harm == "head" else {}))
    orchestrator.blobs["/blobs/ticket"] = sealed
    await orchestrator.registered()
    overlay = Overlay(
        path="/blobs/ticket",
        key=key,
        size_bytes=len(sealed),
        base="3" * 40 if harm == "base" else base,
    )
    dispatch = project.dispatch(overlay=overlay, is_test_run=True)
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    assert said in (ended.error_message or "")
    assert ("--full" in (ended.error_message or "")) is (harm != "base")
    assert not [step for step in orchestrator.steps(dispatch.job_id) if step.step_index >= 0]


@pytest.mark.parametrize("harm", ["key", "missing", "cut", "source"])
async def test_a_tree_that_is_not_what_it_should_be_fails_before_any_step(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project, harm: str
) -> None:
    """AU-101, AU-125: wrong key, gone, incomplete, or with a workflow that was not compiled."""
    project.write({"data.txt": "x"}).workflow(WORKFLOW)
    files = _tree(project.root)
    if harm == "source":
        files[".kici/workflows/ci.py"] += b"\n# changed\n"
    sealed, key = _pack(files)
    if harm == "key":
        key = base64.b64encode(bytes(32)).decode()
    if harm != "missing":
        orchestrator.blobs["/blobs/ticket"] = sealed[:-40] if harm == "cut" else sealed
    await orchestrator.registered()
    overlay = Overlay(path="/blobs/ticket", key=key, size_bytes=len(sealed))
    dispatch = project.dispatch(overlay=overlay, is_test_run=True, checkout={"repo_url": ""})
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    said = {
        "key": "the overlay does not open",
        "missing": "404",
        "cut": "the overlay",
        "source": "Lock file is out of date",
    }
    assert said[harm] in (ended.error_message or "")
    assert not [step for step in orchestrator.steps(dispatch.job_id) if step.step_index >= 0]


async def test_the_authors_git_settings_never_reach_the_agent(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project, tmp_path: Path
) -> None:
    """AG-35: `.git/config` may name programs; git of the agent must not start them."""
    project.write({"data.txt": "x"}).workflow(WORKFLOW)
    trap = tmp_path / "trap.sh"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexit 0\n")
    trap.chmod(0o755)
    subprocess.run(["git", "-C", str(project.root), "config", "core.fsmonitor", str(trap)], check=True)
    (project.root / ".kici" / "untracked.py").write_text("")
    files = _tree(project.root)
    sealed, key = _pack(files)
    orchestrator.blobs["/blobs/ticket"] = sealed
    await orchestrator.registered()
    overlay = Overlay(path="/blobs/ticket", key=key, size_bytes=len(sealed))
    dispatch = project.dispatch(
        overlay=overlay, is_test_run=True, checkout={"repo_url": ""}, content_hash="0" * 64
    )
    ended = await orchestrator.run(dispatch)
    assert "Lock file is out of date" in (ended.error_message or "")
    assert not (tmp_path / "sprung").exists()
