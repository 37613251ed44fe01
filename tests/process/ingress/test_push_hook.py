"""`source install-hook`: a push is announced at once, and kept while nobody listens (OR-18)."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from kici.spec.triggers import PushTrigger, TagTrigger
from tests.db.ingress.builders import lock_job, lock_workflow
from tests.db.ingress.running import Repo
from tests.process.ingress.orchestrator import Orchestrator, orchestrator
from tests.support.postgres import Database

pytestmark = [pytest.mark.postgres, pytest.mark.process]


class Shared:
    """A bare repository and a clone that pushes to it."""

    def __init__(self, root: Path) -> None:
        self.bare = root / "shop.git"
        self.clone = Repo(root / "clone")
        self.clone.git("init", "-q", "--bare", "-b", "main", str(self.bare))
        self.clone.git("remote", "add", "origin", str(self.bare))
        ci, release = lock_workflow("ci", lock_job("build")), lock_workflow("release", lock_job("build"))
        self.clone.commit_lock(
            msgspec.structs.replace(ci, triggers=[PushTrigger()]),
            msgspec.structs.replace(release, triggers=[TagTrigger()]),
        )

    @property
    def spool(self) -> list[str]:
        folder = self.bare / "kici-spool"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def install(running: Orchestrator, shared: Shared) -> None:
    await running.call("POST", "/sources", json={"kind": "local", "name": "shop", "path": str(shared.bare)})
    code, output, complaint = await running.admin("source", "install-hook", "shop")
    assert code == 0, complaint
    assert "post-receive" in output


async def test_branches_and_tags_are_announced(orchestrator_db: Database, tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await install(running, shared)
        shared.clone.git("tag", "v1")
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", "main", "v1")
        runs = await running.runs(2)
        assert {(run["workflowName"], run["ref"]) for run in runs} == {
            ("ci", "refs/heads/main"),
            ("release", "refs/tags/v1"),
        }
        assert {run["sha"] for run in runs} == {shared.clone.git("rev-parse", "HEAD")}
        assert shared.spool == []
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", ":refs/tags/v1")
        listed = await running.call("GET", "/event-log")
        assert listed["deliveries"][0]["ref"] in {"refs/tags/v1", None}


async def test_a_push_is_kept_until_the_orchestrator_is_back(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    shared = Shared(tmp_path)
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await install(running, shared)
        await running.stop()
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", "main")
        assert len(shared.spool) == 1
        await running.start()
        (run,) = await running.runs(1)  # fetched from the folder, without another push
        assert run["sha"] == shared.clone.git("rev-parse", "HEAD")

        async def emptied() -> None:
            async with asyncio.timeout(20):
                while shared.spool:
                    await asyncio.sleep(0.02)

        await emptied()
        shared.clone.commit("More", {"a": "1"})
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", "main")
        assert len(await running.runs(2)) == 2


async def test_an_earlier_hook_still_runs_and_installing_twice_is_harmless(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    shared = Shared(tmp_path)
    earlier = shared.bare / "hooks" / "post-receive"
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text(f"#!/bin/sh\ncat > '{tmp_path}/seen'\nexit 1\n")
    earlier.chmod(0o755)
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await install(running, shared)
        code, output, _ = await running.admin("source", "install-hook", "shop")
        assert code == 0
        assert "updated" in output
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", "main")
        await running.runs(1)
        assert "refs/heads/main" in (tmp_path / "seen").read_text()


async def test_a_refused_push_is_kept_aside_and_said(orchestrator_db: Database, tmp_path: Path) -> None:
    shared = Shared(tmp_path)
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await install(running, shared)
        await running.call("DELETE", "/sources/shop")
        await asyncio.to_thread(shared.clone.git, "push", "-q", "origin", "main")
        assert [name.endswith(".refused") for name in shared.spool] == [True]
