"""A restarted PostgreSQL slows the Platform down; it loses nothing (PD-30, design §5)."""

from pathlib import Path

from sqlalchemy import text

from kici.protocol.browser_v1 import RunChanged
from tests.support import platform as kit
from tests.support.browser import browser
from tests.support.postgres import Database

HOOK = f"/webhook/{kit.ORG}/generic/hooks"


async def cut_all(database: Database) -> None:
    """Every connection of the Platform dies, as in a restart."""
    async with database.engine.connect() as tx:
        await tx.execute(
            text("""
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'kici-platform' AND datname = current_database()
            """)
        )


async def test_requests_say_503_at_worst_and_soon_work_again(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served, served.client() as http:
        for _ in range(5):
            assert (await http.get(f"{served.api}/runs")).status_code == 200
            await cut_all(platform_db)

            async def works() -> bool:
                answer = await http.get(f"{served.api}/runs")
                assert answer.status_code in {200, 503}, answer.text
                return answer.status_code == 200

            await kit.eventually(works)


async def test_relay_and_projection_go_on(platform_db: Database, tmp_path: Path):
    runs = [kit.run_projection() for _ in range(6)]
    async with (
        kit.platform(platform_db, tmp_path) as served,
        kit.orchestrator(served) as orchestrator,
        browser(served) as one,
        served.client(token=None) as sender,
    ):
        await one.subscribe()
        for rev, run in enumerate(runs, 1):
            await cut_all(platform_db)
            assert (await sender.post(HOOK, content=b"{}")).status_code == 200  # needs no database
            await orchestrator.project(kit.item(rev, run.run_id, run=run))
            assert (await one.expect(RunChanged)).run_id == run.run_id
        assert len(orchestrator.relayed) == len(runs)
        await kit.eventually(lambda: served.app.connections.connected(kit.ORG))


async def test_a_webhook_is_kept_or_refused_never_dropped(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served, served.client(token=None) as sender:
        async with kit.orchestrator(served):
            pass
        kept: list[str] = []
        for number in range(8):
            await cut_all(platform_db)
            answer = await sender.post(HOOK, content=f"{number}".encode())
            assert answer.status_code in {202, 503}
            if answer.status_code == 202:
                kept.append(answer.json()["requestId"])
        async with kit.orchestrator(served) as orchestrator:
            await kit.eventually(lambda: [head.request_id for head, _ in orchestrator.relayed] == kept)
