"""Children that never outlive us: started with a parent-death signal, in a session of their own."""

import asyncio
import ctypes
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Identity:
    """The user a child runs as; None fields mean ours."""

    uid: int | None = None
    gid: int | None = None


def before_exec(death_signal: int, identity: Identity, parent: int) -> Callable[[], None]:
    """What a child does before it becomes its program: take its user's rights, ask to die with us."""

    def prepare() -> None:
        if identity.gid is not None:
            os.setgroups([])
            os.setgid(identity.gid)
        if identity.uid is not None:
            os.setuid(identity.uid)
        # After setuid: changing credentials clears the parent-death signal.
        _libc.prctl(_PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


async def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_path: Path,
    cwd: Path,
    death_signal: int = signal.SIGKILL,
    identity: Identity | None = None,
) -> asyncio.subprocess.Process:
    """Start a program with its output appended to `log_path`. It gets `death_signal` when we die,
    however we die."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=before_exec(death_signal, identity or Identity(), os.getpid()),
        )
    finally:
        os.close(log)


def tail(path: Path, lines: int = 15) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16_384))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""
