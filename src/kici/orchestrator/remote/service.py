"""`remote.upload` and `remote.trigger` (AU-123): keys for a working tree, then runs of it through the one way in
which a run begins (OR-6). The anchor that runs are attributed to needs no source (OR-19).

What is sent as a difference to a commit belongs to the repository of the source that has the commit: its name
and where it is checked out from are the source's record, never the caller's word (AU-124)."""

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import structs

from kici.engine.inputs import InvalidInputs, resolve
from kici.engine.triggers import match_workflow
from kici.orchestrator.blobs.service import Blobs, StoreUnavailable
from kici.orchestrator.lockfiles.document import LockCorrupt, parse_lock
from kici.orchestrator.remote import queries
from kici.orchestrator.remote.bases import Bases
from kici.orchestrator.remote.briefs import Brief, RemoteBriefs
from kici.orchestrator.rpc import Caller, RpcMethod
from kici.orchestrator.runs.planning import PlannedWorkflow
from kici.orchestrator.runs.request import Commit, RunRequest, RunSource, StartPolicy
from kici.orchestrator.runs.start import start_runs
from kici.orchestrator.sources.sealing import Sealer, Unsealable
from kici.orchestrator.sources.source import SourceConfig
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.protocol.overlay import MAX_BYTES, OverlayBroken, upload_key
from kici.protocol.remote_v1 import (
    MAX_LOCK_BYTES,
    UPLOAD_SECONDS,
    BaseBody,
    RejectReason,
    RemoteEventBody,
    RemoteRun,
    RemoteTriggerBody,
    RemoteTriggered,
    UploadBody,
    UploadView,
    open_values,
)
from kici.runtime.buildinfo import build_info
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.ids import request_id, uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput, KiciError
from kici.spec.events import Event
from kici.spec.nesting import MAX_NESTING, too_deep
from kici.spec.triggers import DispatchTrigger, ScheduleTrigger

log = get_logger(__name__)

KEPT = timedelta(hours=24)  # AU-125
MAX_KEPT_PER_ORG = 1_000
SWEEP_S = 300.0
_SWEPT_AT_ONCE = 100
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_FIXTURE_CHARS = 200
_CREDENTIALS = re.compile(r":[^/]*@")  # of an address that was taken for a name
_MAX_SECRETS = 1 << 20
_PURPOSE = "remote-upload"


class TooManyUploads(KiciError):
    code: ClassVar[str] = "too_many_uploads"
    status: ClassVar[int] = 429


class _Rejected(Exception):
    """Nothing starts; the CLI is told why."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason: RejectReason = reason


class RemoteRuns:
    def __init__(
        self,
        engine: AsyncEngine,
        wakeups: Wakeups,
        blobs: Blobs,
        briefs: RemoteBriefs,
        bases: Bases,
        *,
        secret_key: bytes,
        policy: StartPolicy,
    ) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._blobs = blobs
        self._briefs = briefs
        self._bases = bases
        self._sealer = Sealer(secret_key, _PURPOSE)
        self._policy = policy

    def methods(self) -> Mapping[str, RpcMethod]:
        return {
            "remote.base": RpcMethod(params=BaseBody, handler=self._bases.find),
            "remote.upload": RpcMethod(params=UploadBody, handler=self.upload),
            "remote.trigger": RpcMethod(params=RemoteTriggerBody, handler=self.trigger),
        }

    # ── the working tree ─────────────────────────────────────────────────────────────────────────

    async def upload(self, body: UploadBody, caller: Caller) -> UploadView:
        """A pair of keys of its own for every upload; a second try gets a fresh URL by asking again."""
        if _SHA.fullmatch(body.sha) is None:
            raise InvalidInput("sha is no commit id")
        if not 0 < body.compressed_size <= MAX_BYTES:
            raise InvalidInput(f"a sealed working tree has at most {MAX_BYTES >> 20} MB")
        private = X25519PrivateKey.generate()
        upload_id = uuid7()
        object_key = f"overlays/{caller.org_id}/{upload_id}"
        async with self._engine.begin() as tx:
            if await queries.count_uploads(tx, caller.org_id) >= MAX_KEPT_PER_ORG:
                raise TooManyUploads(
                    f"{MAX_KEPT_PER_ORG} working trees of the last day are kept already: try again later"
                )
            await queries.insert_upload(
                tx,
                upload_id=upload_id,
                org_id=caller.org_id,
                object_key=object_key,
                sha=body.sha,
                private_key=self._sealer.seal(upload_id, private.private_bytes_raw()),
                created_by=caller.actor.id,
            )
        log.info("remote.upload_begun", upload_id=upload_id, size_bytes=body.compressed_size)
        return UploadView(
            upload_id=upload_id,
            signed_url=self._blobs.upload_url(object_key, body.compressed_size, valid_s=UPLOAD_SECONDS),
            public_key=base64.b64encode(private.public_key().public_bytes_raw()).decode(),
            expires_in=UPLOAD_SECONDS,
        )

    async def sweep(self) -> int:
        """Working trees older than a day go, and the secrets that came with them. How many went."""
        gone = 0
        while True:
            async with self._engine.connect() as tx:
                keys = await queries.old_uploads(tx, KEPT, _SWEPT_AT_ONCE)
            if not keys:
                return gone
            await self._blobs.delete(keys)
            async with self._engine.begin() as tx:
                await queries.forget(tx, keys)
            gone += len(keys)
            log.info("remote.swept", count=len(keys))

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as error:
                log.warning("remote.not_swept", error=str(error))
            await asyncio.sleep(SWEEP_S)

    # ── runs of it ───────────────────────────────────────────────────────────────────────────────

    async def trigger(self, body: RemoteTriggerBody, caller: Caller) -> RemoteTriggered:
        """Asked twice with the same upload and fixture, there is one run."""
        try:
            runs = await self._start(body, caller)
        except _Rejected as rejected:
            log.info("remote.rejected", reason=rejected.reason, fixture=body.fixture_id)
            return RemoteTriggered(
                run_id=None,
                status="rejected",
                reason=rejected.reason,
                message=str(rejected),
                job_ids=[],
                runs=[],
            )
        return RemoteTriggered(
            run_id=runs[0].run_id,
            status="accepted",
            reason=None,
            message=None,
            job_ids=runs[0].job_ids,
            runs=runs,
        )

    async def _start(self, body: RemoteTriggerBody, caller: Caller) -> list[RemoteRun]:
        _require_offered(body)
        async with self._engine.connect() as tx:
            upload = await queries.find_upload(tx, caller.org_id, body.upload_id, KEPT)
        if upload is None:
            raise _Rejected(
                "upload_unknown", "this upload is unknown here or more than a day old: upload again"
            )
        size = await self._blobs.size(upload.object_key)
        if size is None:
            raise _Rejected("upload_missing", "the working tree has not arrived: upload it first")
        home = await self._home(body, caller.org_id)
        if _CREDENTIALS.search(body.repository or ""):
            raise _Rejected("bad_repository", "the repository's name holds credentials: upgrade kici")
        repository = body.repository if home is None else home.repository
        sealed = self._brief(body, upload, size)
        event = _event(body.event, repository)
        commit = _commit(body, upload, repository or "local", None if home is None else home.path)
        requests = [
            self._request(body, caller, upload, workflow, event, decision, commit, sealed)
            for workflow, decision in _chosen(body, event, _workflows(body.inline_lock_file))
        ]
        async with self._engine.begin() as tx:
            started = await start_runs(tx, requests, self._policy)
        self._wakeups.wake("queue")
        self._wakeups.wake("outbox")
        if any(run.waits for run in started):
            self._wakeups.wake("concurrency")
        return [
            RemoteRun(
                run_id=run.run_id,
                workflow_name=request.workflow.lock.name,
                job_ids=[str(job_id) for job_id in run.job_ids],
            )
            for run, request in zip(started, requests, strict=True)
        ]

    async def _home(self, body: RemoteTriggerBody, org_id: str) -> SourceConfig | None:
        """Where the commit is that the working tree lies over; None for a whole tree."""
        if body.full_repo:
            return None
        home = await self._bases.home(org_id, body.source or "", body.base or "")
        if home is None:
            raise _Rejected(
                "base_unknown",
                f"{body.source or 'no source'} has no commit {(body.base or '')[:12]} that the working tree could"
                " lie over: run it again with --full",
            )
        return home

    def _brief(self, body: RemoteTriggerBody, upload: queries.Upload, size: int) -> bytes:
        """Sealed for this object: its key, and the values that the author sent."""
        try:
            private = X25519PrivateKey.from_private_bytes(
                self._sealer.unseal(upload.id, upload.private_key)
            )
        except Unsealable as error:
            raise _Rejected("upload_unknown", "KICI_SECRET_KEY was changed: upload again") from error
        key = _derived(private, body.cli_public_key)
        values: dict[str, str] = {}
        if body.encrypted_secrets is not None:
            if body.encrypted_secrets_key is None:
                raise _Rejected("bad_secrets", "encryptedSecrets came without encryptedSecretsKey")
            try:
                data = base64.b64decode(body.encrypted_secrets, validate=True)
                if len(data) > _MAX_SECRETS:
                    raise _Rejected("bad_secrets", f"more than {_MAX_SECRETS} bytes of secrets")
                values = open_values(_derived(private, body.encrypted_secrets_key), data)
            except (binascii.Error, ValueError, OverlayBroken) as error:
                raise _Rejected("bad_secrets", "the secrets cannot be opened") from error
        brief = Brief(
            key=base64.b64encode(key).decode(),
            size_bytes=size,
            values=values,
            base=None if body.full_repo else body.base,
        )
        return self._briefs.seal(upload.object_key, brief)

    def _request(
        self,
        body: RemoteTriggerBody,
        caller: Caller,
        upload: queries.Upload,
        workflow: PlannedWorkflow,
        event: Event,
        decision: DeliveryDecision,
        commit: Commit,
        sealed: bytes,
    ) -> RunRequest:
        name = workflow.lock.name
        who = caller.actor.display_name or caller.actor.id
        return RunRequest(
            source=RunSource(
                org_id=caller.org_id,
                routing_key=f"remote:{caller.org_id}",
                name="kici run remote",
                subtype="internal",
                provider="local",
            ),
            commit=commit,
            workflow=workflow,
            event=event,
            trigger_event=event.type,
            decision=structs.replace(
                decision, reason=f"{who} ran `kici run remote`: {decision.reason}", matched=True
            ),
            dedup_key=f"remote:{upload.id}:{body.fixture_id[:_FIXTURE_CHARS]}:{name}",
            request_id=request_id(),
            triggered_by=who,
            check_mode=body.check_mode,
            is_test_run=True,
            inputs=_inputs(workflow, event, body),
            overlay_key=upload.object_key,
            remote_secrets=sealed,
        )


def _require_offered(body: RemoteTriggerBody) -> None:
    """What this version does not do is said, never left out (AU-142)."""
    version = build_info().version
    wants: list[str] = []
    if body.target:
        wants.append("--target (runs_on_all)")
    if body.approve_all:
        wants.append("--approve-all (approvals)")
    if wants:
        raise _Rejected(
            "capability_missing",
            f"this orchestrator (kici {version}) does not offer {', '.join(wants)} yet: its operator must"
            " upgrade it",
        )
    if body.secrets:
        names = ", ".join(sorted(set(body.secrets.values())))
        raise _Rejected(
            "environment_unknown",
            f"the fixture takes secrets from {names}, and this orchestrator (kici {version}) has no"
            " environments; send values with --env or --context instead",
        )


def _commit(body: RemoteTriggerBody, upload: queries.Upload, repository: str, url: str | None) -> Commit:
    branch = body.branch
    return Commit(
        repo_identifier=repository,
        repo_url=url,
        ref=f"refs/heads/{branch}" if branch else upload.sha,
        branch=branch,
        sha=upload.sha,
        message=body.commit_message,
    )


def _derived(private: X25519PrivateKey, peer: str) -> bytes:
    try:
        return upload_key(private, base64.b64decode(peer, validate=True))
    except (binascii.Error, ValueError) as error:
        raise _Rejected("bad_key", "a public key is 32 bytes in base64") from error


def _workflows(lock: str) -> list[PlannedWorkflow]:
    data = lock.encode()
    if len(data) > MAX_LOCK_BYTES:
        raise _Rejected("lock_corrupt", f"the lock file has more than {MAX_LOCK_BYTES >> 20} MB")
    try:
        return parse_lock(data).workflows
    except LockCorrupt as error:
        raise _Rejected("lock_corrupt", str(error)) from error


def _event(body: RemoteEventBody, repository: str) -> Event:
    if not body.type or len(body.type) > 100:
        raise _Rejected("bad_event", "the event has no type")
    if too_deep(body.payload):
        raise _Rejected("bad_event", f"the event's payload is nested deeper than {MAX_NESTING} levels")
    return Event(
        type=body.type,
        action=body.action,
        target_branch=body.target_branch,
        source_branch=body.source_branch,
        base_branch=body.base_branch,
        is_fork_pr=body.is_fork_pr,
        sender_username=body.sender_username,
        changed_files=body.changed_files,
        provider="local",
        source=body.source,
        raw_event=body.raw_event or body.type,
        source_repo=repository or None,
        payload=body.payload,
    )


def _chosen(
    body: RemoteTriggerBody, event: Event, workflows: Sequence[PlannedWorkflow]
) -> list[tuple[PlannedWorkflow, DeliveryDecision]]:
    """The workflow that was asked for, or all that the event starts."""
    if body.workflow_name is not None:
        for workflow in workflows:
            if workflow.lock.name == body.workflow_name:
                return [(workflow, _decision(workflow, event, asked_for=True))]
        names = ", ".join(workflow.lock.name for workflow in workflows) or "none"
        raise _Rejected("unknown_workflow", f"no workflow {body.workflow_name!r}; there are: {names}")
    decided = [(workflow, _decision(workflow, event, asked_for=False)) for workflow in workflows]
    found = [(workflow, decision) for workflow, decision in decided if decision.matched]
    if not found:
        reasons = "; ".join(f"{workflow.lock.name}: {decision.reason}" for workflow, decision in decided)
        raise _Rejected("no_match", f"no workflow starts on this event. {reasons}")
    return found


def _decision(workflow: PlannedWorkflow, event: Event, *, asked_for: bool) -> DeliveryDecision:
    found = match_workflow(workflow.lock.triggers, event)
    return DeliveryDecision(
        workflow_name=workflow.lock.name,
        matched=found.matched,
        trigger_index=found.trigger_index,
        reason=f"--workflow {workflow.lock.name}" if asked_for and not found.matched else found.reason,
        run_id=None,
        checks=[],
    )


def _inputs(
    workflow: PlannedWorkflow, event: Event, body: RemoteTriggerBody
) -> dict[str, str | int | float | bool | None]:
    """As the workflow's trigger declares them; what it does not declare is refused."""
    for trigger in workflow.lock.triggers:
        if (
            isinstance(trigger, DispatchTrigger) and (event.type == "dispatch" or body.dispatch_inputs)
        ) or (isinstance(trigger, ScheduleTrigger) and event.type == "schedule"):
            try:
                return resolve(trigger.inputs, body.dispatch_inputs)
            except InvalidInputs as error:
                raise _Rejected("bad_inputs", f"{workflow.lock.name}: {error}") from error
    if body.dispatch_inputs:
        raise _Rejected("bad_inputs", f"{workflow.lock.name} takes no inputs")
    return {}
