"""Secret outputs (AG-52, SE-39…43): agents seal them to a key of the run; only here, and only to deliver them to
a job that needs their producer, are they opened. No plain text is ever stored.
"""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct

from kici.orchestrator.sources.sealing import Sealer, Unsealable
from kici.protocol.secret_outputs import SecretOutputBroken, unseal
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.logging import get_logger

log = get_logger(__name__)

PURPOSE = "run-keys"
SWEEP_S = 60.0
ABANDONED_H = 24


class RunSecrets(Struct, frozen=True, kw_only=True):
    """For one dispatch. `public_key` (raw, base64) is None for a job that nothing depends on."""

    public_key: str | None
    values: dict[str, str]


class _Producer(Struct, frozen=True, rename="camel"):
    job_id: str
    attempt: int
    job_name: str
    sealed: dict[str, str]


_decode_producers = msgspec.json.Decoder(list[_Producer]).decode

# Later jobs win over earlier ones that use the same name.
_WANTED = text("""
    SELECT j.id, j.run_id, k.public_key, k.private_key,
        EXISTS (SELECT FROM execution_job_needs n WHERE n.upstream_job_id = j.id),
        (SELECT jsonb_agg(jsonb_build_object('jobId', u.id, 'attempt', u.attempt, 'jobName', u.job_name,
                                             'sealed', u.secret_outputs) ORDER BY u.position, u.id)
         FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
         WHERE n.job_id = j.id AND u.secret_outputs IS NOT NULL)::text
    FROM execution_jobs j LEFT JOIN execution_run_keys k ON k.run_id = j.run_id
    WHERE j.id = ANY(CAST(:job_ids AS uuid[]))
""")
_ADD = text("""
    INSERT INTO execution_run_keys (run_id, public_key, private_key)
    SELECT run_id, decode(public_key, 'base64'), decode(private_key, 'base64')
    FROM jsonb_to_recordset(CAST(:keys AS jsonb)) AS k (run_id uuid, public_key text, private_key text)
    ORDER BY run_id ON CONFLICT (run_id) DO NOTHING
""")
_PUBLIC = text(
    "SELECT run_id, public_key FROM execution_run_keys WHERE run_id = ANY(CAST(:run_ids AS uuid[]))"
)
_FORGET = text(f"""
    WITH over AS (
        DELETE FROM execution_run_keys k USING execution_runs r
        WHERE r.id = k.run_id AND r.completed_at IS NOT NULL RETURNING k.run_id
    ), abandoned AS (
        DELETE FROM execution_run_keys k WHERE k.created_at < now() - interval '{ABANDONED_H} h'
            AND NOT EXISTS (SELECT FROM execution_runs r WHERE r.id = k.run_id) RETURNING k.run_id
    )
    UPDATE execution_jobs j SET secret_outputs = NULL FROM over o
    WHERE j.run_id = o.run_id AND j.secret_outputs IS NOT NULL
""")


class RunKeys:
    """`secret_key`: KICI_SECRET_KEY, which seals the private halves."""

    def __init__(self, secret_key: bytes) -> None:
        self._sealer = Sealer(secret_key, PURPOSE)

    async def for_jobs(self, tx: AsyncConnection, job_ids: Sequence[str]) -> dict[str, RunSecrets]:
        """What these jobs need to know at their dispatch, by job id. One statement; two more for the first
        job of a run that others depend on. What does not open is left out, and logged."""
        if not job_ids:
            return {}
        rows = (await tx.execute(_WANTED, {"job_ids": list(job_ids)})).all()
        public: dict[str, bytes] = {row[1]: row[2] for row in rows if row[2] is not None}
        missing = sorted({row[1] for row in rows if row[4] and row[1] not in public})
        if missing:
            public |= await self._add(tx, missing)
        return {
            row[0]: RunSecrets(
                public_key=base64.b64encode(public[row[1]]).decode() if row[4] else None,
                values=self._open(row[1], row[3], _decode_producers(row[5])) if row[5] else {},
            )
            for row in rows
        }

    async def _add(self, tx: AsyncConnection, run_ids: Sequence[str]) -> dict[str, bytes]:
        """Another process may be faster: its keys stand."""
        await tx.execute(
            _ADD, {"keys": msgspec.json.encode([self._made(run_id) for run_id in run_ids]).decode()}
        )
        return {row[0]: row[1] for row in await tx.execute(_PUBLIC, {"run_ids": list(run_ids)})}

    def _made(self, run_id: str) -> dict[str, Any]:
        private = X25519PrivateKey.generate()
        return {
            "run_id": run_id,
            "public_key": base64.b64encode(private.public_key().public_bytes_raw()).decode(),
            "private_key": base64.b64encode(
                self._sealer.seal(run_id, private.private_bytes_raw())
            ).decode(),
        }

    def _open(
        self, run_id: str, sealed_key: bytes | None, producers: Sequence[_Producer]
    ) -> dict[str, str]:
        if sealed_key is None:
            return {}
        values: dict[str, str] = {}
        try:
            private = X25519PrivateKey.from_private_bytes(self._sealer.unseal(run_id, sealed_key))
        except Unsealable as error:
            log.error("run.key_lost", run_id=run_id, error=str(error))
            return {}
        for producer in producers:
            for name, sealed in producer.sealed.items():
                if not sealed:
                    continue
                try:
                    values[name] = unseal(
                        private,
                        sealed,
                        run_id=run_id,
                        job_id=producer.job_id,
                        attempt=producer.attempt,
                        name=name,
                    )
                except SecretOutputBroken as error:
                    log.error(
                        "secret_output.broken",
                        run_id=run_id,
                        job=producer.job_name,
                        name=name,
                        error=str(error),
                    )
        return values


async def forget(engine: AsyncEngine) -> None:
    """Keys of runs that have ended go, and with them all that was sealed (SE-43)."""
    async with engine.begin() as tx:
        await tx.execute(_FORGET)


async def forget_loop(engine: AsyncEngine) -> None:
    """For ever."""
    while True:
        await asyncio.sleep(SWEEP_S)
        await forget(engine)
