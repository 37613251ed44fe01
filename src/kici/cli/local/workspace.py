"""Where local jobs run: a fresh copy of the working tree for each, as an agent would have it (AU-113).

The tree is cloned once, with what is not committed; jobs get copies of that. Their git objects are read from
the first clone, which shares them with the author's repository through hard links: nothing large is copied
twice, and where the file system can, files are not copied but shared until somebody writes.
"""

import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from kici.cli.local.repository import Repository
from kici.cli.local.secrets import FILES as SECRET_FILES
from kici.compiler.content import KICI_DIR, source_paths
from kici.spec.errors import InvalidInput

_COLLECT_AFTER_S = 72 * 3600
_COPY_TIMEOUT_S = 600
_PREFIX = "kici-run-"
_SECRETS = frozenset(f"{KICI_DIR}/{name}" for name in SECRET_FILES)  # never copied


class Workspaces:
    """Folders of one run below the run directory. Without a repository every job works in `root` itself."""

    def __init__(
        self,
        root: Path,
        repository: Repository | None,
        *,
        sha: str,
        branch: str | None,
        hash_files: Sequence[str],
    ) -> None:
        """`repository` None means in place. `sha` other than HEAD leaves uncommitted changes out. Raises
        NoRunFolder."""
        self.folder = _new_folder()
        self._root = root
        self._repository = repository
        self._sha = sha
        self._branch = branch
        self._hash_files = hash_files
        self._template: Path | None = None
        self._making = threading.Lock()

    def prepare(self) -> None:
        """Make the first clone now, so that jobs need not wait for it. Blocking. Raises GitFailed, OSError."""
        with self._making:
            if self._repository is not None and self._template is None:
                self._template = self._clone(self._repository)

    def make(self, number: int, *, checkout: bool) -> tuple[Path, Path]:
        """(repository root of one job, its folder for temporary files). Blocking. Raises GitFailed, OSError."""
        tmp = self.folder / f"{number}.tmp"
        tmp.mkdir()
        if self._repository is None:
            return self._root, tmp
        place = self.folder / str(number) / self._root.name
        if checkout:
            self.prepare()
            assert self._template is not None
            place.parent.mkdir(parents=True)
            _copy_tree(self._template, place)
        else:
            _copy_all(self._root, place, [*source_paths(self._root), *self._hash_files])
        return place, tmp

    def _clone(self, repository: Repository) -> Path:
        place = self.folder / "tree" / self._root.name
        place.parent.mkdir(parents=True)
        # On another file system hard links cannot be; then objects are read where they are.
        shared = self._root.stat().st_dev != place.parent.stat().st_dev
        repository.run(
            "clone", "--quiet", "--no-checkout", *(["--shared"] if shared else []),
            "--template=",  # no sample hooks: they would be copied for every job
            # A copy has other inodes than the index remembers; without this, git would read all files anew.
            "-c", "core.checkStat=minimal", "-c", "core.trustctime=false",
            str(self._root), str(place),
        )  # fmt: skip
        url = repository.origin
        if url:
            repository.run("remote", "set-url", "origin", url, cwd=place)
        where = ["-B", self._branch] if self._branch else ["--detach"]
        repository.run("checkout", "--quiet", "--force", *where, self._sha, cwd=place)
        changes = repository.uncommitted() if self._sha == repository.head else []
        _copy_all(self._root, place, [path for path in changes if path not in _SECRETS])
        for path in _SECRETS:
            (place / path).unlink(missing_ok=True)
        shutil.rmtree(
            place / ".git" / "logs", ignore_errors=True
        )  # how the clone was made; git begins new ones
        objects = place / ".git" / "objects"
        own = self.folder / "tree" / "objects"
        objects.rename(own)
        (objects / "info").mkdir(parents=True)
        (objects / "pack").mkdir()
        (objects / "info" / "alternates").write_text(f"{own}\n")
        return place

    def drop(self, number: int) -> None:
        """The job's copy; its log said all there is to say. Blocking."""
        shutil.rmtree(self.folder / str(number), ignore_errors=True)
        shutil.rmtree(self.folder / f"{number}.tmp", ignore_errors=True)

    def close(self, *, keep: bool) -> bool:
        """Whether something was kept for the author to look at."""
        for tmp in self.folder.glob("*.tmp"):
            shutil.rmtree(tmp, ignore_errors=True)
        kept = any(entry.name.isdecimal() for entry in self.folder.iterdir())
        if not keep or not kept:
            shutil.rmtree(self.folder, ignore_errors=True)
            return False
        if self._template is not None:  # its objects are needed by the copies that stay
            shutil.rmtree(self._template, ignore_errors=True)
        return True


class NoRunFolder(InvalidInput):
    """Workspaces cannot be made where they are to be."""


def _new_folder() -> Path:
    """Of one run; what earlier ones left is collected. Raises NoRunFolder."""
    try:
        base = run_directory()
        collect(base, now_s=time.time())
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    except OSError as error:
        given = os.environ.get("KICI_RUN_DIR")
        where = f"KICI_RUN_DIR={given}" if given else f"{tempfile.gettempdir()}, the folder of local runs"
        raise NoRunFolder(
            f"{where}: {error.strerror}\n  set KICI_RUN_DIR to a folder that you may write"
        ) from None


def run_directory() -> Path:
    """`KICI_RUN_DIR`, else a folder of this user's in the temporary directory."""
    given = os.environ.get("KICI_RUN_DIR")
    base = Path(given) if given else Path(tempfile.gettempdir()) / f"kici-local-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    return base


def collect(base: Path, *, now_s: float) -> None:
    """Remove what earlier runs left behind three days ago."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            if folder.stat().st_mtime < now_s - _COLLECT_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def _copy_tree(source: Path, target: Path) -> None:
    """Modes, times and links as they are. GNU `cp` shares blocks where the file system can."""
    done = subprocess.run(
        ["cp", "-a", "--reflink=auto", str(source), str(target)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=_COPY_TIMEOUT_S,
    )
    if done.returncode:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=True)


def _copy_all(root: Path, place: Path, paths: Sequence[str]) -> None:
    """Bring these paths of `place` to their state in `root`: links stay links, the missing go."""
    for path in paths:
        source, target = root / path, place / path
        if source.is_dir() and not source.is_symlink():
            continue  # a submodule: its commit is what the clone has
        if not os.path.lexists(source):
            target.unlink(missing_ok=True)
            continue
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
