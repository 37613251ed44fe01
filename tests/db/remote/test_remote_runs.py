"""Uploads, triggers and retention of remote runs against a real database and object store (AU-123…126, OR-6,
OR-19, SE-26)."""

import base64
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kici.orchestrator.blobs.service import Blobs, open_store
from kici.orchestrator.lockfiles.git import Repositories
from kici.orchestrator.remote.bases import Bases
from kici.orchestrator.remote.briefs import RemoteBriefs
from kici.orchestrator.remote.service import RemoteRuns
from kici.orchestrator.rpc import Caller
from kici.orchestrator.runs.request import StartPolicy
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.sealing import Sealer
from kici.orchestrator.sources.service import NewLocal, Sources
from kici.protocol.overlay import Opener, seal, upload_key
from kici.protocol.platform_v1 import Actor
from kici.protocol.remote_v1 import (
    RemoteEventBody,
    RemoteTriggerBody,
    RemoteTriggered,
    UploadBody,
    seal_values,
)
from kici.runtime.clock import SystemClock
from kici.runtime.database import Wakeups, text
from kici.spec.errors import InvalidInput
from kici.spec.triggers import DispatchTrigger, InputField, PrTrigger
from tests.db.ingress.builders import ORG, lock_job, lock_workflow
from tests.db.ingress.running import Repo, lock_text
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

SECRET_KEY = bytes(range(32))
CALLER = Caller(org_id=ORG, actor=Actor(kind="user", id="u1", display_name="Ada"))
UPLOAD = UploadBody(sha="a" * 40, file_count=1, compressed_size=1_000)
TREE = b"the working tree"
CHANNELS = ("queue", "outbox", "concurrency", "sources", "registry")
LOCK = lock_text(
    lock_workflow("ci", lock_job("test")),
    lock_workflow("review", lock_job("look")),
)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Sent:
    """An upload as a command line makes it; `key` seals its overlay."""

    upload_id: str
    server: bytes
    public: str
    key: bytes


class Desk:
    def __init__(self, db: Database, folder: Path) -> None:
        self.db = db
        self.blobs = Blobs(
            open_store(f"file://{folder}"), SECRET_KEY, SystemClock(), public_url="http://orchestrator"
        )
        self.briefs = RemoteBriefs(SECRET_KEY, self.blobs)
        wakeups = Wakeups(db.url, CHANNELS)
        sealer = Sealer(SECRET_KEY, "source-verification")
        index = SourceIndex(db.engine, sealer)
        self.sources = Sources(db.engine, sealer, index, wakeups)
        self.repositories = Repositories()
        self.remote = RemoteRuns(
            db.engine,
            wakeups,
            self.blobs,
            self.briefs,
            Bases(index, self.repositories),
            secret_key=SECRET_KEY,
            policy=StartPolicy(),
        )
        self.folder = folder

    async def upload(self, *, put: bool = True, caller: Caller = CALLER) -> Sent:
        view = await self.remote.upload(UPLOAD, caller)
        assert view.signed_url.startswith("http://orchestrator/blobs/")
        private = X25519PrivateKey.generate()
        server = base64.b64decode(view.public_key)
        key = upload_key(private, server)
        if put:

            async def sealed() -> AsyncGenerator[bytes]:
                for piece in seal(key, [TREE]):
                    yield piece

            await self.blobs.write(f"overlays/{caller.org_id}/{view.upload_id}", sealed())
        public = b64(private.public_key().public_bytes_raw())
        return Sent(view.upload_id, server, public, key)

    async def trigger(self, sent: Sent, *, caller: Caller = CALLER, **changes: Any) -> RemoteTriggered:
        fields: dict[str, Any] = {
            "fixture_id": "push",
            "event": RemoteEventBody(type="push", target_branch="main"),
            "upload_id": sent.upload_id,
            "cli_public_key": sent.public,
            "inline_lock_file": LOCK,
            "repository": "ada/app",
            "branch": "topic",
            **changes,
        }
        return await self.remote.trigger(RemoteTriggerBody(**fields), caller)

    async def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        async with self.db.engine.connect() as tx:
            return [dict(row) for row in (await tx.execute(text(sql), values)).mappings()]

    async def age(self, hours: float) -> None:
        async with self.db.engine.begin() as tx:
            await tx.execute(
                text("UPDATE remote_uploads SET created_at = created_at - CAST(:age AS interval)"),
                {"age": timedelta(hours=hours)},
            )


@pytest.fixture
async def desk(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Desk]:
    desk = Desk(orchestrator_db, tmp_path / "store")
    yield desk
    await desk.repositories.close()


async def test_an_event_starts_what_it_matches(desk: Desk) -> None:
    """AU-123, OR-6, OR-19: ordinary runs, attributed to an anchor that needs no source."""
    answer = await desk.trigger(await desk.upload(), check_mode="check")
    assert (answer.status, answer.reason) == ("accepted", None)
    assert [run.workflow_name for run in answer.runs] == ["ci", "review"]
    assert (answer.run_id, answer.job_ids) == (answer.runs[0].run_id, answer.runs[0].job_ids)
    found = await desk.rows(
        "SELECT routing_key, source_subtype, repo_identifier, repo_url, sha, branch, is_test_run, check_mode,"
        " triggered_by, status, trigger_event FROM execution_runs WHERE id = :id",
        id=answer.run_id,
    )
    assert found == [
        {
            "routing_key": f"remote:{ORG}",
            "source_subtype": "internal",
            "repo_identifier": "ada/app",
            "repo_url": None,
            "sha": "a" * 40,
            "branch": "topic",
            "is_test_run": True,
            "check_mode": "check",
            "triggered_by": "Ada",
            "status": "queued",
            "trigger_event": "push",
        }
    ]
    assert await desk.rows("SELECT 1 AS one FROM sources") == []


async def test_a_difference_belongs_to_the_repository_of_its_source(desk: Desk, tmp_path: Path) -> None:
    """AU-124: what it is called and where it is checked out from are the source's record, whatever the caller
    says; the anchor is that of all remote runs. Its jobs are told which commit it lies over."""
    repo = Repo(tmp_path / "shop.git")
    base = repo.commit("The first", {"a": "a"})
    await desk.sources.add(ORG, NewLocal(name="shop", path=str(repo.path), repository="acme/shop"))
    over: dict[str, Any] = {"full_repo": False, "source": "shop", "base": base}
    answer = await desk.trigger(await desk.upload(), repository="acme/other", **over)
    assert (answer.status, answer.reason) == ("accepted", None)
    assert answer.run_id is not None
    (run,) = await desk.rows(
        "SELECT routing_key, repo_identifier, repo_url, sha, ref FROM execution_runs WHERE id = :id",
        id=answer.run_id,
    )
    assert run == {
        "routing_key": f"remote:{ORG}",
        "repo_identifier": "acme/shop",
        "repo_url": str(repo.path),
        "sha": "a" * 40,
        "ref": "refs/heads/topic",
    }
    async with desk.db.engine.connect() as tx:
        assert (await desk.briefs.for_runs(tx, [answer.run_id]))[answer.run_id].overlay.base == base
    stranger = Caller(org_id="org_other0000000", actor=CALLER.actor)
    refused = await desk.trigger(await desk.upload(caller=stranger), caller=stranger, **over)
    assert (refused.status, refused.reason) == ("rejected", "base_unknown")
    await desk.sources.remove(ORG, "shop")
    refused = await desk.trigger(await desk.upload(), **over)
    assert (refused.status, refused.reason) == ("rejected", "base_unknown")


async def test_asked_twice_there_is_one_run(desk: Desk) -> None:
    """OR-35: an answer that was lost on its way starts nothing again; another fixture does."""
    sent = await desk.upload()
    first = await desk.trigger(sent, workflow_name="ci")
    assert (await desk.trigger(sent, workflow_name="ci")).run_id == first.run_id
    other = await desk.trigger(sent, workflow_name="ci", fixture_id="another")
    assert other.run_id != first.run_id


async def test_a_named_workflow_runs_whatever_its_triggers_say(desk: Desk) -> None:
    lock = lock_text(lock_workflow("ci", lock_job("test")))
    event = RemoteEventBody(type="pull_request", action="opened", target_branch="main")
    sent = await desk.upload()
    refused = await desk.trigger(sent, inline_lock_file=lock, event=event)
    assert (refused.status, refused.reason) == ("rejected", "no_match")
    assert "ci: " in (refused.message or "")
    named = await desk.trigger(sent, inline_lock_file=lock, event=event, workflow_name="ci")
    assert named.status == "accepted"


async def test_only_that_run_learns_key_and_secrets(desk: Desk) -> None:
    """AU-125, AU-126, SE-26: sealed at rest, opened for the dispatches of this run alone."""
    sent = await desk.upload()
    private = X25519PrivateKey.generate()
    sealed = seal_values(upload_key(private, sent.server), {"TOKEN": "swordfish"})
    answer = await desk.trigger(
        sent,
        workflow_name="ci",
        encrypted_secrets=b64(sealed),
        encrypted_secrets_key=b64(private.public_key().public_bytes_raw()),
    )
    other = await desk.trigger(await desk.upload(), workflow_name="ci")
    assert answer.run_id is not None
    assert other.run_id is not None
    async with desk.db.engine.connect() as tx:
        briefs = await desk.briefs.for_runs(tx, [answer.run_id, other.run_id])
        stored = (await tx.execute(text("SELECT secrets FROM execution_run_remotes"))).scalars().all()
        keys = (await tx.execute(text("SELECT private_key FROM remote_uploads"))).scalars().all()
        everything = [
            str(row)
            for table in ("execution_runs", "execution_jobs", "execution_job_specs", "outbox", "run_events")
            for row in await tx.scalars(text(f"SELECT t::text FROM {table} t"))
        ]
    assert briefs[answer.run_id].secrets == {"TOKEN": "swordfish"}
    assert briefs[other.run_id].secrets == {}
    overlay = briefs[answer.run_id].overlay
    assert base64.b64decode(overlay.key) == sent.key
    ticket = desk.blobs.office.check(overlay.path.removeprefix("/blobs/"), "GET")
    size, pieces = await desk.blobs.read(ticket.key)
    opener = Opener(base64.b64decode(overlay.key))
    assert opener.feed(b"".join([bytes(piece) async for piece in pieces])) == TREE
    opener.finish()
    assert overlay.size_bytes == size
    for secret in (b"swordfish", sent.key, overlay.key.encode()):
        assert not any(secret in row for row in [*stored, *keys])
    assert not any("swordfish" in row or overlay.key in row for row in everything)


async def test_a_brief_does_not_open_for_another_object(desk: Desk) -> None:
    """Bound to the object it belongs to: moved to another run, its jobs get nothing."""
    one = await desk.trigger(await desk.upload(), workflow_name="ci")
    two = await desk.trigger(await desk.upload(), workflow_name="ci")
    assert one.run_id is not None
    async with desk.db.engine.begin() as tx:
        await tx.execute(
            text("""
                UPDATE execution_run_remotes a SET secrets = b.secrets FROM execution_run_remotes b
                WHERE a.run_id = :one AND b.run_id = :two
            """),
            {"one": one.run_id, "two": two.run_id},
        )
    async with desk.db.engine.connect() as tx:
        assert await desk.briefs.for_runs(tx, [one.run_id]) == {}


async def test_what_cannot_start_says_why(desk: Desk) -> None:
    """AU-123: the reason is a word for programs and a sentence for people; nothing was started."""
    sent = await desk.upload()
    stranger = Caller(org_id="org_other0000000", actor=CALLER.actor)
    inputs = lock_text(
        lock_workflow(
            "deploy",
            lock_job("go"),
        )
    )
    cases: list[tuple[str, dict[str, Any]]] = [
        ("lock_corrupt", {"inline_lock_file": "{"}),
        ("lock_corrupt", {"inline_lock_file": " " * (5 << 20) + "{}"}),
        ("unknown_workflow", {"workflow_name": "nothing"}),
        ("no_match", {"event": RemoteEventBody(type="tag", target_branch="v1")}),
        ("bad_event", {"event": RemoteEventBody(type="")}),
        ("bad_key", {"cli_public_key": "AAAA"}),
        ("bad_key", {"cli_public_key": b64(bytes(32))}),  # a point of small order
        ("bad_secrets", {"encrypted_secrets": "AAAA"}),
        ("bad_secrets", {"encrypted_secrets": b64(bytes(64)), "encrypted_secrets_key": sent.public}),
        ("environment_unknown", {"secrets": {"db": "test-database"}}),
        ("capability_missing", {"target": ["web-1"]}),
        ("capability_missing", {"approve_all": True}),
        ("base_unknown", {"full_repo": False}),
        ("base_unknown", {"full_repo": False, "source": "nothing", "base": "a" * 40}),
        ("base_unknown", {"full_repo": False, "source": "nothing", "base": "--all"}),
        ("bad_inputs", {"inline_lock_file": inputs, "dispatch_inputs": {"level": "3"}}),
        ("upload_unknown", {"upload_id": "nothing"}),
        ("upload_unknown", {"caller": stranger}),
    ]
    for reason, changes in cases:
        answer = await desk.trigger(sent, **changes)
        assert (answer.status, answer.reason, answer.run_id) == ("rejected", reason, None), changes
        assert answer.message
    missing = await desk.trigger(await desk.upload(put=False))
    assert missing.reason == "upload_missing"
    assert await desk.rows("SELECT 1 AS one FROM execution_runs") == []


async def test_inputs_are_those_that_the_workflow_declares(desk: Desk) -> None:
    """AU-83: texts of the command line become typed values; defaults are filled in."""
    workflow = lock_workflow("deploy", lock_job("go"))
    fields = [
        InputField(name="level", type="integer", required=True),
        InputField(name="dry", type="boolean", default=True),
    ]
    lock = lock_text(_with_triggers(workflow, DispatchTrigger(types=["go"], inputs=fields), PrTrigger()))
    sent = await desk.upload()
    event = RemoteEventBody(type="dispatch", action="go")
    wrong = await desk.trigger(sent, inline_lock_file=lock, event=event, dispatch_inputs={"level": "high"})
    assert (wrong.reason, "level" in (wrong.message or "")) == ("bad_inputs", True)
    answer = await desk.trigger(
        sent, inline_lock_file=lock, event=event, dispatch_inputs={"level": "3"}, workflow_name="deploy"
    )
    (run,) = await desk.rows("SELECT inputs::text FROM execution_runs WHERE id = :id", id=answer.run_id)
    assert json.loads(run["inputs"]) == {"dry": True, "level": 3}


def _with_triggers(workflow: Any, *triggers: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(workflow, triggers=list(triggers))


@pytest.mark.parametrize(
    "body",
    [
        UploadBody(sha="main", file_count=1, compressed_size=1),
        UploadBody(sha="a" * 40, file_count=1, compressed_size=0),
        UploadBody(sha="a" * 40, file_count=1, compressed_size=501 << 20),
    ],
)
async def test_uploads_are_checked(desk: Desk, body: UploadBody) -> None:
    with pytest.raises(InvalidInput):
        await desk.remote.upload(body, CALLER)


async def test_a_day_later_everything_is_gone(desk: Desk) -> None:
    """AU-125: 24 h retention of the working tree, its keys and its secrets; the runs stay."""
    old = await desk.upload()
    ended = await desk.trigger(old, workflow_name="ci")
    await desk.upload(put=False)  # never arrived
    await desk.age(25)
    young = await desk.upload()
    assert (await desk.trigger(old, workflow_name="ci", fixture_id="late")).reason == "upload_unknown"
    assert await desk.remote.sweep() == 2
    assert [row["id"] for row in await desk.rows("SELECT id FROM remote_uploads")] == [young.upload_id]
    assert await desk.rows("SELECT 1 AS one FROM execution_run_remotes") == []
    assert await desk.blobs.size(f"overlays/{ORG}/{old.upload_id}") is None
    assert await desk.blobs.size(f"overlays/{ORG}/{young.upload_id}") is not None
    assert len(await desk.rows("SELECT 1 AS one FROM execution_runs WHERE id = :id", id=ended.run_id)) == 1
    assert await desk.remote.sweep() == 0
