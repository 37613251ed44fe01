"""`kici-admin` against a real orchestrator: what it prints, and its exit codes (OR-242)."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.spec.triggers import PushTrigger
from tests.db.ingress.builders import lock_job, lock_workflow
from tests.db.ingress.running import Repo
from tests.process.ingress.orchestrator import Orchestrator, orchestrator
from tests.support.postgres import Database

pytestmark = [pytest.mark.postgres, pytest.mark.process]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "shop")
    ci = lock_workflow("ci", lock_job("build", labels=("gpu",)), lock_job("ship", "build"))
    made.commit_lock(msgspec.structs.replace(ci, triggers=[PushTrigger()]), message="Sell things")
    return made


async def ok(running: Orchestrator, *arguments: str) -> str:
    code, output, complaint = await running.admin(*arguments)
    assert code == 0, complaint
    return output


async def ok_json(running: Orchestrator, *arguments: str) -> Any:
    return json.loads(await ok(running, *arguments, "--json"))


async def test_the_day_of_an_operator(orchestrator_db: Database, tmp_path: Path, repo: Repo) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        added = await ok(running, "source", "add", "local", "--name", "shop", "--path", str(repo.path))
        assert str(repo.path) in added
        hook = await ok_json(
            running,
            "source",
            "add",
            "generic",
            "--name",
            "hook",
            "--secret",
            f"@{secret}",
            "--rate-limit",
            "0",
        )
        assert hook["directUrl"].endswith("/generic/hook")
        assert "s3cret" not in str(hook)
        listed = await ok(running, "source", "list")
        assert "hmac_sha256" in listed
        await ok(running, "source", "disable", "hook")
        assert "disabled" in await ok(running, "source", "get", "hook")
        await ok(running, "source", "enable", hook["source"]["id"])
        await ok(running, "source", "update", "hook", "--add-secret", "other", "--rate-limit", "7")
        assert (await ok_json(running, "source", "get", hook["source"]["routingKey"]))["source"][
            "rateLimitRpm"
        ] == 7

        assert "accepted push of refs/heads/main" in await ok(running, "source", "trigger-local", "shop")
        (run,) = await running.runs(1)
        table = await ok(running, "runs", "list", "--status", "queued", "--workflow", "ci")
        assert run["runId"] in table
        assert "No runs." in await ok(running, "runs", "list", "--status", "failed")
        code, _, complaint = await running.admin("runs", "list", "--status", "faild")
        assert code == 2
        assert "'faild' is unknown: it is one of pending, queued," in complaint
        shown = await ok(running, "runs", "show", run["runId"])
        assert "Push to main" in shown
        assert "Waits for build" in shown
        assert "gpu" in await ok(running, "queue", "list")

        deliveries = await ok_json(running, "event-log", "list")
        delivery = deliveries["deliveries"][0]["deliveryId"]
        explained = await ok(running, "event-log", "show", delivery)
        assert "✓ ci: Push to main" in explained
        registered = await ok_json(running, "registration", "list")
        registration = registered["registrations"][0]["id"]
        await ok(running, "registration", "disable", registration)
        assert "disabled" in await ok(running, "registration", "list")
        await ok(running, "registration", "enable", registration)

        token = await ok_json(running, "agent", "register", "--label", "gpu")
        assert token["id"] in await ok(running, "agent", "list")
        await ok(running, "agent", "revoke", token["id"])
        assert "revoked" in await ok(running, "agent", "list")

        assert "cancelled" in await ok(running, "runs", "cancel", run["runId"])
        assert (await ok_json(running, "runs", "show", run["runId"]))["run"]["status"] == "cancelled"
        await ok(running, "source", "remove", "hook", "--yes")
        assert "hook" not in await ok(running, "source", "list")


async def test_exit_codes(orchestrator_db: Database, tmp_path: Path, repo: Repo) -> None:
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        cases: list[tuple[int, str, list[str], dict[str, str]]] = [
            (1, "no source", ["source", "get", "nobody"], {}),
            (1, "no run", ["runs", "show", "nothing"], {}),
            (1, "no delivery", ["event-log", "show", "nothing"], {}),
            (1, "no dead delivery", ["event-log", "retry", "nothing"], {}),
            (2, "--yes", ["source", "remove", "nobody"], {}),
            (2, "secret is needed", ["source", "add", "generic", "--name", "x"], {}),
            (2, "not a source name", ["source", "add", "generic", "--name", "a b", "--secret", "x"], {}),
            (2, "git repository", ["source", "add", "local", "--name", "x", "--path", str(tmp_path)], {}),
            (2, "cannot read", ["source", "add", "generic", "--name", "x", "--secret", "@/nowhere"], {}),
            (2, "what is to change", ["source", "update", "x"], {}),
            (2, "No such option", ["source", "list", "--wrong"], {}),
            (3, "cannot reach", ["source", "list"], {"KICI_ADMIN_URL": "http://127.0.0.1:9"}),
            (4, "admin token", ["source", "list"], {"KICI_ADMIN_TOKEN": "wrong"}),
        ]
        for code, words, arguments, environment in cases:
            found, output, complaint = await running.admin(*arguments, **environment)
            assert (found, output) == (code, ""), (arguments, output, complaint)
            assert words in complaint, complaint
        await ok(running, "source", "add", "local", "--name", "shop", "--path", str(repo.path))
        code, _, complaint = await running.admin(
            "source", "add", "local", "--name", "shop", "--path", str(repo.path)
        )
        assert (code, "already" in complaint) == (1, True)
