"""Tells agents to stop what they should not run: cancelled jobs, and attempts that are over for us.

Agents keep a job until they report its end. This compares what the connected ones hold with the table: on
the hint `cancel`, when an agent becomes ready, and every few seconds. A stop is sent once per connection, so
that a repetition is never taken for a second request; force follows when somebody asks for it.
"""

from collections.abc import Iterable
from typing import Literal

from kici.orchestrator.agents.connection import Attempt, Connection
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.runs.execution import Execution
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import JobCancel
from kici.runtime.database import Wakeups, text
from kici.runtime.logging import get_logger
from kici.spec.states import JobStatus

log = get_logger(__name__)

SWEEP_S = 5.0

_HELD = text("""
    SELECT j.id, j.attempt, j.agent_id, j.agent_session, j.status, j.completed_at IS NOT NULL, j.cancel_force,
        coalesce(r.cancel_reason, 'the run was cancelled')
    FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")


async def recall(execution: Execution, connections: Iterable[Connection]) -> int:
    """Frames sent."""
    holders = [(connection, attempt) for connection in connections for attempt in connection.held]
    if not holders:
        return 0
    async with execution.engine.connect() as tx:
        rows = await tx.execute(_HELD, {"ids": list({job_id for _, (job_id, _) in holders})})
        found = {row[0]: row for row in rows}
    sent = 0
    for connection, attempt in holders:
        row = found.get(attempt[0])
        who = connection.identity
        ours = row is not None and row[1:4] == (attempt[1], who.agent_id, who.session_id)
        if row is None or not ours or row[5]:
            reason = "the job has ended" if ours else "this attempt of the job is over"
            sent += _tell(connection, attempt, "kill", reason)
        elif row[4] == JobStatus.CANCELLING:
            sent += _tell(connection, attempt, "kill" if row[6] else "stop", row[7])
    return sent


def _tell(connection: Connection, attempt: Attempt, how: Literal["stop", "kill"], reason: str) -> bool:
    job_id, number = attempt
    run_id = connection.held.get(attempt)
    if run_id is None or connection.told.get(attempt) in {how, "kill"}:
        return False
    frame = agent_v1.encode(
        JobCancel(run_id=run_id, job_id=job_id, attempt=number, reason=reason, force=how == "kill")
    )
    if not connection.post(frame):
        return False
    connection.told[attempt] = how
    log.info("job.recalled", agent_id=connection.identity.agent_id, job_id=job_id, attempt=number, how=how)
    return True


async def recall_loop(execution: Execution, hub: Hub, wakeups: Wakeups) -> None:
    """For ever."""
    while True:
        await wakeups.wait("cancel", sweep_seconds=SWEEP_S)
        await recall(execution, hub)
