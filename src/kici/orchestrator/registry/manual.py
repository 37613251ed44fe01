"""Starting registered workflows by hand: one of them, or all of a repository that wait for a dispatch (OR-54,
OR-76, AU-83)."""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from kici.engine.inputs import InvalidInputs, resolve
from kici.engine.triggers import match_workflow
from kici.orchestrator.db.rows import without_nul
from kici.orchestrator.events.listening import EVENT_TTL_S
from kici.orchestrator.events.stored import MANUAL_SCHEDULE
from kici.orchestrator.registry.index import Registered, RegistryIndex
from kici.orchestrator.registry.service import RegistrationNotFound
from kici.orchestrator.registry.starting import decision_view, registered_run
from kici.orchestrator.runs.start import RunRequest, StartPolicy, start_runs
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.source import Bucket, Source
from kici.protocol.dashboard_v1 import DeliveryDecision, NewRun
from kici.protocol.platform_v1 import Actor
from kici.runtime.database import AsyncEngine, Wakeups, text
from kici.runtime.ids import request_id, uuid7
from kici.runtime.logging import get_logger
from kici.spec.durations import in_words
from kici.spec.errors import Conflict, KiciError, NotFound
from kici.spec.events import Event
from kici.spec.triggers import DispatchTrigger, ScheduleTrigger

log = get_logger(__name__)

STARTS_PER_MINUTE = 10  # of one actor; OR-77
_MAX_ACTORS = 1024

_encode = msgspec.json.Encoder().encode


class WorkflowDisabled(Conflict):
    code: ClassVar[str] = "workflow_disabled"


class SourceGone(Conflict):
    code: ClassVar[str] = "source_gone"


class NoSuchDispatch(NotFound):
    code: ClassVar[str] = "no_such_dispatch"


class TooManyStarts(KiciError):
    code: ClassVar[str] = "rate_limited"
    status: ClassVar[int] = 429


class Dispatched(Struct, frozen=True, kw_only=True, rename="camel"):
    """`decisions`: one for each workflow of the repository that has a `dispatch` trigger."""

    runs: list[NewRun]
    decisions: list[DeliveryDecision]


_TELL = text("""
INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, source_run_id, processed,
    processed_at, decisions, expires_at)
VALUES (:id, :org_id, :name, CAST(:payload AS jsonb), :repo, :routing_key, :run_id, true, now(), '[]',
    now() + :ttl_s * interval '1 second')
""")


class ManualStarts:
    def __init__(
        self,
        engine: AsyncEngine,
        registry: RegistryIndex,
        sources: SourceIndex,
        wakeups: Wakeups,
        policy: StartPolicy,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._sources = sources
        self._wakeups = wakeups
        self._policy = policy
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def run_now(
        self, org_id: str, registration_id: str, inputs: Mapping[str, Any], actor: Actor
    ) -> NewRun:
        """At the registered commit. Raises RegistrationNotFound, WorkflowDisabled, SourceGone, InvalidInputs and
        TooManyStarts."""
        await self._registry.load()
        entry = self._registry.find(org_id, registration_id)
        if entry is None:
            raise RegistrationNotFound(f"there is no registration {registration_id}")
        if entry.disabled:
            raise WorkflowDisabled(f"{entry.workflow.lock.name} is disabled: enable it first")
        repository = self._repository(entry)
        index, event, values = _occasion(entry, inputs, actor)
        self._count(actor)
        decision = DeliveryDecision(
            workflow_name=entry.workflow.lock.name,
            matched=True,
            trigger_index=index,
            reason=f"Started by {actor.display_name or actor.id}",
            run_id=None,
            checks=[],
        )
        request = self._request(entry, repository, event, decision, actor, values)
        (run_id,) = await self._start([request], actor)
        return NewRun(new_run_id=run_id)

    async def dispatch(
        self, org_id: str, repo: str, action: str, inputs: Mapping[str, Any], actor: Actor
    ) -> Dispatched:
        """Every workflow of the repository whose `dispatch` trigger takes this type. Raises NoSuchDispatch when
        none does, InvalidInputs when the inputs do not fit one that does, and TooManyStarts."""
        await self._registry.load()
        decisions: list[DeliveryDecision] = []
        requests: list[RunRequest] = []
        for entry in self._registry.of_repo(org_id, repo):
            triggers = entry.workflow.lock.triggers
            if not any(isinstance(trigger, DispatchTrigger) for trigger in triggers):
                continue
            event = _dispatch_event(entry, action, inputs, actor)
            decision = decision_view(
                entry.workflow.lock.name, match_workflow(triggers, event), disabled=entry.disabled
            )
            if decision.matched:
                trigger = triggers[decision.trigger_index or 0]
                fields = trigger.inputs if isinstance(trigger, DispatchTrigger) else []
                # Without typed inputs what was given is there as `event.payload.client_payload` alone.
                values = resolve(fields, inputs) if fields else {}
                requests.append(
                    self._request(entry, self._repository(entry), event, decision, actor, values)
                )
            decisions.append(decision)
        if not requests:
            why = "; ".join(f"{decision.workflow_name}: {decision.reason}" for decision in decisions)
            raise NoSuchDispatch(
                f"no registered workflow of {repo} takes a dispatch {action!r}{f' ({why})' if why else ''}"
            )
        self._count(actor)
        runs = await self._start(requests, actor)
        return Dispatched(runs=[NewRun(new_run_id=run_id) for run_id in runs], decisions=decisions)

    def _repository(self, entry: Registered) -> Source:
        found = self._sources.by_routing_key(entry.routing_key)
        if found is None:
            raise SourceGone(f"the source of {entry.repo_identifier} was removed or disabled")
        return found

    def _count(self, actor: Actor) -> None:
        bucket = self._buckets.setdefault(f"{actor.kind}:{actor.id}", Bucket(STARTS_PER_MINUTE))
        self._buckets.move_to_end(f"{actor.kind}:{actor.id}")
        while len(self._buckets) > _MAX_ACTORS:
            self._buckets.popitem(last=False)
        wait_s = bucket.take()
        if wait_s:
            raise TooManyStarts(
                f"more than {STARTS_PER_MINUTE} starts by hand within a minute: try again in {in_words(wait_s * 1000)}"
            )

    @staticmethod
    def _request(
        entry: Registered,
        repository: Source,
        event: Event,
        decision: DeliveryDecision,
        actor: Actor,
        inputs: dict[str, Any],
    ) -> RunRequest:
        return registered_run(
            entry,
            repository,
            event=event,
            trigger_event=event.type,
            decision=decision,
            dedup_key=f"manual:{uuid7()}",
            request_id=request_id(),
            triggered_by=actor.display_name or actor.id,
            inputs=inputs,
        )

    async def _start(self, requests: list[RunRequest], actor: Actor) -> list[str]:
        async with self._engine.begin() as tx:
            started = await start_runs(tx, requests, self._policy)
            for request, run in zip(requests, started, strict=True):
                payload = {
                    "workflowName": request.workflow.lock.name,
                    "runId": run.run_id,
                    "triggeredBy": request.triggered_by,
                    "actor": actor,
                    "inputs": request.inputs,
                    "repo": request.commit.repo_identifier,
                }
                await tx.execute(
                    _TELL,
                    {
                        "id": uuid7(),
                        "org_id": request.source.org_id,
                        "name": MANUAL_SCHEDULE,
                        "payload": without_nul(_encode(payload)).decode(),
                        "repo": request.commit.repo_identifier,
                        "routing_key": request.source.routing_key,
                        "run_id": run.run_id,
                        "ttl_s": EVENT_TTL_S,
                    },
                )
        self._wakeups.wake("queue")
        self._wakeups.wake("outbox")
        if any(run.waits for run in started):
            self._wakeups.wake("concurrency")
        for request, run in zip(requests, started, strict=True):
            log.info(
                "run.started_by_hand",
                run_id=run.run_id,
                request_id=request.request_id,
                workflow=request.workflow.lock.name,
                actor=actor.id,
            )
        return [run.run_id for run in started]


def _occasion(
    entry: Registered, given: Mapping[str, Any], actor: Actor
) -> tuple[int | None, Event, dict[str, Any]]:
    """Which trigger is acted for: a dispatch, else a schedule, else none, and then there are no inputs."""
    triggers = entry.workflow.lock.triggers
    for index, trigger in enumerate(triggers):
        if isinstance(trigger, DispatchTrigger):
            values = resolve(trigger.inputs, given)
            action = trigger.types[0] if trigger.types else None
            return index, _dispatch_event(entry, action, values, actor), values
    for index, trigger in enumerate(triggers):
        if isinstance(trigger, ScheduleTrigger):
            return index, _manual_event(entry, actor), resolve(trigger.inputs, given)
    if given:
        raise InvalidInputs([f"input {name!r} is not known: this workflow has no inputs" for name in given])
    return None, _manual_event(entry, actor), {}


def _dispatch_event(
    entry: Registered, action: str | None, inputs: Mapping[str, Any], actor: Actor
) -> Event:
    return Event(
        type="dispatch",
        action=action,
        target_branch=entry.default_branch,
        sender_username=actor.display_name or actor.id,
        source_repo=entry.repo_identifier,
        provider="kici",
        raw_event="dispatch",
        payload={
            "action": action,
            "client_payload": dict(inputs),
            "repository": {
                "full_name": entry.repo_identifier,
                "default_branch": entry.default_branch,
            },
            "sender": {"login": actor.display_name or actor.id},
        },
    )


def _manual_event(entry: Registered, actor: Actor) -> Event:
    return Event(
        type="manual_schedule",
        target_branch=entry.default_branch,
        sender_username=actor.display_name or actor.id,
        source_repo=entry.repo_identifier,
        provider="kici",
        raw_event="manual_schedule",
        payload={
            "workflowName": entry.workflow.lock.name,
            "registrationId": entry.id,
            "triggeredBy": actor.display_name or actor.id,
        },
    )
