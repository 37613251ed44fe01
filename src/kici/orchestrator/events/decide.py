"""What an internal event leads to: for every workflow that waits for its kind a decision, and the runs to
start (OR-93, OR-100, OR-101). Reads memory, writes nothing; deciding twice gives the same dedup keys.
"""

from collections.abc import Mapping

from msgspec import Struct, field, structs

from kici.engine.inputs import InvalidInputs, resolve
from kici.engine.triggers import event_type, match_first
from kici.orchestrator.events.stored import SCHEDULE_FIRE, StoredEvent, faces
from kici.orchestrator.events.trust import TrustedBy
from kici.orchestrator.registry.index import Registered, RegistryIndex
from kici.orchestrator.registry.starting import decision_view, registered_run
from kici.orchestrator.runs.start import RunRequest
from kici.orchestrator.sources.index import SourceIndex
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.ids import request_id
from kici.spec.events import Event
from kici.spec.triggers import ScheduleTrigger


class Start(Struct, frozen=True, kw_only=True):
    """`index`: of its decision."""

    index: int
    registration_id: str
    request: RunRequest


class Outcome(Struct, kw_only=True):
    """`dropped`: the breaker that ended it (OR-100); then nobody was asked."""

    decisions: list[DeliveryDecision] = field(default_factory=list[DeliveryDecision])
    starts: list[Start] = field(default_factory=list[Start])
    dropped: str | None = None
    note: str | None = None


class EventDecider:
    def __init__(self, registry: RegistryIndex, sources: SourceIndex, *, max_chain_depth: int) -> None:
        self._registry = registry
        self._sources = sources
        self._max_chain_depth = max_chain_depth

    def decide(self, stored: StoredEvent, trust: TrustedBy, delivered: Mapping[str, str]) -> Outcome:
        """`delivered`: runs that an earlier attempt has started, by registration (OR-97)."""
        outcome = Outcome()
        if stored.chain_depth >= self._max_chain_depth:
            outcome.dropped = "chain_depth"
            outcome.note = (
                f"{stored.chain_depth} internal events led to this one; at most {self._max_chain_depth} may"
                " follow from each other: look for a loop"
            )
            return outcome
        events = faces(stored)
        for entry in self._candidates(stored, events):
            if stored.target_repos is not None and entry.repo_identifier not in stored.target_repos:
                continue
            self._ask(outcome, stored, events, entry, trust, delivered)
        if not outcome.decisions:
            outcome.note = "No workflow waits for it"
        return outcome

    def _candidates(self, stored: StoredEvent, events: list[Event]) -> list[Registered]:
        if stored.event_name == SCHEDULE_FIRE and stored.origin == "system":
            entry = self._registry.find(stored.org_id, str(events[0].payload.get("registrationId")))
            return [] if entry is None else [entry]
        return self._registry.waiting_for(stored.org_id, {event.type for event in events})

    def _ask(
        self,
        outcome: Outcome,
        stored: StoredEvent,
        events: list[Event],
        entry: Registered,
        trust: TrustedBy,
        delivered: Mapping[str, str],
    ) -> None:
        found, event = match_first(entry.workflow.lock.triggers, events)
        decision = decision_view(entry.workflow.lock.name, found, disabled=entry.disabled)
        if decision.matched and not self._may(stored, entry, trust):
            decision = _refused(
                decision,
                f"{found.reason}, but {entry.repo_identifier} takes no {stored.event_name} events of"
                f" {stored.source_repo} (kici-admin trust add)",
            )
        repository = self._sources.by_routing_key(entry.routing_key)
        if decision.matched and repository is None:
            decision = _refused(decision, "The source of its repository was removed")
        known = delivered.get(entry.id)
        if decision.matched and known is None and repository is not None:
            trigger = entry.workflow.lock.triggers[decision.trigger_index or 0]
            try:
                inputs = resolve(trigger.inputs, {}) if isinstance(trigger, ScheduleTrigger) else {}
            except InvalidInputs as error:
                decision = _refused(decision, f"{found.reason}, but {error}")
            else:
                # A schedule begins a chain, everything else carries one on (OR-100).
                depth = 0 if event_type(trigger) == "schedule" else stored.chain_depth + 1
                request = registered_run(
                    entry,
                    repository,
                    event=event,
                    trigger_event=event.type,
                    decision=decision,
                    dedup_key=f"{stored.id}:{entry.id}",
                    request_id=request_id(),
                    delivery_id=stored.id,
                    chain_depth=depth,
                    inputs=inputs,
                )
                outcome.starts.append(
                    Start(index=len(outcome.decisions), registration_id=entry.id, request=request)
                )
        elif known is not None:
            decision = structs.replace(decision, run_id=known)
        outcome.decisions.append(decision)

    def _may(self, stored: StoredEvent, entry: Registered, trust: TrustedBy) -> bool:
        if stored.source_repo is None:  # an operator's own
            return stored.origin != "job"
        if self._of_the_same_repository(stored, entry):
            return True
        source = (stored.source_repo, stored.source_routing_key)
        return trust.allows(
            stored.org_id, stored.event_name, source, (entry.repo_identifier, entry.routing_key)
        )

    def _of_the_same_repository(self, stored: StoredEvent, entry: Registered) -> bool:
        """A webhook source has no repositories: what its deliveries start are workflows of the one that
        registered them. Where several sources have a repository of that name, nothing says which one it was."""
        if stored.source_repo != entry.repo_identifier or stored.source_routing_key is None:
            return False
        source = self._sources.by_routing_key(stored.source_routing_key)
        if source is None or source.org_id != entry.org_id or source.kind != "generic":
            return False
        homes = {one.routing_key for one in self._registry.of_repo(entry.org_id, entry.repo_identifier)}
        return homes == {entry.routing_key}


def _refused(decision: DeliveryDecision, reason: str) -> DeliveryDecision:
    return structs.replace(decision, matched=False, reason=reason)
