"""What is accepted is on disk, once; what is refused says why (OR-30…34)."""

import asyncio
import hashlib
from typing import Any

import pytest

from kici.orchestrator.inbox.writer import InboxUnavailable
from kici.orchestrator.sources.service import NewGeneric, NewLocal, SourceChange
from tests.db.ingress.builders import ORG
from tests.db.ingress.running import Repo, Running, ingress_on, signature
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

BODY = b'{"env": "prod"}'


async def with_hmac(running: Running, **more: Any) -> None:
    await running.ingress.sources.add(
        ORG, NewGeneric(name="hook", verification_method="hmac_sha256", secret="s3cret", **more)
    )


def signed(headers: dict[str, str] | None = None, *, secret: str = "s3cret") -> dict[str, str]:
    """Headers of BODY as a genuine sender writes them."""
    return {"x-signature-256": signature(secret, BODY), **(headers or {})}


async def test_a_signed_delivery_is_stored_before_it_is_answered(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        answer = await running.send(
            "hook",
            BODY,
            signed({"x-event-type": "deploy", "x-delivery-id": "d1", "authorization": "Bearer x"}),
        )
        assert (answer.result, answer.status, answer.delivery_id) == ("accepted", 202, "d1")
        (row,) = await running.rows("SELECT * FROM inbox")
        assert bytes(row["body"]) == BODY
        assert (row["event"], row["action"], row["via"]) == ("generic_webhook", "deploy", "direct")
        assert row["body_size"] == len(BODY)
        assert "authorization" not in row["headers"]
        assert row["headers"]["x-event-type"] == "deploy"
        assert row["processed_at"] is None


HMAC_CASES = {
    "prefixed": (signature("s3cret", BODY), 202),
    "bare hex": (signature("s3cret", BODY).removeprefix("sha256="), 202),
    "upper-case hex": ("sha256=" + signature("s3cret", BODY).removeprefix("sha256=").upper(), 202),
    "other secret": (signature("other", BODY), 401),
    "other body": (signature("s3cret", b"{}"), 401),
    "not hex": ("sha256=zz", 401),
    "odd length": ("sha256=abc", 401),
    "empty": ("", 401),
    "sha1": ("sha1=" + hashlib.sha1(BODY).hexdigest(), 401),
    "not ascii": ("sha256=ü", 401),
    "missing": (None, 401),
}


@pytest.mark.parametrize("case", HMAC_CASES)
async def test_hmac(orchestrator_db: Database, case: str) -> None:
    """OR-16, OR-30: raw bytes, malformed hex is a plain mismatch, nothing refused is stored."""
    header, status = HMAC_CASES[case]
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        answer = await running.send("hook", BODY, {} if header is None else {"x-signature-256": header})
        assert answer.status == status
        assert answer.result == ("accepted" if status == 202 else "rejected_signature")
        assert "s3cret" not in str(answer)
        (count,) = await running.rows("SELECT count(*) AS n FROM inbox")
        assert count["n"] == (1 if status == 202 else 0)


async def test_two_secrets_are_active_while_one_is_replaced(orchestrator_db: Database) -> None:
    """OR-15."""
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        await running.ingress.sources.change(ORG, "hook", SourceChange(add_secret="newer"))
        assert (await running.send("hook", BODY, signed(secret="s3cret"))).status == 202
        assert (await running.send("hook", BODY, signed(secret="newer"))).status == 202
        await running.ingress.sources.change(ORG, "hook", SourceChange(secrets=["newer"]))
        assert (await running.send("hook", BODY, signed(secret="s3cret"))).status == 401
        assert (await running.send("hook", BODY, signed(secret="newer"))).status == 202


@pytest.mark.parametrize(
    ("fields", "headers", "client_ip", "status"),
    [
        (
            {"verification_method": "bearer_token", "secret": "t"},
            {"authorization": "Bearer t"},
            "9.9.9.9",
            202,
        ),
        (
            {"verification_method": "bearer_token", "secret": "t"},
            {"authorization": "Bearer x"},
            "9.9.9.9",
            401,
        ),
        ({"verification_method": "bearer_token", "secret": "t"}, {}, "9.9.9.9", 401),
        (
            {"verification_method": "api_key", "secret": "k", "header_name": "X-Key"},
            {"x-key": "k"},
            None,
            202,
        ),
        (
            {"verification_method": "api_key", "secret": "k", "header_name": "X-Key"},
            {"x-key": "kk"},
            None,
            401,
        ),
        ({"verification_method": "ip_allowlist", "allowlist": ["10.0.0.0/8"]}, {}, "10.1.2.3", 202),
        ({"verification_method": "ip_allowlist", "allowlist": ["10.0.0.0/8"]}, {}, "::ffff:10.1.2.3", 202),
        ({"verification_method": "ip_allowlist", "allowlist": ["10.0.0.0/8"]}, {}, "11.1.2.3", 401),
        ({"verification_method": "ip_allowlist", "allowlist": ["10.0.0.0/8"]}, {}, None, 401),
        ({"verification_method": "none"}, {}, None, 202),
    ],
)
async def test_other_methods(
    orchestrator_db: Database,
    fields: dict[str, Any],
    headers: dict[str, str],
    client_ip: str | None,
    status: int,
) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await running.ingress.sources.add(ORG, NewGeneric(name="hook", **fields))
        answer = await running.send("hook", BODY, headers, client_ip=client_ip)
        assert answer.status == status
        kept = await running.rows("SELECT headers FROM inbox")
        assert all(set(row["headers"]).isdisjoint(("authorization", "x-key")) for row in kept)


async def test_the_same_delivery_twice_is_one_row(orchestrator_db: Database) -> None:
    """OR-34; through both doors."""
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        first = await running.send("hook", BODY, signed({"x-delivery-id": "d1"}))
        second = await running.send("hook", BODY, signed({"x-delivery-id": "d1"}), via="relay")
        other = await running.send("hook", BODY, signed({"x-delivery-id": "d2"}))
        assert [(a.status, a.duplicate) for a in (first, second, other)] == [
            (202, False),
            (200, True),
            (202, False),
        ]
        assert second.result == "accepted"
        assert await running.rows("SELECT count(*) AS n FROM inbox") == [{"n": 2}]


async def test_a_key_that_comes_back_after_its_window_is_a_new_delivery(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        await running.send("hook", BODY, signed({"x-delivery-id": "d1"}))
        await running.execute("UPDATE inbox SET dedup_until = now() - interval '1 second'")
        again = await running.send("hook", BODY, signed({"x-delivery-id": "d1"}))
        assert (again.status, again.duplicate) == (202, False)
        third = await running.send("hook", BODY, signed({"x-delivery-id": "d1"}))
        assert third.duplicate
        assert await running.rows("SELECT count(*) AS n FROM inbox") == [{"n": 2}]


async def test_a_burst_with_doubles_is_stored_exactly_once_each(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running, rate_limit_rpm=0)
        ids = [f"d{number % 150}" for number in range(450)]
        answers = await asyncio.gather(
            *(running.send("hook", BODY, signed({"x-delivery-id": delivery})) for delivery in ids)
        )
        assert all(answer.result == "accepted" for answer in answers)
        assert sum(not answer.duplicate for answer in answers) == 150
        assert await running.rows("SELECT count(*) AS n, count(DISTINCT delivery_id) AS d FROM inbox") == [
            {"n": 150, "d": 150}
        ]


async def test_where_event_type_and_delivery_id_come_from(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await running.ingress.sources.add(
            ORG,
            NewGeneric(
                name="hook",
                verification_method="none",
                event_type_header="X-Kind",
                event_type_path="$.meta.kind",
                idempotency_key_header="X-Key",
                idempotency_key_path="$.meta.id",
            ),
        )
        await running.send("hook", {"meta": {"kind": "a", "id": 7}})
        await running.send("hook", {"meta": {"kind": "a", "id": 7}}, {"x-kind": "b", "x-key": "k"})
        bare = await running.send("hook", {}, {"x-delivery-id": "ignored"})
        found = await running.rows("SELECT action, delivery_id FROM inbox ORDER BY received_at, id")
        assert [(row["action"], row["delivery_id"]) for row in found] == [
            ("a", "7"),
            ("b", "k"),
            (None, bare.delivery_id),
        ]
        assert bare.delivery_id != "ignored"


async def test_size_rate_and_unknown_sources(orchestrator_db: Database) -> None:
    """OR-31, OR-32."""
    async with ingress_on(orchestrator_db, worker=False) as running:
        await running.ingress.sources.add(
            ORG,
            NewGeneric(name="hook", verification_method="none", max_payload_bytes=10, rate_limit_rpm=2),
        )
        large = await running.send("hook", b"x" * 11)
        assert (large.status, large.max_bytes, large.result) == (413, 10, "rejected_request")
        assert [(await running.send("hook", b"{}")).status for _ in range(2)] == [202, 202]
        limited = await running.send("hook", b"{}")
        assert limited.status == 429
        assert limited.retry_after_s is not None
        assert 1 <= limited.retry_after_s <= 30
        missing = await running.send("nobody", b"{}")
        assert (missing.status, missing.result) == (404, "rejected_unknown_source")


async def test_a_disabled_or_removed_source_is_unknown(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        await running.ingress.sources.change(ORG, "hook", SourceChange(enabled=False))
        assert (await running.send("hook", BODY, signed())).status == 404
        await running.ingress.sources.change(ORG, "hook", SourceChange(enabled=True))
        assert (await running.send("hook", BODY, signed())).status == 202
        await running.ingress.sources.remove(ORG, "hook")
        assert (await running.send("hook", BODY, signed())).status == 404
        assert (await running.rows("SELECT secrets FROM sources")) == [{"secrets": None}]
        await with_hmac(running)  # the name is free again


async def test_an_event_that_is_not_allowed_is_answered_and_marked(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db) as running:
        await with_hmac(running, allowed_events=["deploy"])
        answer = await running.send("hook", BODY, signed({"x-event-type": "ping"}))
        assert (answer.status, answer.filtered, answer.result) == (200, True, "accepted")
        await running.decided()
        assert await running.rows("SELECT status, matched_count FROM event_log") == [
            {"status": "filtered", "matched_count": 0}
        ]


async def test_a_secret_that_does_not_open_is_a_misconfigured_source(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        await running.execute("UPDATE sources SET secrets = '\\x0100'::bytea")
        await running.ingress.index.load()
        answer = await running.send("hook", BODY, signed())
        assert (answer.status, answer.result) == (500, "rejected_misconfigured")


async def test_stored_secrets_are_sealed(orchestrator_db: Database) -> None:
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        (row,) = await running.rows("SELECT secrets, config::text AS config FROM sources")
        assert b"s3cret" not in bytes(row["secrets"])
        assert "s3cret" not in row["config"]
        listed = await running.ingress.sources.list(ORG)
        assert "s3cret" not in str(listed)


@pytest.mark.parametrize(
    ("headers", "client_ip", "via", "status"),
    [
        ({}, "127.0.0.1", "direct", 202),
        ({}, "::1", "direct", 202),
        ({}, "::ffff:127.0.0.1", "direct", 202),
        ({}, "10.0.0.5", "direct", 401),
        ({}, None, "direct", 401),
        ({"x-forwarded-for": "10.0.0.5"}, "127.0.0.1", "direct", 401),
        ({}, "127.0.0.1", "relay", 401),
    ],
)
async def test_a_local_source_takes_deliveries_from_this_machine(
    orchestrator_db: Database,
    tmp_path: Any,
    headers: dict[str, str],
    client_ip: str | None,
    via: str,
    status: int,
) -> None:
    """OR-18."""
    repo = Repo(tmp_path / "repo")
    async with ingress_on(orchestrator_db, worker=False) as running:
        await running.ingress.sources.add(ORG, NewLocal(name="repo", path=str(repo.path)))
        body = {"ref": "refs/heads/main", "after": "a" * 40}
        answer = await running.send(
            "repo", body, {"x-event-type": "push", **headers}, client_ip=client_ip, via=via
        )
        assert answer.status == status


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"{}", {}),
        (b"{}", {"x-event-type": "comment"}),
        (b"not json", {"x-event-type": "push"}),
        (b"[]", {"x-event-type": "push"}),
        (b"[" * 100_000, {"x-event-type": "push"}),
    ],
)
async def test_a_local_source_needs_json_and_a_known_event(
    orchestrator_db: Database, tmp_path: Any, body: bytes, headers: dict[str, str]
) -> None:
    repo = Repo(tmp_path / "repo")
    async with ingress_on(orchestrator_db, worker=False) as running:
        await running.ingress.sources.add(ORG, NewLocal(name="repo", path=str(repo.path)))
        answer = await running.send("repo", body, headers)
        assert (answer.status, answer.result) == (400, "rejected_request")


async def test_without_a_database_nothing_is_accepted(orchestrator_db: Database) -> None:
    """The sender hears 503 and keeps its delivery; afterwards all is as before."""
    async with ingress_on(orchestrator_db, worker=False) as running:
        await with_hmac(running)
        await running.execute("ALTER TABLE inbox RENAME TO away")
        with pytest.raises(InboxUnavailable) as caught:
            await running.send("hook", BODY, signed())
        assert caught.value.status == 503
        await running.execute("ALTER TABLE away RENAME TO inbox")
        assert (await running.send("hook", BODY, signed())).status == 202
