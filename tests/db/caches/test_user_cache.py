"""The user cache: what matches, who may read and write what, and what goes when (AG-78, AG-79)."""

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.orchestrator.agents.requests import OwnedJob, RequestRefused
from kici.orchestrator.blobs.service import Blobs, open_store
from kici.orchestrator.caches.service import UserCaches
from kici.protocol.agent_v1 import AgentRequest
from kici.runtime.clock import SystemClock
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from tests.db.execution import rows
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

JOB = OwnedJob(
    job_id=uuid7(),
    run_id=uuid7(),
    attempt=1,
    org_id=rows.ORG,
    agent_id="agent-1",
    job_name="build",
    base_job_name="build",
    workflow_name="ci",
    repo_identifier="acme/shop",
    routing_key="generic:x",
    branch="main",
    sha="0" * 40,
    chain_depth=0,
    is_test_run=False,
    check_mode="apply",
)


def job(**changes: Any) -> OwnedJob:
    return msgspec.structs.replace(JOB, **changes)


class Caches:
    """The service and the store behind it, as an agent uses them."""

    def __init__(
        self, db: Database, folder: Path, *, quota: int = 1 << 20, ttl_ms: int = 3_600_000
    ) -> None:
        self.db = db
        self.folder = folder / "store"
        self.blobs = Blobs(
            open_store(f"file://{self.folder}"), bytes(32), SystemClock(), public_url="http://x"
        )
        self.service = UserCaches(db.engine, self.blobs, quota_bytes=quota, ttl_ms=ttl_ms)

    async def ask(self, method: str, job: OwnedJob, **params: Any) -> dict[str, Any]:
        request = AgentRequest(
            request_id=uuid7(), job_id=job.job_id, attempt=1, method=method, params=params
        )
        return await self.service.handlers[method](job, request)

    async def save(self, key: str, content: bytes = b"x", job: OwnedJob = JOB) -> bool:
        """Whether a save and its commit made an entry."""
        place = await self.ask("cache.save", job, key=key)
        return not place["skip"] and await self.commit(place, key, content, job)

    async def commit(self, place: dict[str, Any], key: str, content: bytes, job: OwnedJob = JOB) -> bool:
        ticket = self.blobs.office.check(place["path"].removeprefix("/blobs/"), "PUT")
        assert ticket.max_bytes == place["maxBytes"]
        await self.blobs.write(ticket.key, _pieces(content))
        done = await self.ask(
            "cache.commit",
            job,
            key=key,
            entryId=place["entryId"],
            sha256=hashlib.sha256(content).hexdigest(),
            sizeBytes=len(content),
        )
        return done["saved"]

    async def restore(self, key: str, *prefixes: str, job: OwnedJob = JOB) -> tuple[str, bytes] | None:
        found = await self.ask("cache.restore", job, key=key, restoreKeys=list(prefixes))
        if not found["hit"]:
            return None
        ticket = self.blobs.office.check(found["path"].removeprefix("/blobs/"), "GET")
        size, pieces = await self.blobs.read(ticket.key)
        content = b"".join([bytes(piece) async for piece in pieces])
        assert (size, hashlib.sha256(content).hexdigest()) == (found["sizeBytes"], found["sha256"])
        return found["matchedKey"], content

    async def keys(self) -> list[str]:
        found = await rows.fetch(
            self.db.engine, "SELECT key FROM user_cache_entries WHERE state = 'ready' ORDER BY key"
        )
        return [row["key"] for row in found]

    async def execute(self, sql: str, **values: Any) -> None:
        async with self.db.engine.begin() as tx:
            await tx.execute(text(sql), values)

    def objects(self) -> Sequence[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file()]


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    yield content


@pytest.fixture
def caches(orchestrator_db: Database, tmp_path: Path) -> Caches:
    return Caches(orchestrator_db, tmp_path)


async def test_the_exact_key_wins_then_prefixes_in_order_newest_first(caches: Caches) -> None:
    """AG-78, AU-58."""
    for key in ("uv-1", "uv-2", "pip-1"):
        assert await caches.save(key, key.encode())
    assert await caches.restore("uv-1", "uv-") == ("uv-1", b"uv-1")
    assert await caches.restore("uv-9", "uv-", "pip-") == ("uv-2", b"uv-2")
    assert await caches.restore("uv-9", "none-", "pip-", "uv-") == ("pip-1", b"pip-1")
    assert await caches.restore("uv-") is None, "the key itself is no prefix"
    assert await caches.restore("uv-9") is None


async def test_a_key_is_written_once(caches: Caches) -> None:
    """AG-78: a second save is told to skip; of two at once the first to complete stands."""
    one, two = [await caches.ask("cache.save", JOB, key="k") for _ in range(2)]
    assert await caches.commit(one, "k", b"first")
    assert not await caches.commit(two, "k", b"second")
    assert await caches.ask("cache.save", JOB, key="k") == {"skip": True}
    assert await caches.restore("k") == ("k", b"first")
    await caches.service.sweep()
    assert len(caches.objects()) == 1


async def test_a_commit_may_be_repeated(caches: Caches) -> None:
    """AG-12: its answer may get lost."""
    place = await caches.ask("cache.save", JOB, key="k")
    assert await caches.commit(place, "k", b"content")
    assert await caches.commit(place, "k", b"content")


async def test_an_archive_that_did_not_come_whole_is_no_entry(caches: Caches) -> None:
    """AG-79: the size is the store's."""
    place = await caches.ask("cache.save", JOB, key="k")
    words = {"key": "k", "entryId": place["entryId"], "sha256": "0" * 64, "sizeBytes": 3}
    with pytest.raises(RequestRefused, match="0 of 3 bytes"):
        await caches.ask("cache.commit", JOB, **words)
    ticket = caches.blobs.office.check(place["path"].removeprefix("/blobs/"), "PUT")
    await caches.blobs.write(ticket.key, _pieces(b"xx"))
    with pytest.raises(RequestRefused, match="2 of 3 bytes"):
        await caches.ask("cache.commit", JOB, **words)
    assert await caches.restore("k") is None


@pytest.mark.parametrize(
    "params",
    [
        {"key": "k", "entryId": uuid7(), "sha256": "0" * 64, "sizeBytes": 1},
        {"key": "k", "entryId": "x", "sha256": "0" * 64, "sizeBytes": 1},
        {"key": "k", "entryId": uuid7(), "sha256": "../..", "sizeBytes": 1},
    ],
)
async def test_only_what_was_begun_can_be_completed(caches: Caches, params: dict[str, Any]) -> None:
    """AG-79."""
    with pytest.raises(RequestRefused):
        await caches.ask("cache.commit", JOB, **params)


async def test_repositories_and_organisations_do_not_meet(caches: Caches) -> None:
    """AG-79: scope comes from the dispatch record."""
    assert await caches.save("k")
    assert await caches.restore("k", job=job(repo_identifier="acme/other")) is None
    assert await caches.restore("k", job=job(org_id="org_other")) is None
    assert await caches.save("k", job=job(repo_identifier="acme/other"))


async def test_a_test_run_reads_what_is_shared_and_writes_for_itself(caches: Caches) -> None:
    """AG-79, SE-65: nothing that an author's machine sent reaches the runs of others."""
    mine, other = job(is_test_run=True), job(is_test_run=True, run_id=uuid7())
    assert await caches.save("shared", b"shared")
    assert await caches.save("own", b"own", job=mine)
    assert await caches.save("shared", b"poison", job=mine)
    assert await caches.restore("shared") == ("shared", b"shared")
    assert await caches.restore("own") is None
    assert await caches.restore("own", job=mine) == ("own", b"own")
    assert await caches.restore("shared", job=mine) == ("shared", b"poison")
    assert await caches.restore("own", "sha", job=other) == ("shared", b"shared")
    assert {path.relative_to(caches.folder).parts[3] for path in caches.objects()} == {"shared", "iso"}


async def test_the_least_recently_used_makes_room(orchestrator_db: Database, tmp_path: Path) -> None:
    """AG-79: the quota holds after every commit; what was just saved stays."""
    caches = Caches(orchestrator_db, tmp_path, quota=100)
    for key in ("a", "b", "c"):
        assert await caches.save(key, b"x" * 30)
    assert await caches.restore("a") is not None
    assert await caches.save("d", b"x" * 35)
    assert await caches.keys() == ["a", "c", "d"]
    assert await caches.save("e", b"x" * 100)
    assert await caches.keys() == ["e"]
    await caches.service.sweep()
    assert len(caches.objects()) == 1


async def test_nothing_is_saved_in_check_mode(caches: Caches) -> None:
    """AU-49."""
    assert await caches.ask("cache.save", job(check_mode="check"), key="k") == {"skip": True}


async def test_what_is_over_goes_with_its_object(orchestrator_db: Database, tmp_path: Path) -> None:
    """AG-79: unused for the TTL, never completed, or of a run that has ended; not what is still used."""
    caches = Caches(orchestrator_db, tmp_path)
    run = await rows.add_run(orchestrator_db.engine, [rows.Job("build")])
    tested = job(is_test_run=True, run_id=run.id)
    for key in ("old", "used"):
        assert await caches.save(key)
    assert await caches.save("of the run", job=tested)
    begun = await caches.ask("cache.save", JOB, key="begun")
    object_key = str(
        (
            await rows.fetch(
                orchestrator_db.engine,
                """SELECT object_key FROM user_cache_entries
        WHERE key = 'begun'""",
            )
        )[0]["object_key"]
    )
    torn = tmp_path / "store" / f"{object_key}#1"  # an upload that the orchestrator died in the middle of
    torn.parent.mkdir(parents=True, exist_ok=True)
    torn.write_bytes(b"half an arch")
    await caches.service.sweep()
    assert await caches.keys() == ["of the run", "old", "used"]
    await caches.execute(
        "UPDATE user_cache_entries SET last_used_at = now() - interval '2 h', created_at = now() - interval '2 h'"
        " WHERE key <> 'of the run'"
    )
    assert await caches.restore("used") is not None
    await caches.execute(
        "UPDATE execution_runs SET status = 'success', jobs_open = 0, completed_at = now() WHERE id = :id",
        id=run.id,
    )
    await caches.service.sweep()
    left = await rows.fetch(orchestrator_db.engine, "SELECT key FROM user_cache_entries")
    assert [row["key"] for row in left] == ["used"]
    assert len(caches.objects()) == 1
    assert not torn.exists()
    with pytest.raises(RequestRefused):
        await caches.commit(begun, "begun", b"late")


async def test_packed_dependencies_are_the_organisations_and_only_builds_write_them(caches: Caches) -> None:
    """AG-73, AG-79: every repository and test run reads them; no key of a job reaches them."""
    run = await rows.add_run(caches.db.engine, [rows.Job("build")])
    build = job(kind="build", repo_identifier="acme/other", run_id=run.id)
    with pytest.raises(RequestRefused) as caught:
        await caches.ask("dependencies.save", JOB, key="cp311-x")
    assert caught.value.code == "forbidden"
    place = await caches.ask("dependencies.save", build, key="cp311-x")
    assert place["maxBytes"] == 1 << 20  # the quota is smaller than what a pack may have
    ticket = caches.blobs.office.check(place["path"].removeprefix("/blobs/"), "PUT")
    await caches.blobs.write(ticket.key, _pieces(b"packed"))
    done = {"key": "cp311-x", "entryId": place["entryId"], "sizeBytes": 6}
    digest = hashlib.sha256(b"packed").hexdigest()
    assert await caches.ask("dependencies.commit", build, sha256=digest, **done) == {"saved": True}
    assert (await caches.ask("dependencies.save", build, key="cp311-x"))["skip"]
    for reader in (JOB, job(is_test_run=True)):
        assert (await caches.ask("dependencies.restore", reader, key="cp311-x"))["sha256"] == digest
    assert not (await caches.ask("dependencies.restore", job(org_id="other"), key="cp311-x"))["hit"]
    assert await caches.restore("cp311-x") is None
    await caches.execute(
        "UPDATE execution_runs SET status = 'success', jobs_open = 0, completed_at = now() WHERE id = :id",
        id=run.id,
    )
    await caches.service.sweep()
    assert await caches.keys() == ["cp311-x"]


async def test_damaged_packed_dependencies_go_when_an_agent_says_so(caches: Caches) -> None:
    """AG-74: the very archive that it saw, nothing else."""
    build = job(kind="build")
    place = await caches.ask("dependencies.save", build, key="k")
    ticket = caches.blobs.office.check(place["path"].removeprefix("/blobs/"), "PUT")
    await caches.blobs.write(ticket.key, _pieces(b"packed"))
    digest = hashlib.sha256(b"packed").hexdigest()
    done = {"key": "k", "entryId": place["entryId"], "sizeBytes": 6, "sha256": digest}
    await caches.ask("dependencies.commit", build, **done)
    await caches.ask("dependencies.reject", JOB, key="k", sha256="0" * 64)
    assert await caches.keys() == ["k"]
    await caches.ask("dependencies.reject", JOB, key="k", sha256=digest)
    assert await caches.keys() == []
    await caches.service.sweep()
    assert caches.objects() == []
