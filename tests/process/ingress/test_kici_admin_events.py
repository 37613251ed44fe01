"""`kici-admin event-dlq`, `event`, `trust` and `registration run` against a real orchestrator (OR-98, OR-99, OR-101,
OR-76, OR-242, seed 002)."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.runtime.database import text
from kici.spec.lock import LockWorkflow
from kici.spec.triggers import DispatchTrigger, InputField, KiciEventTrigger, ScheduleTrigger, Trigger
from tests.db.ingress.builders import lock_job, lock_workflow
from tests.db.ingress.running import Repo, eventually
from tests.process.ingress.orchestrator import Orchestrator, orchestrator
from tests.support.postgres import Database

pytestmark = [pytest.mark.postgres, pytest.mark.process]

QUICK = {
    "KICI_EVENT_ROUTER_MAX_DISPATCH_ATTEMPTS": "2",
    "KICI_EVENT_ROUTER_RETRY_BASE_BACKOFF_MS": "1",
    "KICI_EVENT_ROUTER_RETRY_SCAN_INTERVAL_MS": "50",
}


def workflow(name: str, *triggers: Trigger) -> LockWorkflow:
    return msgspec.structs.replace(lock_workflow(name, lock_job("build")), triggers=list(triggers))


async def ok(running: Orchestrator, *arguments: str) -> str:
    code, output, complaint = await running.admin(*arguments)
    assert code == 0, complaint
    return output


async def ok_json(running: Orchestrator, *arguments: str) -> Any:
    return json.loads(await ok(running, *arguments, "--json"))


async def metric(running: Orchestrator, name: str) -> float:
    shown = (await running.client.get(f"{running.url}/metrics")).text
    return next(float(line.rsplit(" ", 1)[1]) for line in shown.splitlines() if line.startswith(f"{name} "))


async def test_the_runbook_of_dead_letters(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-98, OR-99, seed 002: the log line, list, count, show, retry, discard, and the gauge back at 0."""
    repo = Repo(tmp_path / "shop")
    repo.commit_lock(workflow("bad", KiciEventTrigger(name="rollout")))
    payload = tmp_path / "payload.json"
    payload.write_text('{"env": "prod"}')
    async with orchestrator(orchestrator_db, tmp_path / "o", **QUICK) as running:
        await ok(running, "source", "add", "local", "--name", "shop", "--path", str(repo.path))
        await ok(running, "source", "trigger-local", "shop")

        async def registered() -> bool:
            return bool((await ok_json(running, "registration", "list"))["registrations"])

        await eventually(registered)
        async with orchestrator_db.engine.begin() as tx:
            await tx.execute(
                text(
                    """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                       $$ BEGIN RAISE 'the disk is full'; END $$"""
                )
            )
            await tx.execute(
                text(
                    "CREATE TRIGGER refuse BEFORE INSERT ON execution_runs"
                    " FOR EACH ROW EXECUTE FUNCTION refuse()"
                )
            )
        ids = [
            (await ok(running, "event", "emit", "rollout", "--payload-file", str(payload))).strip()
            for _ in range(2)
        ]

        async def both_dead() -> bool:
            return (await ok_json(running, "event-dlq", "count"))["count"] == 2

        await eventually(both_dead)
        lines = [
            json.loads(line)
            for line in running.log.read_text().splitlines()
            if '"message":"Event moved to DLQ"' in line
        ]
        assert {line["eventId"] for line in lines} == set(ids)
        assert {line["eventName"] for line in lines} == {"rollout"}
        assert all("the disk is full" in line["error"] for line in lines)
        assert await metric(running, "kici_orch_event_dlq_depth") == 2
        listed = await ok_json(running, "event-dlq", "list", "--limit", "1")
        assert listed["nextBefore"] is not None
        (first,) = listed["events"]
        assert (first["dlqReason"], first["attempts"]) == ("exhausted_retries", 2)
        assert "Next page: --before" in await ok(running, "event-dlq", "list", "--limit", "1")
        page = await ok_json(running, "event-dlq", "list", "--before", listed["nextBefore"])
        assert [event["eventId"] for event in page["events"]] == [i for i in ids if i != first["eventId"]]
        shown = await ok(running, "event-dlq", "show", ids[0])
        assert 'payload {"env":"prod"}' in shown
        assert "the disk is full" in shown

        async with orchestrator_db.engine.begin() as tx:
            await tx.execute(text("DROP TRIGGER refuse ON execution_runs"))
        assert "tried again" in await ok(running, "event-dlq", "retry", ids[0])

        async def started() -> bool:
            event = await ok_json(running, "event", "show", ids[0])
            return event["status"] == "processed" and event["matchedCount"] == 1

        await eventually(started)
        await ok(running, "event-dlq", "discard", ids[1], "--yes")
        assert (await ok(running, "event-dlq", "count")).strip() == "0"

        async def empty() -> bool:
            return await metric(running, "kici_orch_event_dlq_depth") == 0

        await eventually(empty)
        explained = await ok(running, "event", "list")
        assert "rollout" in explained
        assert "processed" in explained


async def test_trust_and_starts_by_hand(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-76, OR-101, OR-242: what is printed, and the exit codes of what is refused."""
    repo, other = Repo(tmp_path / "app"), Repo(tmp_path / "ops")
    target = InputField(name="target", type="string", required=True)
    repo.commit_lock(
        workflow("deploy", DispatchTrigger(inputs=[target])),
        workflow("nightly", ScheduleTrigger(cron="0 3 * * *")),
    )
    other.commit_lock(workflow("watch", KiciEventTrigger(name="e")))
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        for made in (repo, other):
            name = made.path.name
            await ok(running, "source", "add", "local", "--name", name, "--path", str(made.path))
            await ok(running, "source", "trigger-local", name)

        async def registered() -> Any:
            listed = (await ok_json(running, "registration", "list"))["registrations"]
            return {entry["workflowName"]: entry for entry in listed} if len(listed) == 3 else None

        registrations = await eventually(registered)
        assert registrations["nightly"]["nextFireAt"].endswith("T03:00:00Z")
        assert "T03:00:00Z" in await ok(running, "registration", "list")
        deploy = registrations["deploy"]["id"]
        run_id = (await ok(running, "registration", "run", deploy, "-i", "target=prod")).strip()
        detail = (await ok_json(running, "runs", "show", run_id))["run"]
        assert (detail["triggerEvent"], detail["inputs"]) == ("dispatch", {"target": "prod"})

        assert "ops takes events of app" in await ok(running, "trust", "add", "app", "ops", "--event", "e*")
        (row,) = (await ok_json(running, "trust", "list"))["trust"]
        assert (row["sourceRepo"], row["targetRepo"], row["allowedEvents"]) == ("app", "ops", ["e*"])
        assert "e*" in await ok(running, "trust", "list")
        for code, words, arguments in (
            (1, "already", ["trust", "add", "app", "ops"]),
            (2, "no sources have the repository", ["trust", "add", "app", "nowhere"]),
            (1, "no trust", ["trust", "remove", "nothing"]),
            (2, "'target' is missing", ["registration", "run", deploy]),
            (2, "NAME=VALUE", ["registration", "run", deploy, "-i", "target"]),
            (1, "no registration", ["registration", "run", "nothing"]),
            (1, "no such event", ["event-dlq", "retry", "nothing"]),
            (2, "--yes", ["event-dlq", "discard", row["id"]]),
            (1, "no such event", ["event-dlq", "discard", row["id"], "--yes"]),
            (1, "no such event", ["event", "show", row["id"]]),
            (2, "kept for KiCI", ["event", "emit", "__job_complete"]),
            (2, "JSON object", ["event", "emit", "e", "--payload-file", "/nowhere"]),
        ):
            found, _, complaint = await running.admin(*arguments)
            assert (found, words in complaint) == (code, True), (arguments, found, complaint)
        assert "removed" in await ok(running, "trust", "remove", row["id"])
        assert (await ok_json(running, "trust", "list"))["trust"] == []
