"""What `kici diagnostics` finds wrong (AU-134)."""

from typing import Any

from kici.cli.diagnostics import alerts_of

CONNECTED = [{"connected": True, "version": "0.1.0"}]
COUNTS = {"success": 1, "failed": 0}


def summary(**more: Any) -> dict[str, Any]:
    agents = [{"connected": True, "busy": True}]
    depths = {"queuedJobs": 0, "runningJobs": 1, "inboxDepth": 0, "outboxDepth": 0}
    return {"agents": agents, **depths, "shortages": [], **more}


def test_nothing_is_wrong_while_jobs_wait_their_turn() -> None:
    assert alerts_of(CONNECTED, summary(queuedJobs=3), COUNTS) == []


def test_labels_that_no_agent_has_are_named_also_while_others_work() -> None:
    lacking = [
        {"wanted": "gpu, linux", "jobs": 2, "waitingMs": 187_000},
        {"wanted": "mac", "jobs": 1, "waitingMs": 61_000},
    ]
    first, second = alerts_of(CONNECTED, summary(queuedJobs=3, shortages=lacking), COUNTS)
    assert first == (
        "2 jobs wait for an agent with gpu, linux, which no connected agent fits: the longest for 3m 07s. "
        "Correct `runs_on`, or connect such an agent."
    )
    assert second == (
        "1 job waits for an agent with mac, which no connected agent fits: for 1m 01s. "
        "Correct `runs_on`, or connect such an agent."
    )
