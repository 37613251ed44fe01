"""What a delivery leads to: for every workflow it concerns a decision, and the runs to start (OR-50…62).

Reads repositories and memory, writes nothing. Deciding the same delivery twice gives the same dedup keys.
"""

from datetime import datetime
from typing import Any, Literal, cast

from msgspec import Struct, field, structs
from prometheus_client import Histogram

from kici.engine.triggers import Decision, match_workflow
from kici.orchestrator.inbox import normalise
from kici.orchestrator.inbox.acceptance import is_filtered, parse_body
from kici.orchestrator.inbox.normalise import Happening
from kici.orchestrator.lockfiles.commits import CommitCache, CommitFacts, CommitUnknown
from kici.orchestrator.lockfiles.document import ParsedLock
from kici.orchestrator.lockfiles.git import RepositoryUnreadable, changed_files, default_branch
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.registry.service import DefaultBranchPush
from kici.orchestrator.runs.start import Commit, PlannedWorkflow, RunRequest
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.source import Source
from kici.protocol.dashboard_v1 import DeliveryCheck, DeliveryDecision, InitFailure
from kici.spec.errors import InvalidInput
from kici.spec.events import Event
from kici.spec.lock import COMPILE_SCHEMA_VERSION, LOCK_PATH, LockWorkflow, SourceLocation

Status = Literal["processed", "filtered", "lockfile_missing", "lockfile_corrupt", "failed"]


class Leased(Struct, frozen=True, kw_only=True):
    """An inbox row that this process holds: `claimed_by` and `attempts` fence every write about it."""

    id: str
    org_id: str
    routing_key: str
    delivery_id: str
    event: str
    action: str | None
    headers: str
    body: bytes
    request_id: str
    via: str
    received_at: datetime
    attempts: int


class Outcome(Struct, kw_only=True):
    """`starts`: index into `decisions` and the run that follows from it."""

    status: Status
    source_name: str
    repo_identifier: str | None = None
    ref: str | None = None
    sha: str | None = None
    error: str | None = None
    decisions: list[DeliveryDecision] = field(default_factory=list[DeliveryDecision])
    starts: list[tuple[int, RunRequest]] = field(default_factory=list[tuple[int, RunRequest]])
    registration: DefaultBranchPush | None = None


class Decider:
    def __init__(
        self, sources: SourceIndex, registry: RegistryIndex, commits: CommitCache, match_seconds: Histogram
    ) -> None:
        self._sources = sources
        self._registry = registry
        self._commits = commits
        self._match_seconds = match_seconds

    async def decide(self, row: Leased) -> Outcome:
        """Raises GitFailed and whatever else is worth another try; what can never work is an outcome."""
        source = self._sources.by_routing_key(row.routing_key)
        if source is None:
            return Outcome(
                status="failed", source_name="", error="The source was removed or disabled meanwhile"
            )
        if is_filtered(source, row.event, row.action):
            return Outcome(status="filtered", source_name=source.name)
        try:
            if source.kind == "local":
                return await self._local(source, row)
            return self._generic(source, row)
        except InvalidInput as error:
            return Outcome(status="failed", source_name=source.name, error=str(error))

    # ── local repositories ───────────────────────────────────────────────────────────────────────

    async def _local(self, source: Source, row: Leased) -> Outcome:
        document = parse_body(row.body)
        payload = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        repository, path = source.config.repository, source.config.path
        happening = (
            normalise.pull_request(payload, repository)
            if row.event == "pull_request"
            else normalise.push(payload, repository)
        )
        outcome = Outcome(
            status="processed", source_name=source.name, repo_identifier=repository, ref=happening.ref
        )
        if happening.sha is None:
            outcome.decisions.append(_note(happening.note or "There is nothing to check out"))
            return outcome
        try:
            facts = await self._commits.facts(row.routing_key, path, happening.sha)
            on_default = happening.event.type == "push" and happening.branch == await default_branch(path)
        except (RepositoryUnreadable, CommitUnknown) as error:
            outcome.status, outcome.sha, outcome.error = "failed", happening.sha, str(error)
            self._fail(outcome, source, row, happening, happening.sha, None, str(error))
            return outcome
        outcome.sha = facts.sha
        if facts.corrupt is not None:
            outcome.status, outcome.error = "lockfile_corrupt", facts.corrupt
            self._fail(outcome, source, row, happening, facts.sha, facts.message, facts.corrupt)
            return outcome
        if facts.lock is None:
            outcome.status = "lockfile_missing"
            outcome.decisions.append(_note(f"The commit has no {LOCK_PATH}"))
        else:
            await self._match_lock(outcome, source, row, happening, facts, facts.lock)
        if on_default:
            outcome.registration = self._registration(source, row, happening, facts)
        return outcome

    async def _match_lock(
        self,
        outcome: Outcome,
        source: Source,
        row: Leased,
        happening: Happening,
        facts: CommitFacts,
        lock: ParsedLock,
    ) -> None:
        event = happening.event
        if lock.uses_paths and happening.before is not None:
            files = await changed_files(
                source.config.path, happening.before, facts.sha, since_fork=happening.since_fork
            )
            event = structs.replace(event, changed_files=files)
        commit = _commit(source, happening, facts.sha, facts.message)
        with self._match_seconds.time():
            for workflow in lock.workflows:
                disabled = self._registry.is_disabled(
                    source.routing_key, source.config.repository, workflow.lock.name
                )
                decision = _decide(workflow, event, disabled=disabled)
                outcome.decisions.append(decision)
                if decision.matched:
                    outcome.starts.append(
                        (
                            len(outcome.decisions) - 1,
                            _request(source, row, workflow, commit, event, decision, workflow.lock.name),
                        )
                    )

    def _registration(
        self, source: Source, row: Leased, happening: Happening, facts: CommitFacts
    ) -> DefaultBranchPush | None:
        """None when the registry stands at this commit already."""
        repository = source.config.repository
        head = self._registry.head(source.routing_key, repository)
        if happening.branch is None or (
            head is not None and (head.commit_sha == facts.sha or head.pushed_at > row.received_at)
        ):
            return None
        return DefaultBranchPush(
            org_id=row.org_id,
            routing_key=source.routing_key,
            repo_identifier=repository,
            default_branch=happening.branch,
            commit_sha=facts.sha,
            commit_message=facts.message,
            pushed_at=row.received_at,
            workflows=facts.lock.workflows if facts.lock else [],
        )

    def _fail(
        self,
        outcome: Outcome,
        source: Source,
        row: Leased,
        happening: Happening,
        sha: str,
        message: str | None,
        reason: str,
    ) -> None:
        """A run that shows what is wrong, because nobody looks for a run that is missing (OR-18, OR-61)."""
        workflow = _LOCK_FILE
        decision = DeliveryDecision(
            workflow_name=workflow.lock.name,
            matched=True,
            trigger_index=None,
            reason=reason,
            run_id=None,
            checks=[],
        )
        outcome.decisions.append(decision)
        request = _request(
            source,
            row,
            workflow,
            _commit(source, happening, sha, message),
            happening.event,
            decision,
            workflow.lock.name,
        )
        failure = InitFailure(scope="run", category="lock_resolution", message=reason, job_name=None)
        outcome.starts.append((len(outcome.decisions) - 1, structs.replace(request, failure=failure)))

    # ── webhooks of other systems ────────────────────────────────────────────────────────────────

    def _generic(self, source: Source, row: Leased) -> Outcome:
        try:
            document = parse_body(row.body)
        except InvalidInput:
            document = row.body.decode(errors="replace")  # forms and plain text are webhooks, too
        event = normalise.generic(document, event_type=row.action, source_name=source.name)
        outcome = Outcome(status="processed", source_name=source.name)
        with self._match_seconds.time():
            for entry in self._registry.listening_to(row.org_id, source.name):
                decision = _decide(entry.workflow, event, disabled=entry.disabled)
                repository = self._sources.by_routing_key(entry.routing_key)
                if decision.matched and repository is None:
                    decision = structs.replace(
                        decision, matched=False, reason="The source of its repository was removed"
                    )
                outcome.decisions.append(decision)
                if decision.matched and repository is not None:
                    commit = Commit(
                        repo_identifier=entry.repo_identifier,
                        repo_url=repository.config.path,
                        ref=f"refs/heads/{entry.default_branch}",
                        branch=entry.default_branch,
                        sha=entry.commit_sha,
                        message=entry.commit_message,
                    )
                    outcome.starts.append(
                        (
                            len(outcome.decisions) - 1,
                            _request(source, row, entry.workflow, commit, event, decision, entry.id),
                        )
                    )
        if not outcome.decisions:
            outcome.decisions.append(_note(f"No registered workflow listens to {source.name}"))
        return outcome


# Stands for the lock file itself where that is what failed.
_LOCK_FILE = PlannedWorkflow(
    lock=LockWorkflow(
        name=LOCK_PATH.rsplit("/", 1)[-1],
        source=SourceLocation(file=LOCK_PATH),
        content_hash="",
        compile_schema_version=COMPILE_SCHEMA_VERSION,
        triggers=[],
        jobs=[],
    ),
    sdk_version="",
    jobs=[],
)


def _note(reason: str) -> DeliveryDecision:
    """Why there was no workflow to decide about."""
    return DeliveryDecision(
        workflow_name="", matched=False, trigger_index=None, reason=reason, run_id=None, checks=[]
    )


def _decide(workflow: PlannedWorkflow, event: Event, *, disabled: bool) -> DeliveryDecision:
    found: Decision = match_workflow(workflow.lock.triggers, event)
    blocked = found.matched and disabled
    return DeliveryDecision(
        workflow_name=workflow.lock.name,
        matched=found.matched and not disabled,
        trigger_index=found.trigger_index,
        reason=f"{found.reason}, but the workflow is disabled" if blocked else found.reason,
        run_id=None,
        checks=[
            DeliveryCheck(check=c.check, expected=c.expected, actual=c.actual, matched=c.matched)
            for c in found.checks
        ],
    )


def _commit(source: Source, happening: Happening, sha: str, message: str | None) -> Commit:
    return Commit(
        repo_identifier=source.config.repository,
        repo_url=source.config.path,
        ref=happening.ref,
        branch=happening.branch,
        sha=sha,
        message=message,
    )


def _request(
    source: Source,
    row: Leased,
    workflow: PlannedWorkflow,
    commit: Commit,
    event: Event,
    decision: DeliveryDecision,
    identity: str,
) -> RunRequest:
    return RunRequest(
        source=source.attribution,
        commit=commit,
        workflow=workflow,
        event=event,
        trigger_event=event.type,
        decision=decision,
        dedup_key=f"{row.id}:{identity}",  # one run per delivery and workflow (OR-35)
        request_id=row.request_id,
        delivery_id=row.delivery_id,
        inbox_id=row.id,
        triggered_by=event.sender_username,
    )
