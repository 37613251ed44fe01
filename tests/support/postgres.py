"""One throw-away PostgreSQL server per test session, and a fresh clone of a migrated database per test.

The same embedded server as `kici up` runs, told not to sync anything to disk: the data lives as long as
the session. The server dies with the session, also when that is killed.
"""

import asyncio
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from kici.cli.up.children import before_exec
from kici.cli.up.postgres import DEATH_SIGNAL, STOP_SIGNAL, EmbeddedPostgres
from kici.runtime.database import AsyncEngine, connect, migrate
from tests.support.stack import eventually

# What a server that never has to survive anything should be told.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_connections": "200",
    "checkpoint_timeout": "30min",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
}


@dataclass(frozen=True)
class Database:
    """A fresh database: `engine` for this test's own statements, `url` for programs that it starts."""

    engine: AsyncEngine
    url: str


@dataclass(frozen=True)
class Server:
    cluster: EmbeddedPostgres
    _templates: dict[str, str] = field(default_factory=dict)

    def url(self, database: str) -> str:
        return self.cluster.url(database)

    def template(self, tier: str) -> str:
        """Name of the migrated template of `orchestrator` or `platform`; made on first use."""
        name = self._templates.get(tier)
        if name is None:
            name = f"template_{tier}"
            asyncio.run(self._make_template(tier, name))
            self._templates[tier] = name
        return name

    async def _make_template(self, tier: str, name: str) -> None:
        await self._execute(f'CREATE DATABASE "{name}"')
        spec = find_spec(f"kici.{tier}.db")
        assert spec is not None
        assert spec.origin is not None
        engine = connect(self.url(name), pool_size=1, application_name="tests")
        try:
            await migrate(engine, os.path.dirname(spec.origin))
        finally:
            await engine.dispose()

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"), timeout=20)
        try:
            await connection.execute(statement, timeout=60)
        finally:
            await connection.close()

    @asynccontextmanager
    async def clone(self, template: str, *, pool_size: int = 8) -> AsyncGenerator[Database]:
        """A copy of `template` that is dropped afterwards."""
        name = f"t_{uuid.uuid4().hex}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        url = self.url(name)
        engine = connect(url, pool_size=pool_size, application_name="tests")
        try:
            yield Database(engine, url)
        finally:
            await engine.dispose()
            await self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def serve() -> Generator[Server]:
    """Runs a server until the block ends."""
    root = Path(tempfile.mkdtemp(prefix="kici-pg-", dir="/tmp"))
    root.chmod(0o711)
    options = [f"--{name}={value}" for name, value in _SETTINGS.items()]
    cluster = EmbeddedPostgres(root / "postgres", extra_options=options)
    log = root / "log"
    try:
        cluster.prepare()
        with log.open("wb") as output:
            process = subprocess.Popen(
                cluster.argv,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=before_exec(DEATH_SIGNAL, cluster.identity, os.getpid()),  # noqa: PLW1509  no threads yet
            )
        try:

            def ready() -> bool:
                assert process.poll() is None, log.read_text(errors="replace")
                return cluster.is_ready()

            eventually(ready, within_seconds=60, what="PostgreSQL ready")
            yield Server(cluster)
        finally:
            process.send_signal(STOP_SIGNAL)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(root, ignore_errors=True)
