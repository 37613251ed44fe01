"""The CLI asks for a commit to send a difference to, and does without when there is none (AU-124)."""

import io
import os
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.cli.client import Client, Target, Unreachable
from kici.cli.local.repository import Repository
from kici.cli.local.screen import Screen
from kici.cli.remote.base import find_base
from kici.cli.remote.session import Wishes, run_remote
from kici.cli.remote.transfer import Destination
from kici.runtime.ids import uuid7
from kici.spec.lock import LockFile
from tests.db.ingress.builders import lock_job, lock_workflow
from tests.db.ingress.running import lock_text
from tests.db.platform.uploads import Uploads, store
from tests.support import platform as kit
from tests.support.postgres import Database

TO = Destination(org_id=kit.ORG, cluster=None, default_cluster=None)
ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path) -> AsyncGenerator[kit.Served]:
    async with kit.platform(platform_db, tmp_path) as served:
        yield served


@pytest.fixture
def clone(tmp_path: Path) -> Repository:
    """Pushed to a bare repository beside it."""
    bare, root = tmp_path / "shop.git", tmp_path / "clone"
    for arguments in (
        ["init", "-q", "--bare", "-b", "main", str(bare)],
        ["clone", "-q", str(bare), str(root)],
        ["-C", str(root), "commit", "-q", "--allow-empty", "-m", "First"],
        ["-C", str(root), "push", "-q", "origin", "HEAD:main"],
    ):
        subprocess.run(["git", *arguments], check=True, env=ENV, capture_output=True)
    (root / ".kici").mkdir()
    return Repository(root)


def client(served: kit.Served) -> Client:
    return Client(Target(served.url, kit.TOKEN, kit.ORG))


async def test_the_newest_commit_that_is_there_is_the_base(served: kit.Served, clone: Repository):
    async with (
        kit.orchestrator(
            served, methods={"remote.base": lambda _params: {"source": "shop", "commits": [clone.head]}}
        ) as orchestrator,
        client(served) as http,
    ):
        base = await find_base(http, TO, clone)
    assert base is not None
    assert (base.commit, base.source, base.known) == (clone.head, "shop", [clone.head])
    (request,) = orchestrator.requests
    assert request.params == {"addresses": [str(clone.root.parent / "shop.git")], "commits": [clone.head]}


async def test_of_several_commits_the_newest_is_the_base(served: kit.Served, clone: Repository):
    """Each remote has its own, and the server knows both."""

    def git(*arguments: str, **more: str) -> None:
        subprocess.run(["git", *arguments], cwd=clone.root, check=True, env=ENV | more, capture_output=True)

    git("init", "-q", "--bare", "../fork.git")
    git("remote", "add", "fork", "../fork.git")
    git("commit", "-q", "--allow-empty", "-m", "Second", GIT_COMMITTER_DATE="2050-01-01T00:00:00Z")
    git("push", "-q", "fork", "HEAD:main")
    git("commit", "-q", "--allow-empty", "-m", "Third")
    third = Repository(clone.root)
    second = third.parent(third.head)

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        return {"source": "shop", "commits": sorted(params["commits"])}

    async with kit.orchestrator(served, methods={"remote.base": answer}), client(served) as http:
        base = await find_base(http, TO, third)
    assert base is not None
    assert base.commit == second
    assert set(base.known) == {clone.head, second}


async def test_a_server_that_knows_nothing_gets_everything(served: kit.Served, clone: Repository):
    """AU-142: also one that is older than the question."""
    nothing: dict[str, Any] = {"source": None, "commits": []}
    strange: dict[str, Any] = {"source": "shop", "commits": ["f" * 40]}
    for methods in (
        {"remote.base": lambda _params: nothing},
        {"remote.base": lambda _params: strange},
        {},
    ):
        async with kit.orchestrator(served, methods=methods), client(served) as http:
            assert await find_base(http, TO, clone) is None
        await kit.eventually(lambda: not served.app.connections.connected(kit.ORG))
    async with client(served) as http:
        with pytest.raises(Unreachable, match="none is connected"):
            await find_base(http, Destination(org_id=kit.ORG, cluster="north", default_cluster=None), clone)


async def test_a_base_that_is_gone_again_is_done_without(
    served: kit.Served, clone: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """AU-124: refused at the last moment, everything is sent instead, once for all fixtures, and that is said."""
    monkeypatch.setenv("KICI_CONFIG_DIR", str(tmp_path / "config"))
    run_id = uuid7()

    def answer(params: dict[str, Any]) -> dict[str, Any]:
        rejected = not params["fullRepo"]
        return {
            "runId": None if rejected else run_id,
            "status": "rejected" if rejected else "accepted",
            "reason": "base_unknown" if rejected else None,
            "message": "gone" if rejected else None,
            "jobIds": [],
            "runs": [] if rejected else [{"runId": run_id, "workflowName": "ci", "jobIds": []}],
        }

    document = msgspec.json.decode(lock_text(lock_workflow("ci", lock_job("test"))), type=LockFile)
    output = io.BytesIO()
    async with store(204, 204) as there:
        uploads = Uploads(there)
        methods: dict[str, kit.Answer] = {
            "remote.base": lambda _params: {"source": "shop", "commits": [clone.head]},
            "remote.upload": uploads.begin,
            "remote.trigger": answer,
        }
        async with kit.orchestrator(served, methods=methods) as orchestrator:
            wishes = Wishes(folder=clone.root / ".kici", event="push", workflow="ci", wait=False)
            target = Target(served.url, kit.TOKEN, kit.ORG)
            report = await run_remote(wishes, target, (clone, document, []), Screen(output, quiet=False))
    assert report.ok
    said = output.getvalue().decode()
    assert f" over {clone.head[:7]} of shop (" in said
    assert f"The server no longer has {clone.head[:7]} of shop; sending everything" in said
    asked = [request.params for request in orchestrator.requests if request.method == "remote.trigger"]
    assert [(params["fullRepo"], params["base"], params["source"]) for params in asked] == [
        (False, clone.head, "shop"),
        (True, None, None),
    ]
    assert asked[0]["uploadId"] != asked[1]["uploadId"]
    assert len(there.bodies) == 2
