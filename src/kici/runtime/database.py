"""PostgreSQL as servers use it: one engine per process, our codecs, migrations, wake-ups.

Conventions: hot statements are SQL text with bound values. `uuid` comes and goes as `str`; `jsonb`
travels as JSON text that we encode and decode with msgspec (`CAST(:x AS jsonb)` on the way in,
`column::text` or a decode on the way out); times are aware datetimes.
"""

import asyncio
import json
import os
from collections.abc import Iterable
from typing import Any

import asyncpg
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from kici.runtime.backoff import supervised
from kici.runtime.logging import get_logger

log = get_logger(__name__)


def connect(
    url: str, *, pool_size: int = 8, application_name: str = "kici", generic_plans: bool = False
) -> AsyncEngine:
    """An engine for `postgresql://…`. READ COMMITTED; statements and idle transactions are bounded
    (OR-251). `generic_plans`: plan each statement once per connection; for statements that find rows by id,
    where planning costs more than running."""
    engine = create_async_engine(
        make_url(url).set(drivername="postgresql+asyncpg"),
        pool_size=pool_size,
        max_overflow=4,
        pool_timeout=15,
        pool_pre_ping=False,
        json_serializer=json.dumps,
        connect_args={
            "timeout": 10,
            "command_timeout": 30,
            "server_settings": {
                "application_name": application_name,
                "statement_timeout": "15000",
                "idle_in_transaction_session_timeout": "10000",
                "jit": "off",
                "TimeZone": "UTC",  # what to_jsonb writes
                "plan_cache_mode": "force_generic_plan" if generic_plans else "auto",
            },
        },
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _codecs(connection: Any, _record: Any) -> None:
        async def install(raw: Any) -> None:
            await raw.set_type_codec("uuid", encoder=str, decoder=str, schema="pg_catalog", format="text")

        connection.run_async(install)

    return engine


async def migrate(engine: AsyncEngine, package: str) -> bool:
    """Bring the schema to Alembic's head under an advisory lock; True when something was applied.

    `package` is the folder that holds `migrations/` (env.py, versions/). Files are named
    `NNNN_pre_what.py` or `NNNN_post_what.py`: expand before the new code runs, contract after.
    Alembic is imported only when the newest file is not yet applied, which keeps starts quick.
    """
    folder = os.path.join(package, "migrations")
    head = max(name[:4] for name in os.listdir(os.path.join(folder, "versions")) if name[:4].isdigit())
    async with engine.connect() as probe:
        if await probe.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL")):
            current = await probe.scalar(text("SELECT version_num FROM alembic_version"))
            if current == head:
                return False
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(77001)"))
        await connection.commit()
        try:
            await connection.run_sync(_upgrade, folder)
            await connection.commit()
        finally:
            await connection.execute(text("SELECT pg_advisory_unlock(77001)"))
            await connection.commit()
    log.info("schema.migrated", head=head)
    return True


def _upgrade(connection: Connection, folder: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def run_script(connection: Connection, sql: str) -> None:
    """Run many statements as one script, inside the migration's transaction."""

    async def script(raw: Any) -> None:
        await raw.execute(sql, timeout=600)

    adapted: Any = connection.connection.dbapi_connection
    adapted.run_async(script)


async def reachable(engine: AsyncEngine) -> bool:
    """For `/ready`: does the database answer within 2 s?"""
    try:
        async with asyncio.timeout(2), engine.connect() as probe:
            await probe.execute(text("SELECT 1"))
    except Exception:
        return False
    return True


# Classes of SQLSTATE: no connection, rolled back, out of resources, an operator's intervention.
_PASSING = ("08", "40", "53", "57")


def is_passing(error: BaseException) -> bool:
    """Whether the same may work again soon: the database is away, restarts, or asks to try again."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return state is None or str(state).startswith(_PASSING)
    return isinstance(error, OSError)


class Wakeups:
    """Named hints that a table has work (design §5): the table is the truth, the hint saves waiting.

    `wake` reaches this process at once and others through one coalesced NOTIFY per channel, sent on a
    connection of its own after the caller's commit, never in a hot transaction. Losing a hint costs
    at most the waiter's own sweep period.
    """

    def __init__(
        self, database_url: str, channels: Iterable[str], *, coalesce_seconds: float = 0.004
    ) -> None:
        url = make_url(database_url).set(drivername="postgresql")
        self._dsn = url.render_as_string(hide_password=False)
        self._events = {channel: asyncio.Event() for channel in channels}
        self._pending: set[str] = set()
        self._dirty = asyncio.Event()
        self._coalesce = coalesce_seconds

    def wake(self, channel: str) -> None:
        self._events[channel].set()
        self._pending.add(channel)
        self._dirty.set()

    def wake_here(self, channel: str) -> None:
        """Only this process: for hints that concern its own connections."""
        self._events[channel].set()

    async def wait(self, channel: str, *, sweep_seconds: float) -> None:
        """Until a hint comes, or the sweep period is over."""
        event = self._events[channel]
        try:
            async with asyncio.timeout(sweep_seconds):
                await event.wait()
        except TimeoutError:
            pass
        event.clear()

    async def run(self) -> None:
        """Listens and notifies for ever; reconnects by itself."""
        await supervised("wakeups", self._session)

    async def _session(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=10)
        lost = asyncio.Event()
        own = connection.get_server_pid()

        def heard(_connection: object, pid: int, channel: str, _payload: object) -> None:
            if pid != own:
                self._events[channel].set()

        try:
            connection.add_termination_listener(lambda _c: (lost.set(), self._dirty.set()))
            for channel in self._events:
                await connection.add_listener(channel, heard)
            for event in self._events.values():  # hints may have been lost while away
                event.set()
            while not lost.is_set():
                await self._dirty.wait()
                await asyncio.sleep(self._coalesce)
                self._dirty.clear()
                channels, self._pending = self._pending, set()
                if channels and not lost.is_set():
                    await connection.execute(
                        "SELECT pg_notify(c, '') FROM unnest($1::text[]) AS c", sorted(channels), timeout=10
                    )
        finally:
            connection.terminate()


__all__ = [
    "AsyncConnection",
    "AsyncEngine",
    "Wakeups",
    "connect",
    "is_passing",
    "migrate",
    "reachable",
    "run_script",
    "text",
]
