"""Webhooks through the Platform: answers, keeping, replay in order (PD-23…29)."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from kici.platform.relay.seal import Seal
from kici.protocol.platform_v1 import AckResult, WebhookAck, WebhookRelay
from tests.support import platform as kit
from tests.support.postgres import Database

HOOK = f"/webhook/{kit.ORG}/generic/hooks"


@pytest.fixture
def clock() -> kit.TestClock:
    return kit.TestClock()


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path, clock: kit.TestClock):
    async with kit.platform(
        platform_db, tmp_path, clock=clock, webhook_ack_timeout_ms=400, webhook_total_timeout_ms=600
    ) as served:
        yield served


async def rows(database: Database, statement: str):
    async with database.engine.connect() as tx:
        return (await tx.execute(text(statement))).all()


async def test_the_body_arrives_as_it_was_sent(served: kit.Served):
    body = bytes(range(256)) * 40
    async with kit.orchestrator(served) as orchestrator, served.client(token=None) as http:
        answer = await http.post(
            HOOK,
            content=body,
            headers=[(b"X-Custom", "Straße".encode("latin-1")), (b"X-GitHub-Event", b"push")],
        )
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == answer.json()["requestId"]
        ((head, relayed),) = orchestrator.relayed
        assert relayed == body
        assert head.request_id == answer.json()["requestId"]
        assert head.routing_key == f"generic:{kit.ORG}:hooks-id"
        assert head.headers["x-custom"] == "Straße"
        assert head.client_ip == "127.0.0.1"
        assert head.received_at_ms == kit.START_MS


@pytest.mark.parametrize(("behind", "told"), [("", None), ("/", None), ("/staging/eu", "/staging/eu")])
async def test_what_is_called_behind_a_source_is_handed_on(
    served: kit.Served, behind: str, told: str | None
):
    """OR-55: and never what the sender claims it was."""
    async with kit.orchestrator(served) as orchestrator, served.client(token=None) as http:
        answer = await http.post(HOOK + behind, content=b"{}", headers={"x-kici-path": "/forged"})
        assert answer.status_code == 200
        ((head, _),) = orchestrator.relayed
        assert head.headers.get("x-kici-path") == told


async def test_a_source_answers_to_its_id_too(served: kit.Served):
    async with kit.orchestrator(served), served.client(token=None) as http:
        assert (await http.post(f"/webhook/{kit.ORG}/generic/hooks-id", content=b"{}")).status_code == 200


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ("rejected_signature", 401),
        ("rejected_unknown_source", 404),
        ("rejected_misconfigured", 500),
        ("rejected_request", 400),
    ],
)
async def test_refusals_become_statuses(served: kit.Served, result: AckResult, status: int):
    async def refuse(_head: WebhookRelay, _body: bytes):
        return result

    async with kit.orchestrator(served, accept=refuse), served.client(token=None) as http:
        answer = await http.post(HOOK, content=b"{}")
        assert answer.status_code == status
        assert set(answer.json()) >= {"error", "code", "details", "traceId", "requestId"}


async def test_a_known_delivery_is_called_duplicate(served: kit.Served):
    async with kit.orchestrator(served) as orchestrator, served.client(token=None) as http:

        async def twice(head: WebhookRelay, _body: bytes):
            await orchestrator.send(
                WebhookAck(message_id=head.message_id, delivery_id="d-1", result="accepted", duplicate=True)
            )

        orchestrator.accept = twice
        answer = await http.post(HOOK, content=b"{}")
        assert (answer.status_code, answer.json()["duplicate"]) == (200, True)


async def test_unknown_sources_are_not_found_until_registered(served: kit.Served):
    async with served.client(token=None) as http:
        assert (await http.post(HOOK, content=b"{}")).status_code == 404  # remembered …
        async with kit.orchestrator(served):
            assert (await http.post(HOOK, content=b"{}")).status_code == 200  # … until it registers
            for path in (
                f"/webhook/{kit.ORG}/generic/other",
                "/webhook/org_zzzzzzzzzzzz/generic/hooks",
                f"/webhook/{kit.ORG}/github",
            ):
                answer = await http.post(path, content=b"{}")
                assert (answer.status_code, answer.json()["code"]) == (404, "unknown_source")
            assert (await http.get(HOOK)).status_code == 405


async def test_a_removed_source_is_not_found(served: kit.Served):
    async with kit.orchestrator(served) as orchestrator, served.client(token=None) as http:
        await orchestrator.register("another")
        assert (await http.post(HOOK, content=b"{}")).status_code == 404


async def test_too_large_is_refused_before_relaying(served: kit.Served):
    async def pieces():
        for _ in range(30):
            yield b"x" * 100

    async with kit.orchestrator(served, max_bytes=2000) as orchestrator, served.client(token=None) as http:
        assert (await http.post(HOOK, content=b"x" * 2001)).status_code == 413
        assert (await http.post(HOOK, content=pieces())).status_code == 413  # without Content-Length
        assert (await http.post(HOOK, content=b"x" * 2000)).status_code == 200
        assert len(orchestrator.relayed) == 1


async def test_kept_while_nobody_is_there_and_replayed_in_order(served: kit.Served, platform_db: Database):
    async with served.client(token=None) as http:
        async with kit.orchestrator(served):
            pass
        sent = []
        for number in range(150):
            answer = await http.post(HOOK, content=f"body {number}".encode())
            assert answer.status_code == 202
            assert answer.json()["queued"] is True
            sent.append((answer.json()["requestId"], f"body {number}".encode()))
        stored = await rows(platform_db, "SELECT sealed FROM webhook_inbox")
        assert not any(b"body" in row.sealed for row in stored)
        async with kit.orchestrator(served) as orchestrator:
            await kit.eventually(lambda: len(orchestrator.relayed) == 150)
            assert [(head.request_id, body) for head, body in orchestrator.relayed] == sent

            async def emptied():
                return not await rows(platform_db, "SELECT 1 FROM webhook_inbox")

            await kit.eventually(emptied)
            assert await rows(platform_db, "SELECT entries, bytes FROM webhook_inbox_usage") == [(0, 0)]
            await kit.eventually(lambda: not served.app.inbox.backlog)
            assert (await http.post(HOOK, content=b"live again")).status_code == 200


async def test_an_unanswered_webhook_is_kept_and_sent_again(served: kit.Served):
    silent = True

    async def accept(_head: WebhookRelay, _body: bytes):
        return None if silent else "accepted"

    async with kit.orchestrator(served, accept=accept) as orchestrator, served.client(token=None) as http:
        first = await http.post(HOOK, content=b"first")
        assert first.status_code == 202
        second = await http.post(HOOK, content=b"second")
        assert second.status_code == 202  # must not overtake the first
        silent = False
        await kit.eventually(lambda: not served.app.inbox.backlog)
        taken = [body for _, body in orchestrator.relayed]
        assert taken[-2:] == [b"first", b"second"]
        assert {head.request_id for head, body in orchestrator.relayed if body == b"first"} == {
            first.json()["requestId"]
        }


async def test_a_row_stays_until_it_is_acknowledged(served: kit.Served, platform_db: Database):
    async with served.client(token=None) as http:
        async with kit.orchestrator(served):
            pass
        await http.post(HOOK, content=b"precious")
        seen = asyncio.Event()

        async def die(_head: WebhookRelay, _body: bytes):
            seen.set()

        async with kit.orchestrator(served, accept=die):
            async with asyncio.timeout(10):
                await seen.wait()
        assert len(await rows(platform_db, "SELECT 1 FROM webhook_inbox")) == 1
        async with kit.orchestrator(served) as orchestrator:
            await kit.eventually(lambda: [body for _, body in orchestrator.relayed] == [b"precious"])


async def test_what_waits_survives_a_restart(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served, served.client(token=None) as http:
        async with kit.orchestrator(served):
            pass
        for number in range(3):
            await http.post(HOOK, content=f"{number}".encode())
    async with kit.platform(platform_db, tmp_path) as served:
        async with kit.orchestrator(served) as orchestrator:
            await kit.eventually(lambda: [body for _, body in orchestrator.relayed] == [b"0", b"1", b"2"])


async def test_the_inbox_is_bounded(platform_db: Database, tmp_path: Path):
    async with kit.platform(
        platform_db, tmp_path, webhook_inbox_max_entries=2, webhook_inbox_max_bytes=1000
    ) as served:
        async with kit.orchestrator(served):
            pass
        async with served.client(token=None) as http:
            assert (await http.post(HOOK, content=b"x" * 900)).status_code == 202
            full = await http.post(HOOK, content=b"x" * 200)
            assert (full.status_code, full.headers["retry-after"]) == (503, "5")
            assert (await http.post(HOOK, content=b"x" * 50)).status_code == 202
            assert (await http.post(HOOK, content=b"")).status_code == 503


async def test_switched_off_it_asks_to_try_again(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path, webhook_inbox="off") as served:
        async with kit.orchestrator(served):
            pass
        async with served.client(token=None) as http:
            answer = await http.post(HOOK, content=b"{}")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_old_webhooks_expire_and_the_log_says_so(
    served: kit.Served, platform_db: Database, clock: kit.TestClock
):
    async with kit.orchestrator(served):
        pass
    async with served.client(token=None) as http:
        await http.post(HOOK, content=b"{}")
    clock.advance(seconds=86_401)
    assert await served.app.inbox.expire() == 1
    assert not await rows(platform_db, "SELECT 1 FROM webhook_inbox")
    assert not served.app.inbox.backlog
    await served.app.event_log.flush()
    assert [row.status for row in await rows(platform_db, "SELECT status FROM event_log")] == ["expired"]


async def test_every_webhook_leaves_one_row_in_the_log(served: kit.Served, platform_db: Database):
    async def refuse_some(_head: WebhookRelay, body: bytes):
        return "accepted" if body == b"good" else "rejected_signature"

    async with served.client(token=None) as http:
        async with kit.orchestrator(served, accept=refuse_some):
            await http.post(HOOK, content=b"good", headers={"X-GitHub-Event": "push"})
            await http.post(HOOK, content=b"bad")
        await http.post(HOOK, content=b"later")
    await served.app.event_log.flush()
    logged = await rows(
        platform_db, "SELECT status, http_status, event, size_bytes FROM event_log ORDER BY request_id"
    )
    assert {tuple(row) for row in logged} == {
        ("received", 200, "push", 4),
        ("rejected", 401, None, 3),
        ("queued", 202, None, 5),
    }
    async with served.client() as http:
        page = (await http.get(f"{served.api}/deliveries")).json()
    assert {delivery["status"] for delivery in page["deliveries"]} == {"received", "rejected", "queued"}


async def test_many_at_once_each_get_their_own_answer(platform_db: Database, tmp_path: Path):
    async def by_body(_head: WebhookRelay, body: bytes):
        return "accepted" if msgspec.json.decode(body)["good"] else "rejected_signature"

    async with (
        kit.platform(platform_db, tmp_path) as served,
        kit.orchestrator(served, accept=by_body),
        served.client(token=None) as http,
    ):
        answers = await asyncio.gather(
            *(
                http.post(HOOK, content=msgspec.json.encode({"good": number % 3 == 0, "pad": "x" * 8000}))
                for number in range(150)
            )
        )
    assert [answer.status_code for answer in answers] == [200 if n % 3 == 0 else 401 for n in range(150)]


def test_a_sealed_body_opens_only_with_its_key_and_its_row():
    from cryptography.exceptions import InvalidTag

    seal = Seal("ab" * 32)
    sealed = seal.close("row-1", b"body")
    assert seal.open("row-1", sealed) == b"body"
    for other, row in ((Seal("cd" * 32), "row-1"), (seal, "row-2")):
        with pytest.raises(InvalidTag):
            other.open(row, sealed)
