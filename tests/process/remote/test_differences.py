"""`kici run remote` in a clone of a repository that the server knows: only the difference travels (AU-124)."""

import os
import shutil
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.process.remote.desk import Desk
from tests.support.stack import Repository, Stack

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

LOOK = r'''
"""Everything that a step can see of the working tree and its history."""
from kici import Context, job, push, step, workflow

SEE = r"""
find . -path ./.git -prune -o -path '*/__pycache__*' -prune -o -type d -printf 'dir %p\n' | sort
find . -path ./.git -prune -o -path '*/__pycache__*' -prune -o -type f -printf '%m %p ' -exec sha256sum {} \; | sort
find . -path ./.git -prune -o -type l -printf 'link %p %l\n' | sort
git status --porcelain
git log -1 --format='%H %T %an %s'
git log --format='%h %s'
git for-each-ref --format='%(objectname) %(objecttype) %(refname)'
git symbolic-ref HEAD || git rev-parse HEAD
git describe --tags --always
git remote -v
git diff HEAD --stat
git fsck --full --no-dangling --no-progress
"""


@step
async def look(ctx: Context) -> None:
    await ctx.sh(SEE)


def lonely(name, **options):
    jobs = [job("look", runs_on="kici:os:linux", steps=[look], **options)]
    return workflow(name, on=push(branches=name), jobs=jobs)


seen = lonely("seen")
unasked = lonely("unasked", checkout=False)
'''


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack.started(agents=1) as stack:
        yield stack


class Clone(Desk):
    """Of a repository that is a source of the stack."""

    def __init__(self, stack: Stack, repository: Repository) -> None:
        super().__init__(stack, repository.clone)
        self.repository = repository

    @property
    def overlays(self) -> set[Path]:
        return set((self.stack.data_dir / "orchestrator/store").rglob("overlays/*/*"))

    def sees(self, *arguments: str, workflow: str = "seen") -> tuple[list[str], str, int]:
        """What the step printed, the line about what travels, and how much did."""
        before = self.overlays
        done = self.kici("run", "remote", "--workflow", workflow, *arguments)
        (sent,) = self.overlays - before
        (summary,) = [line for line in done.stdout.splitlines() if " compressed)" in line]
        lines = [line for line in done.stdout.splitlines() if line.startswith("look ")]
        seen = [line.partition("│ ")[2] for line in lines if "│ ▶" not in line and "│ ✓" not in line]
        return seen[seen.index("dir .") :], summary, sent.stat().st_size

    def assert_same_view(self, *arguments: str, workflow: str = "seen") -> list[str]:
        """With a difference as with everything."""
        over, summary, _ = self.sees(*arguments, workflow=workflow)
        assert f" of {self.repository.name} (" in summary
        everything, full_summary, _ = self.sees("--full", *arguments, workflow=workflow)
        assert " over " not in full_summary
        assert over == everything
        return over


@pytest.fixture
def clone(stack: Stack, request: pytest.FixtureRequest) -> Clone:
    name = request.node.name.removeprefix("test_").replace("_", "-")[:40]
    repository = stack.repository(name, {"seen.py": LOOK})
    repository.write(
        {
            "src/app.py": "print(1)\n",
            "src/old.py": "print('old')\n",
            "src/deep/only.txt": "alone in its folder\n",
            "./note.txt": "committed\n",
            "./run.sh": "#!/bin/sh\n",
            "./.gitignore": "*.log\n",
            "./.kiciignore": "*.iso\n",
            "./big.iso": "image\n",
            "./becomes": "a file\n",
        }
    )
    (repository.clone / "link").symlink_to("src/app.py")
    (repository.clone / "folder").symlink_to("src")
    repository.push("The first")
    return Clone(stack, repository)


def test_a_clean_clone(clone: Clone):
    """AU-124: nothing but names and numbers travels; the run belongs to the source's repository."""
    seen = clone.assert_same_view()
    head = clone.git("rev-parse", "HEAD")
    assert any(line.startswith(head) for line in seen)
    _, summary, size = clone.sees()
    assert summary.startswith(f"0 files changed, 0 new, 0 deleted over {head[:7]} of a-clean-clone (")
    assert size < 4_000
    assert clone.stack.runs()[0]["repoIdentifier"] == "a-clean-clone"


def test_everything_at_once(clone: Clone):
    """AU-124: unpushed commits, a second branch, tags, staged and untracked files, deletions, renames, modes,
    links, files that became folders and the other way round; also where line endings and filters say that
    nothing changed, and for a job that asks for no checkout."""
    git, root = clone.git, clone.root
    git("tag", "v1")
    clone.write(".gitattributes", "*.crlf text eol=crlf\n*.lf text\n*.id ident\n")
    clone.write("a.crlf", "one\r\ntwo\r\n")
    clone.write("a.lf", "one\ntwo\n")
    clone.write("a.id", "$Id$\n")
    clone.commit("Line endings")
    git("push", "-q", "origin", "HEAD:main")
    git("branch", "side")
    clone.write("src/app.py", "print(2)\n")
    clone.commit("Local one")
    git("tag", "-a", "v2", "-m", "annotated")
    git("checkout", "-q", "side")
    clone.write("side.txt", "side\n")
    clone.commit("On the side")
    git("checkout", "-q", "main")
    git("merge", "-q", "--no-ff", "-m", "Merged", "side")
    git("mv", "src/old.py", "src/renamed.py")
    clone.commit("Renamed")
    clone.write("note.txt", "not committed\n")
    (root / "run.sh").chmod(0o755)
    shutil.rmtree(root / "src/deep")
    (root / "becomes").unlink()
    clone.write("becomes/folder.txt", "was a file\n")
    (root / "folder").unlink()
    clone.write("folder/real.txt", "was a link\n")
    (root / "link").unlink()
    (root / "link").symlink_to("note.txt")
    (root / "out").symlink_to("/etc/hostname")
    clone.write("new/file.txt", "untracked\n")
    clone.write("noise.log", "ignored\n")
    clone.write("more.iso", "kiciignored\n")
    clone.write("staged.txt", "staged\n")
    git("add", "staged.txt")
    (root / "a.lf").write_bytes(b"one\r\ntwo\r\n")  # unchanged, as git sees it
    seen = clone.assert_same_view()
    assert " M note.txt" in seen
    assert " D src/deep/only.txt" in seen
    assert " D big.iso" in seen
    assert "?? new/" in seen
    assert "link ./link note.txt" in seen
    assert any(line.startswith("755 ./run.sh") for line in seen)
    assert "dir ./src/deep" not in seen
    assert not any("noise.log" in line or "more.iso" in line for line in seen)
    assert any("Renamed" in line for line in seen)
    _, summary, _ = clone.sees()
    base = git("rev-parse", "origin/main")
    assert f" over {base[:7]} of everything-at-once (" in summary
    assert clone.assert_same_view(workflow="unasked") == seen


def test_a_detached_head(clone: Clone):
    clone.git("checkout", "-q", "--detach")
    clone.write("note.txt", "loose\n")
    clone.commit("Loose")
    clone.assert_same_view()


def test_a_large_file_travels_once(clone: Clone):
    """AU-124: what is pushed does not travel again, however often its neighbours change."""
    (clone.root / "large.bin").write_bytes(os.urandom(3_000_000))
    clone.repository.push("Large")
    clone.write("note.txt", "changed\n")
    _, summary, size = clone.sees()
    assert summary.startswith("1 file changed, 0 new, 0 deleted over ")
    assert size < 10_000
    _, _, everything = clone.sees("--full")
    assert everything > 3_000_000
    with (clone.root / "large.bin").open("ab") as large:
        large.write(b"and more")
    clone.commit("A little larger")  # unpushed: the file once, its commit as a delta
    _, _, size = clone.sees()
    assert 3_000_000 < size < 3_100_000


def test_what_the_server_does_not_have_travels(clone: Clone):
    """AU-124: a base that it does not know, a repository that it does not know (any more)."""
    clone.write("note.txt", "unpushed\n")
    clone.commit("Unpushed")
    clone.git("update-ref", "refs/remotes/origin/main", "HEAD")  # as after a push that was forced away
    _, summary, _ = clone.sees()
    assert " over " not in summary
    clone.git("push", "-q", "origin", "HEAD:main")
    _, summary, _ = clone.sees()
    assert " over " in summary
    clone.git("remote", "rename", "origin", "upstream")
    assert " over " in clone.sees()[1]
    clone.git("remote", "set-url", "upstream", f"{clone.repository.bare}-of-somebody-else")
    assert " over " not in clone.sees()[1]
    clone.git("remote", "set-url", "upstream", str(clone.repository.bare))
    clone.stack.admin("DELETE", f"/sources/{clone.repository.name}")
    assert " over " not in clone.sees()[1]


def test_a_base_that_vanishes_before_the_job_begins(clone: Clone):
    """AU-124: the run fails and says what to do; nothing else is run in its place."""
    clone.write("note.txt", "changed\n")
    agent = clone.stack.kill("agent-1", signal.SIGSTOP)
    try:
        code, report, shown = clone.remote("--workflow", "seen", "--no-wait")
        assert code == 0
        assert " over " in shown
        shutil.rmtree(clone.repository.bare)
        subprocess.run(
            ["git", "init", "-q", "--bare", "-b", "main", str(clone.repository.bare)], check=True
        )
    finally:
        os.kill(agent, signal.SIGCONT)
    detail = clone.stack.wait_for_end(report["fixtures"][0]["urls"][0].rpartition("/")[2])
    assert detail["run"]["status"] == "failed"
    (job,) = detail["jobs"]
    assert "the commit that the working tree lies over cannot be checked out" in job["errorMessage"]
    assert "Run it again with --full" in job["errorMessage"]
    assert not [s for s in job["steps"] if s["stepIndex"] >= 0 and s["status"] in {"success", "failed"}]
