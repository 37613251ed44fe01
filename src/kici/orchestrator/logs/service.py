"""Logs as people ask for them: by run, job and step; the current attempt unless they name another.

A step that printed nothing has an empty log. What was there and is gone says so (`log_expired`); what
never was is not found.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import msgspec

from kici.orchestrator.logs import queries
from kici.orchestrator.logs.queries import StepFacts
from kici.orchestrator.logs.store import LogStore, RawRange
from kici.orchestrator.logs.streams import LogExpired, LogNotFound, StreamId
from kici.orchestrator.rpc import Caller, LogRawParams, LogReadParams, LogSearchParams, RawResult, RpcMethod
from kici.protocol.dashboard_v1 import LogPage, LogSearchResult
from kici.runtime.backoff import supervised
from kici.runtime.database import AsyncEngine
from kici.runtime.logging import get_logger

log = get_logger(__name__)

SWEEP_SECONDS = 10.0


class LogService:
    def __init__(self, engine: AsyncEngine, store: LogStore) -> None:
        # One statement is one transaction: no BEGIN and COMMIT round trips.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._store = store

    async def run(self) -> None:
        """Ends the logs of steps that ended without saying so, for ever."""
        await supervised("logs.sweep", self._sweeps)

    async def _sweeps(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Finalise what a crash left behind, and what belongs to a step, attempt or job that is over:
        its agent is gone. Watchers of these are told."""
        await self._store.sweep()
        streams = self._store.unfinished()
        if not streams:
            return
        async with self._engine.connect() as tx:
            over = await queries.over(tx, streams)
        for stream in over:
            await self._store.finalize(*stream)

    async def read(
        self,
        org_id: str,
        run_id: str,
        job_id: str,
        step_index: int,
        *,
        offset: int = 0,
        limit: int = 5000,
        tail: int | None = None,
        attempt: int | None = None,
    ) -> LogPage:
        """Lines from `offset`, or the last `tail`. Raises LogNotFound, LogExpired."""
        stream, facts = await self._find(org_id, run_id, job_id, step_index, attempt)
        try:
            page = await self._store.read(stream, offset, limit, tail)
        except LogNotFound:
            self._check_absent(facts)
            return LogPage(
                lines=[], ts=[], first_line=0, total_lines=0, total_bytes=0, complete=facts.over, cut=[]
            )
        if facts.over and not page.complete:
            return msgspec.structs.replace(page, complete=True)  # its agent vanished
        return page

    async def search(
        self,
        org_id: str,
        run_id: str,
        job_id: str,
        step_index: int,
        query: str,
        *,
        regex: bool = False,
        limit: int = 100,
        attempt: int | None = None,
        timeout_seconds: float = 8.0,
    ) -> LogSearchResult:
        """Raises LogNotFound, LogExpired, BadPattern."""
        stream, facts = await self._find(org_id, run_id, job_id, step_index, attempt)
        try:
            return await self._store.search(
                stream, query, regex=regex, limit=limit, timeout_seconds=timeout_seconds
            )
        except LogNotFound:
            self._check_absent(facts)
            return LogSearchResult(matches=[], total=0, truncated=False, scanned_lines=0)

    async def raw(
        self,
        org_id: str,
        run_id: str,
        job_id: str,
        step_index: int,
        *,
        from_byte: int = 0,
        max_bytes: int = 1 << 20,
        attempt: int | None = None,
    ) -> RawRange:
        """One piece of a download. Raises LogNotFound, LogExpired."""
        stream, facts = await self._find(org_id, run_id, job_id, step_index, attempt)
        try:
            return await self._store.raw(stream, from_byte, max_bytes)
        except LogNotFound:
            self._check_absent(facts)
            return RawRange(data=b"", next_byte=0, total_bytes=0)

    async def watch(
        self, org_id: str, run_id: str, job_id: str, step_index: int, from_line: int
    ) -> AsyncGenerator[bytes]:
        """Block records of the current attempt, see LogStore.watch; of a job that was never dispatched,
        those of its first. Raises LogNotFound; ends when the step, its attempt or its job ends. Use
        `contextlib.aclosing`."""
        while True:
            stream, facts = await self._find(org_id, run_id, job_id, step_index, None)
            async with aclosing(self._store.watch(stream, from_line)) as records:
                async for record in records:
                    yield record
            if facts.attempt > 0 or facts.over:
                return

    async def remove_run(self, run_id: str) -> None:
        """All logs of a run, for the retention."""
        await self._store.remove_run(run_id)

    async def _find(
        self, org_id: str, run_id: str, job_id: str, step_index: int, attempt: int | None
    ) -> tuple[StreamId, StepFacts]:
        async with self._engine.connect() as tx:
            facts = await queries.find_step(tx, org_id, run_id, job_id, step_index, attempt)
        if facts is None:
            raise LogNotFound("there is no such run or job")
        return StreamId(run_id, job_id, facts.attempt, step_index), facts

    @staticmethod
    def _check_absent(facts: StepFacts) -> None:
        if facts.log_bytes:
            raise LogExpired("this output was removed when its retention time was over")
        if facts.over and not facts.step_known:
            raise LogNotFound("the job has no such step in this attempt")

    # ── as RPC methods ───────────────────────────────────────────────────────────────────────────

    def methods(self) -> Mapping[str, RpcMethod]:
        """The part of the orchestrator's RPC table that is about logs."""
        return {
            "logs.read": RpcMethod(params=LogReadParams, handler=self._rpc_read),
            "logs.search": RpcMethod(params=LogSearchParams, handler=self._rpc_search),
            "logs.raw": RpcMethod(params=LogRawParams, handler=self._rpc_raw),
        }

    async def _rpc_read(self, params: LogReadParams, caller: Caller) -> LogPage:
        return await self.read(
            caller.org_id,
            params.run_id,
            params.job_id,
            params.step_index,
            offset=params.offset,
            limit=params.limit,
            tail=params.tail,
            attempt=params.attempt,
        )

    async def _rpc_search(self, params: LogSearchParams, caller: Caller) -> LogSearchResult:
        return await self.search(
            caller.org_id,
            params.run_id,
            params.job_id,
            params.step_index,
            params.query,
            regex=params.regex,
            limit=params.limit,
            attempt=params.attempt,
        )

    async def _rpc_raw(self, params: LogRawParams, caller: Caller) -> RawResult:
        part = await self.raw(
            caller.org_id,
            params.run_id,
            params.job_id,
            params.step_index,
            from_byte=params.from_byte,
            max_bytes=params.max_bytes,
            attempt=params.attempt,
        )
        meta = {"nextByte": part.next_byte, "done": part.done, "totalBytes": part.total_bytes}
        return RawResult(meta=meta, data=part.data)
