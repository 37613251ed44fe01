"""GitHub's deliveries through a source of ours, and creation and deletion in local repositories (OR-45, OR-46,
OR-88, AU-80)."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.orchestrator.sources.service import NewGeneric, NewLocal
from kici.spec.lock import LockWorkflow
from kici.spec.triggers import (
    CommentTrigger,
    CreateTrigger,
    DeleteTrigger,
    DispatchTrigger,
    GenericWebhookTrigger,
    InputField,
    PrTrigger,
    PushTrigger,
    Trigger,
    WebhookAuth,
    WebhookTrigger,
)
from tests.db.ingress.builders import ORG, lock_job, lock_workflow
from tests.db.ingress.running import Repo, Running, ingress_on, signature
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

ZERO = "0" * 40


def workflow(name: str, *triggers: Trigger) -> LockWorkflow:
    return msgspec.structs.replace(lock_workflow(name, lock_job("build")), triggers=list(triggers))


async def github(running: Running, event: str, delivery: str, **payload: Any) -> None:
    repository = {"full_name": "acme/app", "default_branch": "main"}
    body = msgspec.json.encode({"repository": repository, "sender": {"login": "eve", "id": 3}, **payload})
    headers = {
        "x-github-event": event,
        "x-github-delivery": delivery,
        "x-hub-signature-256": signature("s3cret", body),
    }
    accepted = await running.send("gh", body, headers, client_ip="192.0.2.1")
    assert (accepted.status, accepted.delivery_id) == (202, delivery)
    await running.decided()


async def decisions(running: Running, delivery: str) -> dict[str, bool]:
    view = await running.ingress.deliveries.delivery(ORG, delivery)
    assert view.error is None
    return {decision.workflow_name: decision.matched for decision in view.decisions}


async def test_githubs_deliveries_start_what_their_repository_has(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-45, OR-46, OR-55, AU-80: at the pushed commit, else at the default branch; listeners elsewhere, too."""
    repo = Repo(tmp_path / "app")
    repo.commit_lock(
        workflow("ci", PushTrigger(branches=[])),
        workflow("review", PrTrigger()),
        workflow("chat", CommentTrigger(source=["pr"], body_match="/^\\/deploy/")),
        workflow("roll", WebhookTrigger(events=["deployment"])),
        workflow("run", DispatchTrigger(inputs=[InputField(name="n", type="integer", required=True)])),
    )
    head = repo.git("rev-parse", "main")
    other = Repo(tmp_path / "other")
    other.commit_lock(
        workflow("pushes", PushTrigger()),
        workflow("listens", GenericWebhookTrigger(source="gh", events=["deployment"])),
        workflow("any", WebhookTrigger(events=["deployment"])),
    )
    async with ingress_on(orchestrator_db) as running:
        add = running.ingress.sources.add
        await add(ORG, NewLocal(name="app", path=str(repo.path), repository="acme/app"))
        await add(ORG, NewLocal(name="other", path=str(other.path), repository="acme/other"))
        await add(
            ORG,
            NewGeneric(
                name="gh", verification_method="hmac_sha256", secret="s3cret", payload_format="github"
            ),
        )
        await running.push("other", other)
        await running.decided()
        await github(running, "push", "d1", ref="refs/heads/main", before=ZERO, after=head, created=True)
        assert await decisions(running, "d1") == {
            "ci": True,
            "review": False,
            "chat": False,
            "roll": False,
            "run": False,
            "any": False,
            "listens": False,
        }
        # A push that came this way has registered the repository as its own hook would.
        listed = await running.ingress.registrations.listing(ORG)
        assert len(listed.registrations) == 8
        comment = {"id": 1, "body": "/deploy now", "user": {"login": "eve"}}
        issue = {"number": 5, "pull_request": {}}
        await github(running, "issue_comment", "d2", action="created", issue=issue, comment=comment)
        assert [name for name, hit in (await decisions(running, "d2")).items() if hit] == ["chat"]
        await github(running, "deployment", "d3", action="created", deployment={"environment": "prod"})
        matched = {name for name, hit in (await decisions(running, "d3")).items() if hit}
        assert matched == {"roll", "any", "listens"}
        await github(running, "repository_dispatch", "d4", action="go", client_payload={"n": "4"})
        assert (await decisions(running, "d4"))["run"] is True
        await github(running, "repository_dispatch", "d5", action="go", client_payload={"m": "4"})
        view = await running.ingress.deliveries.delivery(ORG, "d5")
        refused = next(decision for decision in view.decisions if decision.workflow_name == "run")
        assert not refused.matched
        assert "input 'm' is not known" in refused.reason
        found = await running.rows(
            """SELECT workflow_name, trigger_event, sha = :head AS here, triggered_by, source_name, inputs
               FROM execution_runs WHERE delivery_id = ANY ('{d1,d2,d3,d4,d5}') ORDER BY delivery_id, id""",
            head=head,
        )
        assert [tuple(row.values()) for row in found] == [
            ("ci", "push", True, "eve", "app", {}),
            ("chat", "comment", True, "eve", "app", {}),
            ("roll", "webhook", True, "eve", "app", {}),
            ("listens", "generic_webhook", False, None, "gh", {}),
            ("any", "generic_webhook", False, None, "gh", {}),
            ("run", "dispatch", True, "eve", "app", {"n": 4}),
        ]


async def test_a_strangers_pull_request_is_not_run(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-65: nobody can approve it yet, so that it is refused in words."""
    repo = Repo(tmp_path / "app")
    head = repo.commit_lock(workflow("review", PrTrigger()))
    async with ingress_on(orchestrator_db) as running:
        add = running.ingress.sources.add
        await add(ORG, NewLocal(name="app", path=str(repo.path), repository="acme/app"))
        await add(
            ORG,
            NewGeneric(
                name="gh", verification_method="hmac_sha256", secret="s3cret", payload_format="github"
            ),
        )
        pull = {
            "head": {"ref": "x", "sha": head, "repo": {"full_name": "eve/app"}},
            "base": {"ref": "main", "sha": head, "repo": {"full_name": "acme/app"}},
        }
        await github(running, "pull_request", "d1", action="opened", pull_request=pull)
        view = await running.ingress.deliveries.delivery(ORG, "d1")
        assert (view.matched_count, view.decisions[0].reason) == (
            0,
            "Pull requests from forks wait for an approval: not run",
        )
        pull["head"]["repo"] = {"full_name": "acme/app"}
        await github(running, "pull_request", "d2", action="opened", pull_request=pull)
        assert await decisions(running, "d2") == {"review": True}


async def test_branches_that_come_and_go_in_a_local_repository(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-46, AU §5: the first push is `create`, too; a deletion runs at the default branch."""
    repo = Repo(tmp_path / "app")
    repo.commit_lock(
        workflow("made", CreateTrigger(ref_types=["branch"])),
        workflow("gone", DeleteTrigger(ref_types=["branch"])),
        workflow("pushed", PushTrigger()),
    )
    main = repo.git("rev-parse", "main")
    repo.git("checkout", "-q", "-b", "feature")
    head = repo.commit("Feature", {"a": "1"})
    async with ingress_on(orchestrator_db) as running:
        await running.ingress.sources.add(ORG, NewLocal(name="app", path=str(repo.path)))
        await running.push("app", repo, ref="refs/heads/feature", before=ZERO, after=head)
        await running.push("app", repo, ref="refs/heads/feature", before=main, after=head)
        await running.push("app", repo, ref="refs/heads/feature", before=head, after=ZERO)
        await running.push("app", repo, ref="refs/tags/v1", before=head, after=ZERO)
        await running.decided()
        found = await running.rows(
            "SELECT workflow_name, trigger_event, sha, branch FROM execution_runs ORDER BY workflow_name, id"
        )
        assert [tuple(row.values()) for row in found] == [
            ("gone", "delete", main, "main"),
            ("made", "create", head, "feature"),
            ("pushed", "push", head, "feature"),
            ("pushed", "push", head, "feature"),
        ]


async def test_auth_of_a_trigger_narrows_what_its_source_lets_in(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-55: by the same means and header, or not at all."""
    repo = Repo(tmp_path / "app")
    signed = WebhookAuth(kind="hmac", secret="hook", header="x-signature-256")
    repo.commit_lock(
        workflow("signed", GenericWebhookTrigger(source="hook", auth=signed)),
        workflow(
            "keyed",
            GenericWebhookTrigger(
                source="hook", auth=WebhookAuth(kind="api_key", secret="hook", header="x-key")
            ),
        ),
        workflow("open", GenericWebhookTrigger(source="bare", auth=signed)),
    )
    async with ingress_on(orchestrator_db) as running:
        add = running.ingress.sources.add
        await add(ORG, NewLocal(name="app", path=str(repo.path)))
        await add(ORG, NewGeneric(name="hook", verification_method="hmac_sha256", secret="s3cret"))
        await add(ORG, NewGeneric(name="bare", verification_method="none"))
        await running.push("app", repo)
        await running.decided()
        sent = {"x-signature-256": signature("s3cret", b"{}"), "x-delivery-id": "d1"}
        await running.send("hook", b"{}", sent)
        await running.send("bare", b"{}", {"x-delivery-id": "d2"})
        await running.decided()
        assert await decisions(running, "d1") == {"keyed": False, "signed": True}
        assert await decisions(running, "d2") == {"open": False}
        view = await running.ingress.deliveries.delivery(ORG, "d2")
        assert view.decisions[0].reason == ("generic_webhook.auth: wanted hmac:x-signature-256, got (none)")
