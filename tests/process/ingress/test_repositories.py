"""Reading repositories with the real git (OR-60…62)."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from kici.orchestrator.lockfiles import git
from kici.orchestrator.lockfiles.commits import CommitCache, CommitUnknown
from kici.orchestrator.lockfiles.git import Repositories, RepositoryUnreadable
from kici.spec.lock import LOCK_PATH
from tests.db.ingress.builders import lock_job, lock_workflow
from tests.db.ingress.running import Repo, lock_text

pytestmark = pytest.mark.process


class SetClock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def now_ms(self) -> int:
        return self.ms


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "repo")


def reader_pids() -> list[int]:
    """Children of this process that are git readers."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
                words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(stat[1]) == os.getpid() and b"cat-file" in words:
                found.append(int(name))
    return found


async def test_many_askers_share_one_process(repo: Repo) -> None:
    shas = [repo.commit(f"Commit {n}", {"file": f"content {n}\n" * 1000}) for n in range(5)]
    repositories = Repositories()
    path = str(repo.path)
    answers = await asyncio.gather(
        *(repositories.objects(path, [f"{sha}:file", f"{sha}:nothing", "nonsense"]) for sha in shas * 4)
    )
    for number, (blob, missing, nonsense) in enumerate(answers):
        assert blob is not None
        assert blob.data.startswith(f"content {number % 5}\n".encode())
        assert missing is None
        assert nonsense is None
    assert len(reader_pids()) == 1
    await repositories.close()
    assert reader_pids() == []


async def test_a_reader_that_dies_is_replaced(repo: Repo) -> None:
    sha = repo.commit("One", {"a": "1"})
    repositories = Repositories()
    assert await repositories.objects(str(repo.path), [sha]) != [None]
    (pid,) = reader_pids()
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):  # the first question may still meet the dead one
        try:
            found = await repositories.objects(str(repo.path), [sha])
            break
        except git.GitFailed:
            continue
    else:
        pytest.fail("no reader came back")
    assert found[0] is not None
    await repositories.close()


async def test_an_abandoned_question_does_not_confuse_the_next(repo: Repo) -> None:
    """A cancelled asker leaves its answer in the pipe: that pipe must not be used again."""
    sha = repo.commit("Big", {"big": "x" * 2_000_000, "small": "s"})
    repositories = Repositories()
    path = str(repo.path)
    await repositories.objects(path, [sha])
    for _ in range(5):
        asker = asyncio.gather(repositories.objects(path, [f"{sha}:big"]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        asker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asker
        (small,) = await repositories.objects(path, [f"{sha}:small"])
        assert small is not None
        assert small.data == b"s"
    await repositories.close()


async def test_facts_are_cached_by_commit_and_absence_only_for_a_minute(repo: Repo) -> None:
    """OR-62."""
    without = repo.commit("None", {"a": "1"})
    with_lock = repo.commit("Lock", {LOCK_PATH: lock_text(lock_workflow("ci", lock_job("a")))})
    clock, repositories = SetClock(), Repositories()
    cache = CommitCache(repositories, clock, max_entries=2, ttl_ms=3_600_000)
    path = str(repo.path)
    absent = await cache.facts("k", path, without)
    assert (absent.lock, absent.corrupt, absent.message) == (None, None, "None")
    first, second = await asyncio.gather(
        cache.facts("k", path, with_lock), cache.facts("k", path, with_lock)
    )
    assert first is second
    assert first.lock is not None
    repo.path.rename(repo.path.with_name("away"))
    await repositories.close()
    clock.ms += 59_000
    assert await cache.facts("k", path, without) is absent
    assert await cache.facts("k", path, with_lock) is first
    clock.ms += 2_000
    assert await cache.facts("k", path, with_lock) is first
    with pytest.raises(RepositoryUnreadable, match="no directory"):
        await cache.facts("k", path, without)


@pytest.mark.parametrize("sha", ["0" * 40, "a" * 40, "HEAD", "main", "", "--help", "a" * 39])
async def test_what_is_not_a_commit_is_unknown(repo: Repo, sha: str) -> None:
    repo.commit("One", {"a": "1"})
    repositories = Repositories()
    with pytest.raises(CommitUnknown):
        await CommitCache(repositories, SetClock()).facts("k", str(repo.path), sha)
    await repositories.close()


async def test_paths_that_hold_no_repository(tmp_path: Path, repo: Repo) -> None:
    (tmp_path / "empty").mkdir()
    (repo.path / "inside").mkdir()
    for path in ("missing", "empty", "repo/inside"):
        with pytest.raises(RepositoryUnreadable):
            await git.git_dir(str(tmp_path / path))


async def test_worktrees_and_bare_repositories_are_read(tmp_path: Path, repo: Repo) -> None:
    sha = repo.commit("One", {"a": "1"})
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    repositories = Repositories()
    for path in (tmp_path / "tree", tmp_path / "bare.git"):
        (found,) = await repositories.objects(str(path), [sha])
        assert found is not None
    assert await git.default_branch(str(tmp_path / "bare.git")) == "main"
    assert await git.head_branch(str(tmp_path / "tree")) == "tree"
    await repositories.close()


async def test_the_default_branch_of_a_working_repository_is_not_what_is_checked_out(repo: Repo) -> None:
    assert await git.default_branch(str(repo.path)) == "main"  # unborn
    repo.commit("One", {"a": "1"})
    repo.git("checkout", "-q", "-b", "feature")
    assert await git.default_branch(str(repo.path)) == "main"
    repo.git("pack-refs", "--all")
    assert await git.default_branch(str(repo.path)) == "main"
    repo.git("branch", "-q", "-m", "main", "trunk")
    assert await git.default_branch(str(repo.path)) == "feature"
    repo.git("checkout", "-q", "--detach")
    assert await git.default_branch(str(repo.path)) is None


async def test_changed_files(repo: Repo) -> None:
    first = repo.commit("One", {"a": "1", "b": "a long enough content\n" * 20, "wörld": "1"})
    repo.git("mv", "b", "c")
    second = repo.commit("Two", {"d e": "1", "wörld": "2"})
    path = str(repo.path)
    found = await git.changed_files(path, first, second)
    assert found is not None
    assert sorted(found) == ["b", "c", "d e", "wörld"]
    assert await git.changed_files(path, second, second) == []
    assert await git.changed_files(path, "0" * 40, second) is None
    assert await git.changed_files(path, "a" * 40, second) is None
