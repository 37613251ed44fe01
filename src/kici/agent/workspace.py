"""A job's folder: the work tree and a place for temporary files. Made fast, gone after the job.

The work tree is a repository of its own that borrows the mirror's objects: a few small files written here,
then one `git read-tree` that checks out. HEAD names the commit itself, so it is that commit or nothing.

Folders of this process live under `work/<session>/`, which is locked: at its next start an agent removes
those that nobody holds any more (AG-47).
"""

import asyncio
import fcntl
import hashlib
import mmap
import os
import shutil
import struct
from array import array
from collections.abc import Sequence

from msgspec import Struct

from kici.agent import process
from kici.agent.git import Git, GitFailed, without_credentials
from kici.agent.locks import FileLock
from kici.agent.mirror import Mirror, Say, repository_config
from kici.agent.process import ProgramFailed
from kici.protocol.agent_v1 import Checkout
from kici.runtime.logging import get_logger

log = get_logger(__name__)

_SWEEP_AFTER_S = 0.5  # several discarded folders go with one `rm`
_SWEEP_TIMEOUT_S = 600.0
_GET_FLAGS, _SET_FLAGS = 0x80086601, 0x40086602  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
_TOP_FOLDER = 0x00020000  # FS_TOPDIR_FL
_RAW = "* -text !eol -ident !working-tree-encoding !filter\n"
_ENTRY = struct.Struct(">40x20sH")  # index version 2: stat data, object id, flags


class Workspace(Struct, frozen=True):
    """`repository` is the steps' working directory; `tmp` is theirs too. Both vanish with `path`."""

    path: str
    repository: str
    tmp: str

    @property
    def git_folder(self) -> str:
        return os.path.join(self.repository, ".git")


class Workspaces:
    """`folder` is the agent's `work/`."""

    def __init__(self, folder: str, session_id: str, git: Git) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = folder
        self.home = os.path.join(folder, session_id)
        self._git = git
        self._trash = os.path.join(self.home, ".trash")
        self._lock = FileLock(f"{self.home}.lock")
        self._lock.take()
        os.makedirs(self._trash, mode=0o700)
        _spread_subfolders(self.home)
        self._discarded = 0
        self._swept = asyncio.Event()
        self._wanted = asyncio.Event()
        self._swept.set()

    def create(self, name: str) -> Workspace:
        path = os.path.join(self.home, name)
        workspace = Workspace(path, os.path.join(path, "repo"), os.path.join(path, "tmp"))
        os.mkdir(path, 0o700)
        os.mkdir(workspace.repository)
        os.mkdir(workspace.tmp)
        return workspace

    async def check_out(
        self,
        workspace: Workspace,
        mirror: Mirror,
        checkout: Checkout,
        say: Say,
        *,
        only: Sequence[str] = (),
        raw: bool = False,
    ) -> None:
        """Fill the work tree with `checkout.sha`; with `only`, just these paths. `raw`: the files are the very
        bytes that were committed, whatever .gitattributes says. Raises GitFailed."""
        mirror.ensure(checkout.sha)
        self._write_git_folder(workspace, mirror, checkout, only)
        if raw:
            os.makedirs(os.path.dirname(attributes_file(workspace)), exist_ok=True)
            _write(attributes_file(workspace), _RAW)
        read_tree = ("-C", workspace.repository, "read-tree", "--reset", "-u", "HEAD")
        try:
            finished = await self._git.run(*read_tree)
            for suspect in (False, True):
                if finished.status == 0:
                    return
                # Not here yet; or, after a fetch that went well, here and broken.
                await mirror.fetch(checkout, say, suspect=suspect)
                self._write_shallow(workspace, mirror)
                finished = await self._git.run(*read_tree)
        except ProgramFailed as error:
            raise GitFailed(str(error), error.output) from error
        if finished.status:
            raise GitFailed(f"cannot check out {checkout.sha}: {finished.text[-2000:]}", finished.text)

    def discard(self, path: str) -> None:
        """Out of the way now (one rename), deleted soon. Never raises: what cannot go now goes at the next start."""
        self._discarded += 1
        try:
            os.rename(path, os.path.join(self._trash, f"{self._discarded}"))
        except FileNotFoundError:
            return
        except OSError as error:
            log.warning("workspace.discard_failed", path=path, error=str(error))
            return
        self._swept.clear()
        self._wanted.set()

    async def keep_clean(self) -> None:
        """Deletes what was discarded, and at first what earlier processes left. Runs for ever."""
        await self._collect_leftovers()
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_SWEEP_AFTER_S)
            await self.sweep()

    async def sweep(self) -> None:
        self._wanted.clear()
        with os.scandir(self._trash) as entries:
            doomed = [entry.path for entry in entries]
        if doomed:
            await _remove(doomed)
        if not self._wanted.is_set():
            self._swept.set()

    async def wait_swept(self) -> None:
        await self._swept.wait()

    async def close(self) -> None:
        """Removes this process's folders."""
        await _remove([self.home])
        try:
            os.unlink(self._lock.path)
        except FileNotFoundError:
            pass
        self._lock.release()

    async def _collect_leftovers(self) -> None:
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if name.endswith(".lock") or path == self.home:
                continue
            lock = FileLock(f"{path}.lock")
            try:
                if lock.take():
                    await _remove([path])
                    os.unlink(lock.path)
                    log.info("workspace.leftover_removed", path=path)
            finally:
                lock.release()

    def _write_git_folder(
        self, workspace: Workspace, mirror: Mirror, checkout: Checkout, only: Sequence[str]
    ) -> None:
        folder = workspace.git_folder
        os.makedirs(os.path.join(folder, "objects", "info"))
        os.mkdir(os.path.join(folder, "refs"))
        config = repository_config(checkout.sha, bare=False)
        config += remote_config("origin", without_credentials(checkout.repo_url))
        if only:
            config += "[core]\n\tsparseCheckout = true\n"
            os.mkdir(os.path.join(folder, "info"))
            lines = [f"/{path.strip('/')}" for path in only if "\n" not in path]
            _write(os.path.join(folder, "info", "sparse-checkout"), "\n".join(lines) + "\n")
        _write(os.path.join(folder, "config"), config)
        head, refs = checkout.sha, list[str]()
        _write(os.path.join(folder, "objects", "info", "alternates"), f"{mirror.objects}\n")
        if tracking := _tracking_ref(checkout.ref):
            refs.append(tracking)
            if checkout.ref.startswith("refs/heads/"):  # as in a local run, the branch is checked out
                head = f"ref: {checkout.ref}"
                refs.insert(0, checkout.ref)
        _write(os.path.join(folder, "HEAD"), f"{head}\n")
        if refs:
            lines = "".join(f"{checkout.sha} {ref}\n" for ref in refs)
            _write(os.path.join(folder, "packed-refs"), lines)
        self._write_shallow(workspace, mirror)

    def _write_shallow(self, workspace: Workspace, mirror: Mirror) -> None:
        if shallow := mirror.shallow():
            _write(os.path.join(workspace.git_folder, "shallow"), shallow)


def attributes_file(workspace: Workspace) -> str:
    """The repository's own attributes, which stand above those in its files."""
    return os.path.join(workspace.git_folder, "info", "attributes")


def remote_config(name: str, url: str) -> str:
    """A remote's section, as `git remote add` writes it."""
    return (
        f"[remote {_quoted(name)}]\n\turl = {_quoted(url)}\n"
        f"\tfetch = {_quoted(f'+refs/heads/*:refs/remotes/{name}/*')}\n"
    )


def source_key(workspace: Workspace, sha: str) -> str | None:
    """A key for everything that git checked out below `.kici`, from the index alone: same key, same files.

    Reads the index only up to there (`.kici` sorts near its beginning). Includes `.gitattributes`, which may
    change how files are written. None when the index has a form that we do not read.
    """
    if len(sha) != 40:
        return None
    total = hashlib.sha256()
    try:
        with (
            open(os.path.join(workspace.git_folder, "index"), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as index,
        ):
            signature, version, count = struct.unpack_from(">4sII", index)
            if signature != b"DIRC" or version != 2:
                return None
            at = 12
            for _ in range(count):
                object_id, flags = _ENTRY.unpack_from(index, at)
                end = index.find(b"\0", at + _ENTRY.size)
                path = index[at + _ENTRY.size : end]
                if path.startswith(b".kici/") or path == b".gitattributes":
                    if flags & 0x4000:
                        return None
                    mode = index[at + 24 : at + 28]
                    total.update(b"%s%s%s\0" % (mode, object_id, path))
                elif path > b".kici/":
                    break
                at += (end - at) // 8 * 8 + 8
    except (OSError, ValueError, struct.error):
        return None
    return total.hexdigest()


def _spread_subfolders(folder: str) -> None:
    """Asks ext4 to place each folder made in `folder` in a block group of its own.

    ext4 does not reuse inodes for seconds after their files are deleted, and looks past each of them for every
    file it creates in the same group. Work trees come and go so fast that a checkout of 30 files took 15 ms
    instead of 1. Other file systems refuse the flag, and do not need it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flags = array("L", [0])
        fcntl.ioctl(descriptor, _GET_FLAGS, flags)
        flags[0] |= _TOP_FOLDER
        fcntl.ioctl(descriptor, _SET_FLAGS, flags)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _tracking_ref(ref: str) -> str | None:
    """Where a clone would show `ref`; None when it would not."""
    if "\n" in ref or " " in ref or ".." in ref:
        return None
    if ref.startswith("refs/heads/"):
        return f"refs/remotes/origin/{ref.removeprefix('refs/heads/')}"
    if ref.startswith("refs/tags/"):
        return ref
    return None if ref.startswith("refs/") or not ref else f"refs/remotes/origin/{ref}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "") + '"'


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


async def _remove(paths: list[str]) -> None:
    """`rm -rf`, also through folders that a step made read-only. What stays is logged."""
    program = shutil.which("rm")
    chmod = shutil.which("chmod")
    assert program is not None
    assert chmod is not None
    env = {"PATH": os.defpath, "LC_ALL": "C"}
    try:
        finished = await process.run([program, "-rf", "--", *paths], env=env, timeout_s=_SWEEP_TIMEOUT_S)
        if finished.status:
            await process.run([chmod, "-R", "u+rwX", "--", *paths], env=env, timeout_s=_SWEEP_TIMEOUT_S)
            finished = await process.run(
                [program, "-rf", "--", *paths], env=env, timeout_s=_SWEEP_TIMEOUT_S
            )
        if finished.status:
            log.warning("workspace.remove_failed", paths=paths[:5], said=finished.text[-500:])
    except ProgramFailed as error:
        log.warning("workspace.remove_failed", paths=paths[:5], said=str(error))
