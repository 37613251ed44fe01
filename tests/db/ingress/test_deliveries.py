"""From a stored delivery to its runs, exactly once, whatever happens in between (OR-35, OR-50…62, OR-94)."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.sources.service import NewGeneric, NewLocal
from kici.protocol.dashboard_v1 import DeliveryView
from kici.spec.lock import LOCK_PATH, Container, LockWorkflow
from kici.spec.triggers import (
    GenericWebhookTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    TagTrigger,
    Trigger,
    WebhookTrigger,
)
from tests.db.ingress.builders import ORG, lock_job, lock_workflow
from tests.db.ingress.running import Repo, Running, eventually, ingress_on, lock_text
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


def globs(*texts: str) -> list[Pattern]:
    return [Pattern(type="glob", pattern=text) for text in texts]


def workflow(name: str, *triggers: Trigger) -> LockWorkflow:
    return msgspec.structs.replace(lock_workflow(name, lock_job("build")), triggers=list(triggers))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "app")


async def watch(running: Running, repo: Repo) -> None:
    await running.ingress.sources.add(ORG, NewLocal(name="repo", path=str(repo.path)))


async def delivery(running: Running, delivery_id: str) -> DeliveryView:
    await running.decided()
    return await running.ingress.deliveries.delivery(ORG, delivery_id)


async def test_a_push_starts_the_workflows_that_match_and_explains_the_others(
    orchestrator_db: Database, repo: Repo
) -> None:
    sha = repo.commit_lock(
        workflow("ci", PushTrigger(branches=globs("main"))),
        workflow("release", TagTrigger()),
        workflow("docs", PushTrigger(branches=globs("docs/**"))),
        message="Say hello\n\nAnd more.",
    )
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        answer = await running.push("repo", repo, delivery_id="d1")
        assert answer.status == 202
        view = await delivery(running, "d1")
        assert (view.status, view.matched_count, view.repo_identifier, view.ref) == (
            "processed",
            1,
            "app",
            "refs/heads/main",
        )
        assert [(d.workflow_name, d.matched, d.reason) for d in view.decisions] == [
            ("ci", True, "Push to main matches main"),
            ("release", False, "No trigger for push events (it has tag)"),
            ("docs", False, "push.branches: wanted docs/**, got main"),
        ]
        (run,) = await running.rows("SELECT * FROM execution_runs")
        assert run["id"] == view.decisions[0].run_id == run["trigger_decision"]["runId"]
        assert (run["sha"], run["branch"], run["ref"]) == (sha, "main", "refs/heads/main")
        assert run["commit_message"] == "Say hello\n\nAnd more."
        assert (run["repo_url"], run["repo_identifier"]) == (str(repo.path), "app")
        assert (run["trigger_event"], run["triggered_by"]) == ("push", "ada")
        assert run["event"]["targetBranch"] == "main"
        assert run["event"]["payload"]["after"] == sha
        payload = await running.ingress.deliveries.payload(ORG, run["id"])
        assert payload.event == "push"
        assert payload.payload["after"] == sha
        assert payload.headers["x-event-type"] == "push"
        assert payload.size_bytes > 50


async def test_the_commit_decides_not_the_work_tree(orchestrator_db: Database, repo: Repo) -> None:
    """OR-60."""
    repo.commit_lock(workflow("old", PushTrigger()))
    (repo.path / LOCK_PATH).write_text(lock_text(workflow("new", PushTrigger())))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        view = await delivery(running, "d1")
        assert [d.workflow_name for d in view.decisions] == ["old"]


async def test_commits_that_come_after_the_reader_started_are_found(
    orchestrator_db: Database, repo: Repo
) -> None:
    async with ingress_on(orchestrator_db) as running:
        repo.commit_lock(workflow("w0", PushTrigger()))
        await watch(running, repo)
        for number in range(1, 4):
            await running.push("repo", repo, delivery_id=f"d{number}")
            await running.decided()
            repo.commit_lock(workflow(f"w{number}", PushTrigger()))
        repo.git("gc", "-q", "--prune=now")
        await running.push("repo", repo, delivery_id="d4")
        await running.decided()
        found = await running.rows("SELECT workflow_name FROM execution_runs ORDER BY id")
        assert [row["workflow_name"] for row in found] == ["w0", "w1", "w2", "w3"]


async def test_a_repository_that_was_replaced_is_read_anew(orchestrator_db: Database, repo: Repo) -> None:
    async with ingress_on(orchestrator_db) as running:
        repo.commit_lock(workflow("before", PushTrigger()))
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        await running.decided()
        repo.path.rename(repo.path.with_name("moved"))
        other = Repo(repo.path)
        other.commit_lock(workflow("after", PushTrigger()))
        await running.push("repo", other, delivery_id="d2")
        assert [d.workflow_name for d in (await delivery(running, "d2")).decisions] == ["after"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [({"src/a.py": "1"}, True), ({"README.md": "1"}, False), ({"src/a.md": "1"}, False)],
)
async def test_changed_files_are_worked_out_when_a_trigger_asks(
    orchestrator_db: Database, repo: Repo, files: dict[str, str], expected: bool
) -> None:
    """OR-52."""
    before = repo.commit_lock(workflow("ci", PushTrigger(paths=globs("src/**", "!**/*.md"))))
    repo.commit("Change", files)
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1", before=before)
        (decision,) = (await delivery(running, "d1")).decisions
        assert decision.matched is expected
        await running.push("repo", repo, delivery_id="d2")  # a new branch: nobody knows what changed
        (decision,) = (await delivery(running, "d2")).decisions
        assert decision.matched
        assert "not known" in decision.checks[-1].actual


async def test_tags_pull_requests_and_deletions(orchestrator_db: Database, repo: Repo) -> None:
    """OR-45, OR-46."""
    base = repo.commit_lock(
        workflow("release", TagTrigger(patterns=globs("v*"))),
        workflow("review", PrTrigger(target=globs("main"), paths=globs("src/**"))),
        workflow("ci", PushTrigger()),
    )
    repo.git("tag", "-a", "-m", "One", "v1")
    annotated = repo.git("rev-parse", "refs/tags/v1")
    repo.git("checkout", "-q", "-b", "feature")
    head = repo.commit("Feature", {"src/a.py": "1"})
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.send(
            "repo",
            {"ref": "refs/tags/v1", "before": "0" * 40, "after": annotated},
            {"x-event-type": "push", "x-delivery-id": "tag"},
        )
        await running.send(
            "repo",
            {
                "action": "opened",
                "pull_request": {
                    "head": {"ref": "feature", "sha": head},
                    "base": {"ref": "main", "sha": base},
                },
            },
            {"x-event-type": "pull_request", "x-delivery-id": "pr"},
        )
        await running.push("repo", repo, delivery_id="gone", ref="refs/heads/old", after="0" * 40)
        await running.decided()
        found = await running.rows(
            "SELECT workflow_name, sha, ref, branch, trigger_event FROM execution_runs ORDER BY workflow_name"
        )
        assert [tuple(row.values()) for row in found] == [
            ("release", base, "refs/tags/v1", None, "tag"),
            ("review", head, "refs/heads/feature", "feature", "pull_request"),
        ]
        gone = await delivery(running, "gone")
        assert (gone.status, gone.matched_count) == ("processed", 0)
        # A deletion is decided at the head of the default branch (OR-46).
        assert gone.ref == "refs/heads/old"
        assert {d.reason.split(" (")[0] for d in gone.decisions} == {"No trigger for delete events"}


async def test_a_commit_without_lock_file_is_said_and_starts_nothing(
    orchestrator_db: Database, repo: Repo
) -> None:
    """OR-61, AU-104."""
    repo.commit("No workflows", {"a": "1"})
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        view = await delivery(running, "d1")
        assert view.status == "lockfile_missing"
        assert LOCK_PATH in view.decisions[0].reason
        assert await running.rows("SELECT count(*) AS n FROM execution_runs") == [{"n": 0}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "no schemaVersion"),
        ('{"schemaVersion": 99}', "schema version 99"),
        ('{"schemaVersion": 0}', "kici compile"),
        ('{"schemaVersion": 1}', "cannot be read"),
        (lock_text(workflow("x", PushTrigger())).replace('"push"', '"unheard"'), "unheard"),
        (lock_text(workflow("x", PushTrigger()), workflow("x", PushTrigger())), "two workflows"),
        ("[" * 200_000, "cannot be read"),
    ],
)
async def test_a_corrupt_lock_file_is_a_failed_run(
    orchestrator_db: Database, repo: Repo, content: str, message: str
) -> None:
    """OR-61, OR-210."""
    repo.commit("Broken", {LOCK_PATH: content})
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        view = await delivery(running, "d1")
        assert view.status == "lockfile_corrupt"
        assert view.error is not None
        assert message in view.error
        (run,) = await running.rows("SELECT * FROM execution_runs")
        assert (run["status"], run["init_failure"]["category"]) == ("failed", "lock_resolution")
        assert run["failure_reason"] == view.error
        assert run["id"] == view.decisions[0].run_id


async def test_a_repository_that_is_gone_is_a_failed_run(orchestrator_db: Database, repo: Repo) -> None:
    """OR-18."""
    sha = repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        repo.path.rename(repo.path.with_name("moved"))
        await running.send("repo", {"ref": "refs/heads/main", "after": sha}, {"x-event-type": "push"})
        await running.decided()
        (run,) = await running.rows("SELECT status, failure_reason, sha FROM execution_runs")
        assert run["status"] == "failed"
        assert str(repo.path) in run["failure_reason"]
        assert run["sha"] == sha


async def test_a_body_that_makes_no_sense_fails_at_once(orchestrator_db: Database, repo: Repo) -> None:
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.send("repo", {"ref": "--option"}, {"x-event-type": "push", "x-delivery-id": "d1"})
        view = await delivery(running, "d1")
        assert view.status == "failed"
        assert view.error is not None
        assert "ref" in view.error


async def test_what_an_earlier_life_stored_is_processed(orchestrator_db: Database, repo: Repo) -> None:
    """A crash between storing and processing loses nothing (OR-34)."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
    async with ingress_on(orchestrator_db) as running:
        assert (await delivery(running, "d1")).matched_count == 1


async def test_claims_of_an_earlier_life_are_free_at_once(orchestrator_db: Database, repo: Repo) -> None:
    """Killed while it held the row: the restarted instance does not wait for its own lease."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        await running.execute("UPDATE inbox SET claimed_by = 'one/dead', claimed_at = now(), attempts = 1")
    async with ingress_on(orchestrator_db, instance_id="one") as running:
        assert (await delivery(running, "d1")).matched_count == 1


async def test_a_lease_of_another_instance_is_respected_until_it_expires(
    orchestrator_db: Database, repo: Repo
) -> None:
    """OR-94, OR-96."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="held")
        await running.push("repo", repo, delivery_id="expired")
        await running.execute(
            """UPDATE inbox SET claimed_by = 'other/1', attempts = 1, claimed_at = now()
                   - CASE delivery_id WHEN 'held' THEN interval '1 s' ELSE interval '61 s' END"""
        )
    async with ingress_on(orchestrator_db) as running:

        async def processed() -> bool:
            return (await running.ingress.deliveries.delivery(ORG, "expired")).status == "processed"

        await eventually(processed)
        assert (await running.ingress.deliveries.delivery(ORG, "held")).status == "received"
        (row,) = await running.rows("SELECT attempts FROM inbox WHERE delivery_id = 'expired'")
        assert row["attempts"] == 2


async def test_two_instances_start_each_run_once(orchestrator_db: Database, repo: Repo) -> None:
    repo.commit_lock(workflow("ci", PushTrigger()), workflow("docs", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        for number in range(60):
            await running.push("repo", repo, delivery_id=f"d{number}")
    async with (
        ingress_on(orchestrator_db, instance_id="one") as running,
        ingress_on(orchestrator_db, instance_id="two"),
    ):
        await running.decided()
        counted = await running.rows(
            """SELECT count(*) AS runs, count(DISTINCT (delivery_id, workflow_name)) AS distinct_runs
               FROM execution_runs"""
        )
        assert counted == [{"runs": 120, "distinct_runs": 120}]
        assert await running.rows("SELECT count(*) AS n FROM event_log WHERE matched_count = 2") == [
            {"n": 60}
        ]


async def refuse_runs(running: Running, *, attempts: int) -> None:
    """The database refuses the first insertions of runs. A sequence counts on when a transaction fails."""
    await running.execute("CREATE SEQUENCE refusals")
    await running.execute(
        f"""CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF nextval('refusals') <= {attempts} THEN RAISE 'no room today'; END IF; RETURN NEW; END $$"""
    )
    await running.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON execution_runs FOR EACH ROW EXECUTE FUNCTION refuse()"
    )


async def test_a_passing_failure_is_retried(orchestrator_db: Database, repo: Repo) -> None:
    """OR-95."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await refuse_runs(running, attempts=2)
        await running.push("repo", repo, delivery_id="d1")

        async def looked() -> bool:
            running.ingress.worker.look()  # the retry scan, without its pause
            return await running.ingress.deliveries.pending() == 0

        await eventually(looked)
        assert (await delivery(running, "d1")).matched_count == 1
        (row,) = await running.rows("SELECT attempts, last_error, dlq_at FROM inbox")
        assert row == {"attempts": 3, "last_error": None, "dlq_at": None}


async def test_the_last_failure_leads_to_the_dead_letters(orchestrator_db: Database, repo: Repo) -> None:
    """OR-95, OR-98: visible, with its error, and never in the way of others."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await refuse_runs(running, attempts=3)
        await running.push("repo", repo, delivery_id="d1")

        async def looked() -> bool:
            running.ingress.worker.look()
            return await running.ingress.deliveries.pending() == 0

        await eventually(looked)
        view = await running.ingress.deliveries.delivery(ORG, "d1")
        assert view.status == "failed"
        assert view.error is not None
        assert "no room today" in view.error
        (row,) = await running.rows("SELECT attempts, dlq_at IS NOT NULL AS dead, processed_at FROM inbox")
        assert row == {"attempts": 3, "dead": True, "processed_at": None}
        await running.push("repo", repo, delivery_id="d2")
        assert (await delivery(running, "d2")).matched_count == 1


async def test_one_poisonous_delivery_does_not_stop_its_batch(
    orchestrator_db: Database, repo: Repo
) -> None:
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        for number in range(5):
            await running.push("repo", repo, delivery_id=f"d{number}")
        await running.execute(
            """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF NEW.delivery_id = 'd3' THEN RAISE 'no such run'; END IF; RETURN NEW; END $$"""
        )
        await running.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON execution_runs FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    async with ingress_on(orchestrator_db, retry_policy=RetryPolicy(max_attempts=1)) as running:
        await running.decided()
        found = await running.rows("SELECT delivery_id, status FROM event_log ORDER BY delivery_id")
        assert [row["status"] for row in found] == [
            "processed",
            "processed",
            "processed",
            "failed",
            "processed",
        ]
        assert await running.rows("SELECT count(*) AS n FROM execution_runs") == [{"n": 4}]


async def test_default_branch_pushes_register_workflows(orchestrator_db: Database, repo: Repo) -> None:
    """OR-70, OR-71: update, insert, delete; ids and the disabled mark stay."""
    repo.commit_lock(
        workflow("a", PushTrigger()), workflow("b", WebhookTrigger(events=["x"])), workflow("mute")
    )
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo)
        await running.decided()
        first = await running.ingress.registrations.listing(ORG)
        assert [(r.workflow_name, r.trigger_types) for r in first.registrations] == [
            ("a", ["push"]),
            ("b", ["webhook"]),
        ]
        assert first.registrations[0].source.name == "repo"
        assert first.registrations[0].repo_identifier == "app"
        assert first.registrations[0].last_triggered_at is not None
        await running.ingress.registrations.switch(ORG, first.registrations[0].id, disabled=True)
        sha = repo.commit_lock(workflow("a", TagTrigger()), workflow("c", PushTrigger()))
        await running.push("repo", repo)
        await running.decided()
        second = await running.ingress.registrations.listing(ORG)
        assert [(r.workflow_name, r.trigger_types, r.disabled) for r in second.registrations] == [
            ("a", ["tag"], True),
            ("c", ["push"], False),
        ]
        assert second.registrations[0].id == first.registrations[0].id
        assert {r.commit_sha for r in second.registrations} == {sha}
        assert second.registry_version > first.registry_version
        repo.git("checkout", "-q", "-b", "side")
        repo.commit_lock(workflow("only-on-side", PushTrigger()))
        await running.push("repo", repo, ref="refs/heads/side", after=repo.git("rev-parse", "side"))
        await running.decided()
        assert (await running.ingress.registrations.listing(ORG)) == second


async def test_a_registration_says_why_its_workflow_cannot_run(
    orchestrator_db: Database, repo: Repo
) -> None:
    """OR-210, OR-85: an option that this server lacks is refused by name, and is a problem before that."""
    contained = lock_job("build", container=Container(image="x"))
    repo.commit_lock(
        workflow("fine", TagTrigger()),
        workflow("elsewhere", PushTrigger(repos=globs("other"))),
        workflow("everywhere", PushTrigger(repos=globs("**"))),
        lock_workflow("contained", contained),
    )
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo)
        await running.decided()
        listed = (await running.ingress.registrations.listing(ORG)).registrations
        problems = {r.workflow_name: r.problem for r in listed}
        assert problems.pop("fine") is None
        assert "container (job build)" in (problems.pop("contained") or "")
        assert set(problems) == {"elsewhere", "everywhere"}
        assert all("repos (trigger push)" in (problem or "") for problem in problems.values())
        runs = await running.rows(
            "SELECT workflow_name, status, failure_reason FROM execution_runs ORDER BY workflow_name"
        )
        assert [(run["workflow_name"], run["status"]) for run in runs] == [
            ("contained", "failed"),
            ("everywhere", "failed"),
        ]
        assert "container (job build)" in runs[0]["failure_reason"]
        assert "repos (trigger push)" in runs[1]["failure_reason"]


async def test_an_older_push_does_not_overwrite_a_newer_one(orchestrator_db: Database, repo: Repo) -> None:
    old = repo.commit_lock(workflow("old", PushTrigger()))
    new = repo.commit_lock(workflow("new", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="late", after=old)
        await running.push("repo", repo, delivery_id="first", after=new)
        # The older push was received first, and is decided last.
        await running.execute(
            "UPDATE inbox SET next_retry_at = now() + interval '1 h' WHERE delivery_id = 'late'"
        )
    async with ingress_on(orchestrator_db) as running:

        async def done() -> bool:
            return (await running.ingress.deliveries.delivery(ORG, "first")).status == "processed"

        await eventually(done)
        await running.execute("UPDATE inbox SET next_retry_at = NULL")
        running.ingress.worker.look()
        await running.decided()
        listing = await running.ingress.registrations.listing(ORG)
        assert [(r.workflow_name, r.commit_sha) for r in listing.registrations] == [("new", new)]


async def test_a_disabled_workflow_is_not_started_by_a_push(orchestrator_db: Database, repo: Repo) -> None:
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo, delivery_id="d1")
        await running.decided()
        (registered,) = (await running.ingress.registrations.listing(ORG)).registrations
        await running.ingress.registrations.switch(ORG, registered.id, disabled=True)
        await running.push("repo", repo, delivery_id="d2")
        (decision,) = (await delivery(running, "d2")).decisions
        assert not decision.matched
        assert decision.reason == "Push to main, but the workflow is disabled"


async def test_removing_a_source_disables_its_registrations(orchestrator_db: Database, repo: Repo) -> None:
    """OR-20; other instances hear of it by the version."""
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.push("repo", repo)
        await running.decided()
        before = await running.ingress.registrations.listing(ORG)
        await running.ingress.sources.remove(ORG, "repo")
        after = await running.ingress.registrations.listing(ORG)
        assert [r.disabled for r in after.registrations] == [True]
        assert after.registry_version == before.registry_version + 1


async def test_webhooks_start_the_registered_workflows_that_listen(
    orchestrator_db: Database, repo: Repo
) -> None:
    """OR-55: the source's name, the event type, the body; at the registered commit."""
    sha = repo.commit_lock(
        workflow(
            "deploy", GenericWebhookTrigger(source="argo", events=["deploy"], match={"$.env": "prod"})
        ),
        workflow("any", WebhookTrigger(events=["deploy"])),
        workflow("elsewhere", GenericWebhookTrigger(source="other")),
        workflow("ci", PushTrigger()),
        message="Listen",
    )
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.ingress.sources.add(ORG, NewGeneric(name="argo", verification_method="none"))
        await running.push("repo", repo)
        await running.decided()
        for delivery_id, kind, body in (
            ("prod", "deploy", b'{"env": "prod"}'),
            ("dev", "deploy", b'{"env": "dev"}'),
            ("ping", "ping", b"{}"),
            ("text", "deploy", b"env=prod"),
        ):
            await running.send("argo", body, {"x-event-type": kind, "x-delivery-id": delivery_id})
        await running.decided()
        found = await running.rows(
            "SELECT delivery_id, workflow_name FROM execution_runs WHERE trigger_event = 'generic_webhook' ORDER BY 1, 2"
        )
        assert [tuple(row.values()) for row in found] == [
            ("dev", "any"),
            ("prod", "any"),
            ("prod", "deploy"),
            ("text", "any"),
        ]
        (run,) = await running.rows(
            "SELECT * FROM execution_runs WHERE delivery_id = 'prod' AND workflow_name = 'deploy'"
        )
        assert (run["sha"], run["repo_url"], run["source_name"]) == (sha, str(repo.path), "argo")
        assert (run["branch"], run["commit_message"]) == ("main", "Listen")
        assert run["event"]["payload"] == {"env": "prod"}
        ping = await delivery(running, "ping")
        assert {d.workflow_name for d in ping.decisions} == {"deploy", "any"}
        assert not any(d.matched for d in ping.decisions)


async def test_deliveries_are_listed_newest_first_in_pages(orchestrator_db: Database, repo: Repo) -> None:
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db, worker=False) as running:
        await watch(running, repo)
        for number in range(7):
            await running.push("repo", repo, delivery_id=f"d{number}")
        seen: list[str] = []
        before: str | None = None
        for _ in range(4):
            listed = await running.ingress.deliveries.deliveries(ORG, limit=3, before=before)
            seen += [view.delivery_id for view in listed.deliveries]
            assert {view.status for view in listed.deliveries} == {"received"}
            before = listed.next_before
            if before is None:
                break
        assert seen == [f"d{number}" for number in reversed(range(7))]


async def test_what_the_database_cannot_store_does_not_stop_a_delivery(
    orchestrator_db: Database, repo: Repo
) -> None:
    repo.commit_lock(workflow("ci", WebhookTrigger(events=["a b"])))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        await running.ingress.sources.add(ORG, NewGeneric(name="hook", verification_method="none"))
        await running.push("repo", repo)
        await running.decided()
        body = b'{"x": "nul \\u0000 and \\\\u0000"}'
        await running.send("hook", body, {"x-event-type": "a\x00 b", "x-odd": "v\x00"})
        await running.decided()
        (run,) = await running.rows(
            "SELECT event FROM execution_runs WHERE trigger_event = 'generic_webhook'"
        )
        assert run["event"]["payload"] == {"x": "nul \ufffd and \\u0000"}


async def test_an_overload_is_worked_off_in_order_of_arrival(orchestrator_db: Database, repo: Repo) -> None:
    repo.commit_lock(workflow("ci", PushTrigger()))
    async with ingress_on(orchestrator_db) as running:
        await watch(running, repo)
        answers = await asyncio.gather(
            *(running.push("repo", repo, delivery_id=f"d{number}") for number in range(700))
        )
        assert all(answer.status == 202 for answer in answers)
        await running.decided()
        assert await running.rows("SELECT count(*) AS n FROM execution_runs") == [{"n": 700}]
