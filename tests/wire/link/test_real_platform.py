"""The two real ends of the link: what an orchestrator knows is what the Platform's API shows."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
import pytest
import websockets

from kici.orchestrator.runs.projection import snapshot
from kici.protocol import browser_v1 as browser
from kici.protocol.dashboard_v1 import LogPage, LogSearchResult, RunList
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from tests.support import log_blocks, platform
from tests.support.linked_orchestrator import Orchestrator
from tests.support.platform import KEY, ORG, TOKEN, Served, eventually
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres
DATA = b"".join(b"line %d of the log\n" % number for number in range(3000))


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path) -> AsyncGenerator[Served]:
    async with platform.platform(platform_db, tmp_path) as started:
        yield started


class Linked(Orchestrator):
    """Connected to a real Platform, with one running job."""

    run_id = ""
    job_id = ""

    async def insert(self) -> None:
        """A run, its job and a step, told to the Platform as the orchestrator does it."""
        self.run_id, self.job_id = uuid7(), uuid7()
        ids = {"run": self.run_id, "job": self.job_id, "org": ORG}
        async with self.database.engine.begin() as tx:
            await tx.execute(
                text("""
                    INSERT INTO execution_runs (id, org_id, routing_key, source_name, source_subtype, provider,
                        workflow_name, workflow_file, workflow_export, content_hash, status, repo_identifier,
                        ref, sha, trigger_event, trigger_decision, event, dedup_key, request_id, jobs_open,
                        job_count)
                    VALUES (:run, :org, 'k', 's', 'local', 'local', 'ci', 'f', 'ci', 'h', 'running', 'r',
                        'refs/heads/main', 'abc', 'push', '{}', '{}', 'd', 'q', 1, 1)
                """),
                ids,
            )
            await tx.execute(
                text("""
                    INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, status,
                        runs_on, attempt)
                    VALUES (:job, :run, :org, 0, 'build', 'build', 'running', '{}', 1)
                """),
                ids,
            )
            await tx.execute(
                text("""
                    INSERT INTO execution_steps (job_id, attempt, step_index, run_id, step_name, step_type, status)
                    VALUES (:job, 1, 0, :run, 'test', 'step', 'running')
                """),
                ids,
            )
            await snapshot(tx, [self.run_id], job_ids=[self.job_id], steps=[(self.job_id, 1, 0)])
        self.wakeups.wake_here("outbox")


@pytest.fixture
async def linked(orchestrator_db: Database, served: Served, tmp_path: Path) -> AsyncGenerator[Linked]:
    made = Linked(orchestrator_db, served.url, tmp_path, org_id=ORG, token=KEY)
    async with asyncio.TaskGroup() as tasks:
        link = made.start(tasks)
        await eventually(lambda: link.webhook_url(f"generic:{ORG}:shop"))
        await made.insert()
        yield made
        await made.stop()
    await made.store.close()


async def test_runs_reach_the_platforms_list_and_leave_the_outbox(linked: Linked, served: Served) -> None:
    await linked.outbox_is([])
    async with served.client() as client:
        runs = msgspec.json.decode((await client.get(f"{served.api}/runs")).content, type=RunList)
    assert [(run.run_id, run.status) for run in runs.runs] == [(linked.run_id, "running")]


async def test_a_webhook_reaches_the_orchestrator_as_it_was_sent(linked: Linked, served: Served) -> None:
    body = bytes(range(256)) * 100
    async with served.client(token=None) as client:
        answer = await client.post(
            f"{served.url}/webhook/{ORG}/generic/shop", content=body, headers={"x-signature": "abc"}
        )
    assert answer.status_code == 200
    (delivery,) = linked.deliveries
    assert delivery.body == body
    assert delivery.headers["x-signature"] == "abc"
    assert delivery.routing_key == f"generic:{ORG}:shop"


async def test_logs_are_read_searched_and_downloaded(linked: Linked, served: Served) -> None:
    for record in log_blocks.records(DATA, range(0, len(DATA), 5000), job_id=linked.job_id):
        linked.store.append(linked.run_id, record)
    await linked.store.finalize(linked.run_id, linked.job_id, 1, 0)
    step = f"{served.api}/runs/{linked.run_id}/jobs/{linked.job_id}/steps/0/logs"
    async with served.client() as client:
        page = msgspec.json.decode(
            (await client.get(step, params={"offset": 1500, "limit": 2})).content, type=LogPage
        )
        assert page.lines == ["line 1500 of the log", "line 1501 of the log"]
        last = msgspec.json.decode((await client.get(step, params={"tail": 1})).content, type=LogPage)
        assert (last.lines, last.complete) == (["line 2999 of the log"], True)
        found = msgspec.json.decode(
            (await client.get(f"{step}/search", params={"q": "LINE 2[0-9]7 ", "regex": "true"})).content,
            type=LogSearchResult,
        )
        assert [match.line for match in found.matches] == [*range(207, 300, 10)]
        raw = await client.get(f"{step}/raw")
        assert raw.content == DATA
        bad = await client.get(f"{step}/search", params={"q": "(", "regex": "true"})
        assert (bad.status_code, bad.json()["code"]) == (400, "bad_pattern")
        absent = await client.get(step.replace(linked.job_id, uuid7()))
        assert absent.status_code == 404


async def test_a_browser_follows_a_running_step_line_by_line(linked: Linked, served: Served) -> None:
    records = log_blocks.records(DATA, range(0, len(DATA), 997), job_id=linked.job_id)
    for record in records[:20]:
        linked.store.append(linked.run_id, record)
    known = (await linked.logs.read(ORG, linked.run_id, linked.job_id, 0)).lines
    lines: dict[int, str] = {}
    async with websockets.connect(
        served.url.replace("http", "ws") + "/ws/dashboard", max_size=None
    ) as socket:
        await socket.send(browser.encode(browser.AuthRequest(token=TOKEN)).decode())
        await socket.send(
            browser.encode(
                browser.LogSubscribe(
                    org_id=ORG,
                    run_id=linked.run_id,
                    job_id=linked.job_id,
                    step_index=0,
                    after_line_count=len(known) - 1,  # the last one may have been open
                )
            ).decode()
        )
        written = 20
        async with asyncio.timeout(20):
            while True:
                frame = browser.decode_to_browser(await socket.recv())
                match frame:
                    case browser.LogLines():
                        lines.update(enumerate(frame.lines, frame.first_line))
                        if written < len(records):
                            linked.store.append(linked.run_id, records[written])
                            written += 1
                            if written == len(records):
                                await linked.store.finalize(linked.run_id, linked.job_id, 1, 0)
                    case browser.LogEnded():
                        assert frame.reason == "complete"
                        break
                    case browser.LogGap():
                        raise AssertionError(f"lost lines: {frame}")
                    case _:
                        pass
    expected = log_blocks.texts(log_blocks.lines(DATA))
    assert lines == dict(enumerate(expected[len(known) - 1 :], len(known) - 1))
