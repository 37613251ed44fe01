"""Workflow dependencies: a virtual environment per dependency lock, built once, kept, shared by jobs.

`.kici/uv.lock` is installed with `uv sync --frozen`, `.kici/requirements.txt` with `uv pip install` (or pip
where uv is missing). Without either, workflows run in the agent's own interpreter environment.

An environment is built under another name and renamed when complete, so a name that exists is whole. Its
lock file is held while somebody builds it (exclusive) or uses it (shared); the least recently used ones
beyond `KEEP` go, unless somebody uses them. Before anything is installed, somebody may fetch it from elsewhere.
"""

import asyncio
import hashlib
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import ClassVar, Literal

from msgspec import Struct

from kici.agent import process
from kici.agent.locks import FileLock, locked
from kici.agent.mirror import Say
from kici.compiler.content import lockfile_hash
from kici.runner.uvprogram import find_uv
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

KEEP = 10
BUILD_TIMEOUT_S = 600.0
_FORGOTTEN_S = 86_400.0

# Paths in a dependency lock: their content is pinned by the commit, not by the lock.
_LOCAL_IN_UV = re.compile(r'(?:directory|editable|path) = "')
_LOCAL_IN_PIP = re.compile(
    r"^\s*(?:-e\b|--editable\b|\.|/|file:|-r\b|--requirement\b|-c\b|--constraint\b)|@\s*file:", re.MULTILINE
)

# Dies with the agent: the kernel signals it however the agent ends.
_LAUNCHER = (
    "import ctypes,os,sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): os._exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)

_PASSED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC")
_PASSED_PREFIXES = ("UV_", "PIP_", "http_", "https_", "no_", "all_", "HTTP_", "HTTPS_", "NO_", "ALL_")


Fetch = Callable[[str, str, Say], Awaitable[bool]]
"""Puts the environment with this key into a new folder; False when it has to be installed (`packs.Packs`)."""


class InstallFailed(KiciError):
    """The workflow's dependencies could not be installed; the job log has the installer's output."""

    code: ClassVar[str] = "dependencies_failed"


class Environment(Struct, frozen=True):
    """An interpreter to run workflows with. `key` is None for the agent's own."""

    python: str
    key: str | None
    status: Literal["hit", "miss", "skipped"]
    pinned: bool = False  # by its commit: the lock names paths inside the repository

    @property
    def folder(self) -> str | None:
        return None if self.key is None else os.path.dirname(os.path.dirname(self.python))


OWN = Environment(sys.executable, None, "skipped")


class Environments:
    """`folder` is the agent's `venvs/`. One call of `resolve` at a time in this process."""

    def __init__(self, folder: str, environ: Mapping[str, str]) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = folder
        self.uv = find_uv(environ)
        self._env = {
            name: value
            for name, value in environ.items()
            if name in _PASSED or name.startswith(_PASSED_PREFIXES)
        } | {
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_NO_PROGRESS": "1",  # by hash, for files come out of archives with other times
            "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    async def resolve(
        self,
        repository: str,
        sha: str,
        say: Say,
        on_output: Callable[[bytes], None],
        fetch: Fetch | None = None,
        timeout_s: float = BUILD_TIMEOUT_S,
    ) -> Environment:
        """The environment for the workflow in `repository` at commit `sha`, building it when it is new.

        `on_output` gets what the installer prints. Raises InstallFailed or LockBusy.
        """
        lock_hash = lockfile_hash(Path(repository))
        if lock_hash is None:
            return OWN
        kici = os.path.join(repository, ".kici")
        from_uv = not _exists(kici, "requirements.txt") or _exists(kici, "uv.lock")
        pinned = _has_local_paths(repository)
        key = environment_key(lock_hash, sha if pinned else "")
        target = os.path.join(self.folder, key)
        environment = Environment(os.path.join(target, "bin", "python"), key, "hit", pinned)
        source = "uv.lock" if from_uv else "requirements.txt"
        if _exists(environment.python):
            _touch(target)
            say(f"Dependencies of {source}: ready ({key})")
            return environment
        async with locked(f"{target}.lock", timeout_s=timeout_s):
            if _exists(environment.python):  # another agent was faster
                return environment
            started = perf_counter()
            scratch = f"{target}.new"
            try:
                await _remove(scratch)
                fetched = fetch is not None and await fetch(key, scratch, say)
                if not fetched:
                    await _remove(scratch)
                    say(f"Installing dependencies of {source} ({key})")
                    await self._build(
                        scratch, kici, from_uv=from_uv, on_output=on_output, timeout_s=timeout_s
                    )
                await _remove(target)  # one whose interpreter is gone
                os.rename(scratch, target)
            finally:
                await _remove(scratch)
            done = "ready" if fetched else "installed"
            say(f"Dependencies {done} in {perf_counter() - started:.1f} s")
        await self.evict(keep=key)
        return Environment(environment.python, key, "hit" if fetched else "miss", pinned)

    def hold(self, key: str) -> FileLock:
        """Marks an environment as in use until the lock is released."""
        lock = FileLock(os.path.join(self.folder, f"{key}.lock"))
        lock.take(shared=True)
        return lock

    async def evict(self, *, keep: str) -> None:
        """Remove the least recently used environments beyond `KEEP` that nobody holds, and archives that an
        agent left behind when it was killed."""
        used: list[tuple[float, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if "." not in entry.name:
                        used.append((entry.stat().st_mtime, entry.name))
                elif ".pack" in entry.name and entry.stat().st_mtime < time.time() - _FORGOTTEN_S:
                    os.unlink(entry.path)
        for _time, name in sorted(used, reverse=True)[KEEP:]:
            if name == keep:
                continue
            path = os.path.join(self.folder, name)
            lock = FileLock(f"{path}.lock")
            try:
                if lock.take():
                    doomed = f"{path}.gone"
                    os.rename(path, doomed)
                    await _remove(doomed)
                    log.info("environment.evicted", key=name)
            finally:
                lock.release()

    async def _build(
        self, target: str, kici: str, *, from_uv: bool, on_output: Callable[[bytes], None], timeout_s: float
    ) -> None:
        async def run(command: list[str], extra: Mapping[str, str]) -> None:
            await self._run(command, extra, on_output, timeout_s)

        python = os.path.join(target, "bin", "python")
        if self.uv is not None:
            uv = self.uv
            await run([uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, target], {})
            if from_uv:
                # Into `target` because uv would otherwise make `.kici/.venv`; not editable because the
                # work tree goes after the job.
                command = [uv, "sync", "--frozen", "--no-install-project", "--no-editable"]
                command += ["--compile-bytecode", "--directory", kici, "--python", python]
                await run(command, {"UV_PROJECT_ENVIRONMENT": target})
            else:
                command = [uv, "pip", "install", "--compile-bytecode", "--python", python]
                command += ["--directory", kici, "-r", "requirements.txt"]
                await run(command, {})
            return
        if from_uv:
            raise InstallFailed("this workflow pins its dependencies in uv.lock, and the agent has no `uv`")
        await run([sys.executable, "-m", "venv", target], {})
        shell = shutil.which("sh")
        assert shell is not None
        # pip reads relative paths from the current directory, which only a shell sets for it here.
        line = f"cd {shlex.quote(kici)} && exec {shlex.quote(python)} -m pip install -r requirements.txt"
        await run([shell, "-c", line], {})

    async def _run(
        self,
        command: list[str],
        extra: Mapping[str, str],
        on_output: Callable[[bytes], None],
        timeout_s: float,
    ) -> None:
        launched = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
        finished = await process.run(
            launched, env={**self._env, **extra}, timeout_s=timeout_s, on_output=on_output
        )
        if finished.status:
            last = finished.text.splitlines()[-1:] or [f"exit code {finished.status}"]
            raise InstallFailed(f"installing the workflow's dependencies failed: {last[0].strip()}")


def environment_key(lock_hash: str, sha: str) -> str:
    """What an environment depends on: the lock, this interpreter, platform and libc (AG-73).

    `sha` is given when the lock names paths inside the repository.
    """
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    facts = (lock_hash, sha, sys.version, sys.base_prefix, sysconfig.get_platform(), _libc())
    return f"{tag}-{platform.machine()}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:20]}"


def _has_local_paths(repository: str) -> bool:
    for name, pattern in (
        (".kici/uv.lock", _LOCAL_IN_UV),
        ("uv.lock", _LOCAL_IN_UV),
        (".kici/requirements.txt", _LOCAL_IN_PIP),
    ):
        try:
            with open(os.path.join(repository, name), encoding="utf-8", errors="replace") as file:
                if pattern.search(file.read()):
                    return True
        except OSError:
            continue
    return False


def _exists(*parts: str) -> bool:
    return os.path.exists(os.path.join(*parts))


async def _remove(path: str) -> None:
    if os.path.lexists(path):  # noqa: ASYNC240 - one stat; what follows may take long
        await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


@cache
def _libc() -> str:
    return "-".join(platform.libc_ver(sys.executable)) or "libc"


def _touch(path: str) -> None:
    try:
        os.utime(path)
    except OSError:
        pass
