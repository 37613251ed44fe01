"""What a delivery leads to: for every workflow it concerns a decision, and the runs to start (OR-50…62).

Reads repositories and memory, writes nothing. Deciding the same delivery twice gives the same dedup keys.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal, cast

import msgspec
from msgspec import Struct, field, structs
from prometheus_client import Histogram

from kici.engine.inputs import InvalidInputs
from kici.engine.triggers import match_first
from kici.orchestrator.inbox import github, normalise
from kici.orchestrator.inbox.acceptance import is_filtered, parse_body
from kici.orchestrator.inbox.delivery import PATH_HEADER
from kici.orchestrator.inbox.happening import Happening
from kici.orchestrator.lockfiles.commits import CommitCache, CommitFacts, CommitUnknown
from kici.orchestrator.lockfiles.document import ParsedLock
from kici.orchestrator.lockfiles.git import RepositoryUnreadable, branch_head, changed_files, default_branch
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.registry.service import DefaultBranchPush
from kici.orchestrator.registry.starting import decision_view, dispatch_inputs, registered_commit
from kici.orchestrator.runs.start import Commit, PlannedWorkflow, RunRequest
from kici.orchestrator.sources import verification
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.source import Source
from kici.protocol.dashboard_v1 import DeliveryDecision, InitFailure
from kici.spec.errors import InvalidInput
from kici.spec.events import Event
from kici.spec.lock import COMPILE_SCHEMA_VERSION, LOCK_PATH, LockWorkflow, SourceLocation

Status = Literal["processed", "filtered", "lockfile_missing", "lockfile_corrupt", "failed"]

_decode_headers = msgspec.json.Decoder(dict[str, str]).decode


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
            if source.config.payload_format == "github":
                return await self._github(source, row)
            return self._generic(source, row)
        except InvalidInput as error:
            return Outcome(status="failed", source_name=source.name, error=str(error))

    # ── repositories ─────────────────────────────────────────────────────────────────────────────

    async def _local(self, source: Source, row: Leased) -> Outcome:
        payload, repository = _object(row.body), source.config.repository
        happening = (
            normalise.pull_request(payload, repository)
            if row.event == "pull_request"
            else normalise.push(payload, repository)
        )
        outcome = Outcome(status="processed", source_name=source.name, repo_identifier=repository)
        await self._of_repository(outcome, source, row, happening)
        return outcome

    async def _github(self, source: Source, row: Leased) -> Outcome:
        """Every repository of that name that a source of ours has, then whoever listens to the source itself
        (OR-88)."""
        payload = _object(row.body)
        happening = github.normalise(row.action or "", payload)
        repository = happening.event.source_repo
        outcome = Outcome(status="processed", source_name=source.name, repo_identifier=repository)
        generic = normalise.generic(
            payload,
            event_type=row.action,
            source_name=source.name,
            verified_by=verification.verified_by(source.verification),
            path=_decode_headers(row.headers).get(PATH_HEADER),
        )
        generic = structs.replace(generic, source_repo=repository)
        happening = structs.replace(happening, also=(*happening.also, generic))
        homes = [
            home
            for home in self._sources.all()
            if home.org_id == row.org_id and home.kind == "local" and home.config.repository == repository
        ]
        for home in homes:
            await self._of_repository(outcome, home, row, happening)
        taken = {home.routing_key for home in homes}
        self._listeners(outcome, source, row, generic, besides=taken)
        if not outcome.decisions:
            outcome.decisions.append(
                _note(
                    f"No source has the repository {repository}, and no workflow listens to {source.name}"
                )
            )
        return outcome

    async def _of_repository(
        self, outcome: Outcome, source: Source, row: Leased, happening: Happening
    ) -> None:
        path = source.config.path
        outcome.ref = happening.ref or None  # what it is about, not where it runs
        if happening.note is not None:
            outcome.decisions.append(_note(happening.note))
            return
        if happening.event.is_fork_pr:
            # Its code is a stranger's, and nobody can be asked yet (OR-65).
            outcome.decisions.append(_note("Pull requests from forks wait for an approval: not run"))
            return
        try:
            default = await default_branch(path)
            if happening.sha is None:
                happening = await _at_head(happening, path, default)
                outcome.ref = outcome.ref or happening.ref
            if happening.sha is None:
                outcome.decisions.append(_note(f"{source.config.repository} has no default branch yet"))
                return
            facts = await self._commits.facts(source.routing_key, path, happening.sha)
            on_default = happening.event.type == "push" and happening.branch == default
        except (RepositoryUnreadable, CommitUnknown) as error:
            outcome.status, outcome.sha, outcome.error = "failed", happening.sha, str(error)
            self._fail(outcome, source, row, happening, happening.sha or "", None, str(error))
            return
        outcome.sha = facts.sha
        if facts.corrupt is not None:
            outcome.status, outcome.error = "lockfile_corrupt", facts.corrupt
            self._fail(outcome, source, row, happening, facts.sha, facts.message, facts.corrupt)
            return
        if facts.lock is None:
            outcome.status = "lockfile_missing"
            outcome.decisions.append(_note(f"The commit has no {LOCK_PATH}"))
        else:
            await self._match_lock(outcome, source, row, happening, facts, facts.lock)
        if on_default:
            outcome.registration = self._registration(source, row, happening, facts)

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
            if files is not None:
                event = structs.replace(event, changed_files=files)
        commit = _commit(source, happening, facts.sha, facts.message)
        faces = (event, *happening.also)
        # Deliveries of another source may concern several repositories.
        prefix = "" if source.routing_key == row.routing_key else f"{source.routing_key}:"
        with self._match_seconds.time():
            for workflow in lock.workflows:
                disabled = self._registry.is_disabled(
                    source.routing_key, source.config.repository, workflow.lock.name
                )
                self._ask(
                    outcome,
                    source,
                    row,
                    workflow,
                    commit,
                    faces,
                    f"{prefix}{workflow.lock.name}",
                    disabled=disabled,
                )

    def _ask(
        self,
        outcome: Outcome,
        source: Source,
        row: Leased,
        workflow: PlannedWorkflow,
        commit: Commit | None,
        faces: Sequence[Event],
        identity: str,
        *,
        disabled: bool,
    ) -> None:
        """`source`: whom a run is attributed to. `commit` None: the repository's own source is gone."""
        triggers = workflow.lock.triggers
        found, event = match_first(triggers, faces)
        decision = decision_view(workflow.lock.name, found, disabled=disabled)
        if decision.matched and commit is not None:
            try:
                inputs = dispatch_inputs(triggers[decision.trigger_index or 0], event)
            except InvalidInputs as error:
                decision = structs.replace(decision, matched=False, reason=f"{found.reason}, but {error}")
            else:
                request = _request(source, row, workflow, commit, event, decision, identity)
                outcome.starts.append((len(outcome.decisions), structs.replace(request, inputs=inputs)))
        elif decision.matched:
            decision = structs.replace(
                decision, matched=False, reason="The source of its repository was removed"
            )
        outcome.decisions.append(decision)

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
        event = normalise.generic(
            document,
            event_type=row.action,
            source_name=source.name,
            verified_by=verification.verified_by(source.verification),
            path=_decode_headers(row.headers).get(PATH_HEADER),
        )
        outcome = Outcome(status="processed", source_name=source.name)
        self._listeners(outcome, source, row, event, besides=frozenset())
        if not outcome.decisions:
            outcome.decisions.append(_note(f"No registered workflow listens to {source.name}"))
        return outcome

    def _listeners(
        self, outcome: Outcome, source: Source, row: Leased, event: Event, *, besides: Collection[str]
    ) -> None:
        """Registered workflows that name this source, or take webhooks of any; not those of the sources
        `besides`, which were asked about the commit itself."""
        with self._match_seconds.time():
            for entry in self._registry.listening_to(row.org_id, source.name):
                if entry.routing_key in besides:
                    continue
                repository = self._sources.by_routing_key(entry.routing_key)
                commit = None if repository is None else registered_commit(entry, repository)
                self._ask(
                    outcome,
                    source,
                    row,
                    entry.workflow,
                    commit,
                    (event,),
                    entry.id,
                    disabled=entry.disabled,
                )


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


def _object(body: bytes) -> dict[str, Any]:
    """Raises InvalidInput."""
    document = parse_body(body)
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


async def _at_head(happening: Happening, path: str, default: str | None) -> Happening:
    """With the commit of the branch it names, or of the default branch (OR-46)."""
    for branch in (happening.branch, default):
        sha = None if branch is None else await branch_head(path, branch)
        if sha is not None:
            return structs.replace(happening, ref=f"refs/heads/{branch}", branch=branch, sha=sha)
    return happening


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
