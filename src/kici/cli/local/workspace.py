"""Where local jobs run: a fresh copy of the working tree for each, as an agent would have it (AU-113)."""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from kici.cli.local.repository import Repository
from kici.compiler.content import source_paths

_COLLECT_AFTER_S = 72 * 3600
_PREFIX = "kici-run-"


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
        """`repository` None means in place. `sha` other than HEAD leaves uncommitted changes out."""
        base = run_directory()
        collect(base, now_s=time.time())
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        self._root = root
        self._repository = repository
        self._sha = sha
        self._branch = branch
        self._hash_files = hash_files
        self._changes = (
            repository.uncommitted() if repository is not None and sha == repository.head else []
        )

    def make(self, number: int, *, checkout: bool) -> tuple[Path, Path]:
        """(repository root of one job, its folder for temporary files). Blocking. Raises GitFailed, OSError."""
        tmp = self.folder / f"{number}.tmp"
        tmp.mkdir()
        if self._repository is None:
            return self._root, tmp
        place = self.folder / str(number) / self._root.name
        if checkout:
            self._clone(self._repository, place)
        else:
            _copy_all(self._root, place, [*source_paths(self._root), *self._hash_files])
        return place, tmp

    def _clone(self, repository: Repository, place: Path) -> None:
        place.parent.mkdir(parents=True)
        repository.run("clone", "--quiet", "--no-checkout", str(self._root), str(place))
        url = repository.ask("remote", "get-url", "origin")
        if url:
            repository.run("remote", "set-url", "origin", url, cwd=place)
        where = ["-B", self._branch] if self._branch else ["--detach"]
        repository.run("checkout", "--quiet", "--force", *where, self._sha, cwd=place)
        _copy_all(self._root, place, self._changes)

    def drop(self, number: int) -> None:
        """The job's copy; its log said all there is to say."""
        shutil.rmtree(self.folder / str(number), ignore_errors=True)

    def close(self, *, keep: bool) -> bool:
        """Whether something was kept for the author to look at."""
        for tmp in self.folder.glob("*.tmp"):
            shutil.rmtree(tmp, ignore_errors=True)
        if not keep or not any(self.folder.iterdir()):
            shutil.rmtree(self.folder, ignore_errors=True)
            return False
        return True


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
