"""What agents say about themselves, on our `/metrics` with the label `agent_id` (AG-99, OP-30).

An agent that left is shown for one more scrape interval; then its counters are added to those of
`agent_id="departed"`, so that sums over all agents never go down.
"""

import asyncio
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.agents.hub import Hub
from kici.runtime.logging import get_logger

log = get_logger(__name__)

PREFIX = "kici_agent_"
DEPARTED = "departed"
SCALER = "stateful"  # the only kind of agent so far
KEPT_S = 30.0
MAX_SAMPLES = 2000

_Series = tuple[str, tuple[tuple[str, str], ...]]  # sample name, labels
_SUMMED = {"counter", "histogram"}


class AgentTelemetry(Collector):
    """Register it with the registry behind `/metrics`. `now`: the event loop's time."""

    def __init__(self, hub: Hub, now: Callable[[], float] | None = None) -> None:
        self._hub = hub
        self._now = now or (lambda: asyncio.get_running_loop().time())
        self._leaving: list[tuple[float, Connection]] = []
        self._departed: dict[str, tuple[str, str, dict[_Series, float]]] = {}  # family → type, help, sums

    def collect(self) -> Iterable[Metric]:
        self._fold()
        families: dict[str, Metric] = {}
        shown = {connection.identity.agent_id: connection for connection in self._hub}
        for _, connection in self._leaving:
            shown.setdefault(connection.identity.agent_id, connection)
        for agent_id, connection in shown.items():
            for family in _parse(connection):
                target = _family(families, family.name, family.type, family.documentation)
                for sample in family.samples:
                    labels = {**sample.labels, "agent_id": agent_id, "scaler": SCALER}
                    target.add_sample(sample.name, labels, sample.value)
        for name, (kind, text, sums) in self._departed.items():
            target = _family(families, name, kind, text)
            for (sample_name, pairs), value in sums.items():
                target.add_sample(
                    sample_name, {**dict(pairs), "agent_id": DEPARTED, "scaler": SCALER}, value
                )
        return list(families.values())

    def _fold(self) -> None:
        now = self._now()
        self._leaving += [
            (left_at + KEPT_S, connection)
            for left_at, connection in self._hub.take_departures()
            if connection.exposition is not None
        ]
        due = [connection for until, connection in self._leaving if until <= now]
        self._leaving = [entry for entry in self._leaving if entry[0] > now]
        for connection in due:
            back = self._hub.find(connection.identity.agent_id)
            if back is not None and back.identity.session_id == connection.identity.session_id:
                continue  # the same process: its counters went on
            for family in _parse(connection):
                if family.type not in _SUMMED:
                    continue
                sums = self._departed.setdefault(family.name, (family.type, family.documentation, {}))[2]
                for sample in family.samples:
                    key = (sample.name, tuple(sorted(sample.labels.items())))
                    if key in sums or len(sums) < MAX_SAMPLES:
                        sums[key] = sums.get(key, 0.0) + sample.value


def _family(families: dict[str, Metric], name: str, kind: str, text: str) -> Metric:
    found = families.get(name)
    if found is None:
        found = families[name] = Metric(name, text, kind)
    return found


def _parse(connection: Connection) -> list[Metric]:
    """The agent's own series; whatever else it sends is left out."""
    if connection.exposition is None:
        return []
    try:
        families = [
            family
            for family in text_string_to_metric_families(connection.exposition)
            if family.name.startswith(PREFIX)
        ]
    except (ValueError, KeyError, IndexError) as error:
        log.warning("agent.metrics_unreadable", agent_id=connection.identity.agent_id, problem=str(error))
        return []
    if sum(len(family.samples) for family in families) > MAX_SAMPLES:
        log.warning("agent.metrics_too_many", agent_id=connection.identity.agent_id)
        return []
    for family in families:
        # `_created` samples are times, which neither add up nor interest anybody here.
        family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return [family for family in families if family.samples]
