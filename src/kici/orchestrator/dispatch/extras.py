"""What is minted when jobs are sent and never stored with them: secrets, keys, overlays (OR-153)."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kici.orchestrator.dispatch.claim import ClaimedJob
from kici.orchestrator.remote.briefs import RemoteBriefs
from kici.orchestrator.secrets.runs import RunKeys
from kici.runtime.database import AsyncConnection

Extras = Mapping[str, Mapping[str, Any] | None]
"""Job id → fields of JobDispatch; None: it must not be sent."""


class DispatchExtras(Protocol):
    async def extras(self, tx: AsyncConnection, jobs: Sequence[ClaimedJob]) -> Extras:
        """For one claim, in its transaction. Jobs that need nothing are left out."""
        ...


class Minted:
    """Secret outputs of upstream jobs, the key to seal one's own, and what a remote run brought along. Jobs
    that stand alone cost no statement."""

    def __init__(self, keys: RunKeys, briefs: RemoteBriefs) -> None:
        self._keys = keys
        self._briefs = briefs

    async def extras(self, tx: AsyncConnection, jobs: Sequence[ClaimedJob]) -> Extras:
        found: dict[str, dict[str, Any] | None] = {}
        related = [job.job_id for job in jobs if job.kind == "job" and (job.needed or job.needs)]
        for job_id, secrets in (await self._keys.for_jobs(tx, related)).items():
            found[job_id] = {"run_public_key": secrets.public_key, "secrets": secrets.values}
        remote = [job for job in jobs if job.remote]
        briefs = await self._briefs.for_runs(tx, sorted({job.run_id for job in remote}))
        for job in remote:
            brief = briefs.get(job.run_id)
            if brief is None:  # without its working tree it would run something else
                found[job.job_id] = None
                continue
            fields = found.get(job.job_id) or {}
            found[job.job_id] = {
                **fields,
                "overlay": brief.overlay,
                # What the author sent stands above what jobs handed on (AU-126).
                "secrets": {**fields.get("secrets", {}), **brief.secrets},
            }
        return found
