"""Mirrors and work trees with real git (AG-38, AG-47)."""

import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from kici.agent.git import Git, GitFailed, credentials, object_folder, without_credentials
from kici.agent.mirror import Mirrors, is_damage
from kici.agent.workspace import Workspace, Workspaces, source_key
from kici.protocol.agent_v1 import Checkout


class Source:
    """A repository to check out from."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *args: str) -> str:
        identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com"]
        done = subprocess.run(
            ["git", "-C", str(self.root), *identity, *args], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: dict[str, str]) -> str:
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "commit")
        return self.git("rev-parse", "HEAD")


class Desk:
    """An agent's folders."""

    def __init__(self, data: Path) -> None:
        data.mkdir()
        self.git = Git(str(data), os.environ)
        self.workspaces = Workspaces(str(data / "work"), "session", self.git)
        self.mirrors = Mirrors(str(data / "mirrors"), self.git, self.workspaces.discard)
        self.said: list[str] = []
        self.count = 0

    async def check_out(
        self,
        url: str,
        sha: str,
        *,
        ref: str = "refs/heads/main",
        only: Sequence[str] = (),
        raw: bool = False,
    ) -> Workspace:
        self.count += 1
        workspace = self.workspaces.create(f"job-{self.count}")
        mirror = self.mirrors.of(url, sha)
        checkout = Checkout(repo_url=url, sha=sha, ref=ref)
        await self.workspaces.check_out(workspace, mirror, checkout, self.said.append, only=only, raw=raw)
        return workspace

    def mirror_path(self, url: str, sha: str) -> Path:
        return Path(self.mirrors.of(url, sha).path)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "source")


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncGenerator[Desk]:
    made = Desk(tmp_path / "data")
    yield made
    await made.workspaces.close()


def head(workspace: Workspace) -> str:
    return _git(workspace, "rev-parse", "HEAD")


def _git(workspace: Workspace, *args: str) -> str:
    done = subprocess.run(
        ["git", "-C", workspace.repository, *args], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def files(workspace: Workspace) -> dict[str, str]:
    root = Path(workspace.repository)
    return {
        str(path.relative_to(root)): path.read_text()
        for path in root.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(root).parts
    }


async def test_a_local_repository_is_checked_out_without_a_fetch(source: Source, desk: Desk) -> None:
    first = source.commit({"a.txt": "one", "dir/b.txt": "two"})
    second = source.commit({"a.txt": "changed"})

    old = await desk.check_out(str(source.root), first)
    new = await desk.check_out(f"file://{source.root}", second)

    assert files(old) == {"a.txt": "one", "dir/b.txt": "two"}
    assert files(new) == {"a.txt": "changed", "dir/b.txt": "two"}
    assert (head(old), head(new)) == (first, second)
    assert desk.said == []
    assert _git(new, "status", "--porcelain") == ""
    assert _git(new, "log", "--format=%H") == f"{second}\n{first}"
    assert _git(new, "rev-parse", "origin/main") == second


async def test_what_is_not_there_is_fetched_as_that_commit_alone(source: Source, desk: Desk) -> None:
    sha = source.commit({"a.txt": "one"})
    source.commit({"a.txt": "two"})
    url = _served(source)
    workspace = await desk.check_out(url, sha)
    assert files(workspace) == {"a.txt": "one"}
    assert head(workspace) == sha
    assert _git(workspace, "log", "--format=%H") == sha  # shallow, and it knows
    assert [line.split(" in ")[0] for line in desk.said] == ["Fetched the commit"]

    again = await desk.check_out(url, sha)
    assert files(again) == {"a.txt": "one"}
    assert len(desk.said) == 1


async def test_a_commit_that_is_not_handed_out_by_name_comes_through_its_branch(
    source: Source, desk: Desk
) -> None:
    """Such servers exist: they advertise refs and serve those only."""
    sha = source.commit({"a.txt": "one"})
    for number in range(3):
        source.commit({"a.txt": f"later {number}"})
    url = _served(source)
    source.git("config", "uploadpack.allowAnySHA1InWant", "false")
    desk.git.env["GIT_PROTOCOL"] = "version=0"
    config = Path(desk.git.env["GIT_CONFIG_GLOBAL"])
    config.write_text(config.read_text() + "[protocol]\n\tversion = 0\n")
    workspace = await desk.check_out(url, sha)
    assert files(workspace) == {"a.txt": "one"}
    assert "commits deep" in desk.said[0]


async def test_a_commit_far_behind_its_branch_needs_the_whole_branch(source: Source, desk: Desk) -> None:
    sha = source.commit({"a.txt": "one"})
    for _ in range(55):
        source.commit({})
    url = _served(source)
    config = Path(desk.git.env["GIT_CONFIG_GLOBAL"])
    config.write_text(config.read_text() + "[protocol]\n\tversion = 0\n")
    workspace = await desk.check_out(url, sha)
    assert head(workspace) == sha
    assert [line.split(" in ")[0] for line in desk.said] == [
        "Fetched refs/heads/main, 50 commits deep",
        "Fetched all of refs/heads/main",
    ]


async def test_a_commit_that_is_nowhere_is_said_to_be(source: Source, desk: Desk) -> None:
    source.commit({"a.txt": "one"})
    with pytest.raises(GitFailed, match=f"commit {'0' * 39}1 is not in .* at refs/heads/main"):
        await desk.check_out(str(source.root), "0" * 39 + "1")


@pytest.mark.parametrize("url", ["ext::sh -c 'touch /tmp/owned'", "--upload-pack=x", "", "a\nb"])
async def test_urls_that_are_commands_are_refused(desk: Desk, url: str) -> None:
    with pytest.raises(GitFailed, match="not allowed"):
        await desk.check_out(url, "0" * 40)


@pytest.mark.parametrize("sha", ["HEAD", "main", "--help", "abc", "0" * 39])
async def test_only_whole_commit_ids_are_checked_out(source: Source, desk: Desk, sha: str) -> None:
    with pytest.raises(GitFailed, match="not a commit id"):
        await desk.check_out(str(source.root), sha)


async def test_an_unreachable_repository_costs_no_mirror(source: Source, desk: Desk) -> None:
    sha = source.commit({"a.txt": "one"})
    url = _served(source)
    await desk.check_out(url, sha)
    mirror = desk.mirror_path(url, sha)
    marker = mirror / "still-here"
    marker.touch()
    shutil.move(source.root, source.root.with_name("away"))
    with pytest.raises(GitFailed):
        await desk.check_out(url, "1" * 40)
    assert marker.exists()


@pytest.mark.parametrize("damage", ["objects gone", "packs garbled", "repository gone", "half a mirror"])
async def test_a_damaged_mirror_is_built_again(source: Source, desk: Desk, damage: str) -> None:
    sha = source.commit({"a.txt": "one", "b.txt": "x" * 5000})
    url = _served(source)
    await desk.check_out(url, sha)
    mirror = desk.mirror_path(url, sha)
    match damage:
        case "objects gone":
            shutil.rmtree(mirror / "objects" / "pack")
        case "packs garbled":
            for pack in (mirror / "objects" / "pack").glob("*.pack"):
                pack.chmod(0o600)
                pack.write_bytes(pack.read_bytes()[:40] + b"\xff" * 100)
        case "repository gone":
            (mirror / "HEAD").unlink()
            shutil.rmtree(mirror / "objects" / "pack")
        case _:
            shutil.rmtree(mirror / "refs")
            shutil.rmtree(mirror / "objects")
    workspace = await desk.check_out(url, sha)
    assert files(workspace) == {"a.txt": "one", "b.txt": "x" * 5000}
    assert head(workspace) == sha


async def test_many_fetches_are_joined_into_one_pack(source: Source, desk: Desk) -> None:
    source.commit({})
    url = _served(source)
    shas: list[str] = []
    for number in range(51):
        shas.append(source.commit({"a.txt": f"{number}"}))
        await desk.check_out(url, shas[-1])
    mirror = desk.mirrors.of(url, shas[0])
    packs = Path(mirror.objects) / "pack"
    assert len(list(packs.glob("*.pack"))) > 50
    await mirror.maintain()
    assert len(list(packs.glob("*.pack"))) == 1
    assert files(await desk.check_out(url, shas[3])) == {"a.txt": "3"}
    assert len(desk.said) == 51


async def test_a_sparse_work_tree_holds_only_what_was_asked_for(source: Source, desk: Desk) -> None:
    sha = source.commit({".kici/workflows/ci.py": "x", "big/data.txt": "y", "data/hash.txt": "z"})
    workspace = await desk.check_out(str(source.root), sha, only=(".kici", "data/hash.txt"))
    assert files(workspace) == {".kici/workflows/ci.py": "x", "data/hash.txt": "z"}


async def test_a_raw_work_tree_has_the_committed_bytes(source: Source, desk: Desk) -> None:
    """AU-124: what a difference is laid over was compared byte for byte."""
    sha = source.commit({"a.txt": "$Id$\n", ".gitattributes": "*.txt text eol=crlf ident\n"})
    workspace = await desk.check_out(str(source.root), sha, raw=True)
    assert (Path(workspace.repository) / "a.txt").read_bytes() == b"$Id$\n"
    cooked = await desk.check_out(str(source.root), sha)
    assert (Path(cooked.repository) / "a.txt").read_bytes().endswith(b" $\r\n")


async def test_modes_links_and_hooks(source: Source, desk: Desk) -> None:
    source.commit({"run.sh": "#!/bin/sh\n"})
    (source.root / "run.sh").chmod(0o755)
    (source.root / "link").symlink_to("run.sh")
    sha = source.commit({})
    workspace = await desk.check_out(str(source.root), sha)
    root = Path(workspace.repository)
    assert os.access(root / "run.sh", os.X_OK)
    assert (root / "link").readlink() == Path("run.sh")
    assert not (root / ".git" / "hooks").exists()


async def test_the_source_key_follows_the_workflow_tree_alone(source: Source, desk: Desk) -> None:
    async def key(changes: dict[str, str]) -> str | None:
        sha = source.commit(changes)
        return source_key(await desk.check_out(str(source.root), sha), sha)

    first = await key({".kici/workflows/ci.py": "1", ".github/x": "1", "src/app.py": "1"})
    assert first is not None
    assert await key({"src/app.py": "2", ".github/x": "2"}) == first
    changed = await key({".kici/helpers.py": "1"})
    assert changed not in (None, first)
    assert await key({".gitattributes": "* text"}) not in (None, first, changed)
    (source.root / ".kici" / "helpers.py").unlink()
    (source.root / ".gitattributes").unlink()
    assert await key({}) == first


async def test_discarded_folders_are_out_of_the_way_at_once_and_then_gone(
    source: Source, desk: Desk
) -> None:
    sha = source.commit({"a.txt": "one"})
    workspace = await desk.check_out(str(source.root), sha)
    locked = Path(workspace.repository) / "locked"
    locked.mkdir()
    (locked / "file").touch()
    locked.chmod(0o500)
    desk.workspaces.discard(workspace.path)
    assert not os.path.exists(workspace.path)
    await desk.workspaces.sweep()
    await desk.workspaces.wait_swept()
    assert [entry for entry in os.scandir(desk.workspaces.home) if entry.name != ".trash"] == []
    assert os.listdir(os.path.join(desk.workspaces.home, ".trash")) == []


async def test_leftovers_of_dead_agents_go_and_those_of_live_ones_stay(desk: Desk, tmp_path: Path) -> None:
    work = tmp_path / "data" / "work"
    (work / "dead" / "job-1").mkdir(parents=True)
    (work / "dead.lock").touch()
    alive = Workspaces(str(work), "alive", desk.git)
    alive.create("job-1")
    await desk.workspaces._collect_leftovers()
    assert sorted(os.listdir(work)) == ["alive", "alive.lock", "session", "session.lock"]
    assert os.path.isdir(work / "alive" / "job-1")
    await alive.close()


def test_credentials_are_for_one_host_and_never_in_the_url() -> None:
    env = credentials("https://git.example.com:8443/a/b.git", "s3cret")
    assert env["GIT_CONFIG_KEY_0"] == "http.https://git.example.com:8443/.extraHeader"
    assert "s3cret" not in str(env)
    assert credentials("https://bot@git.example.com/a", "t")["GIT_CONFIG_KEY_0"].endswith(
        "git.example.com/.extraHeader"
    )
    assert credentials("/srv/repo", "t") == credentials("https://x/y", None) == {}
    assert without_credentials("https://bot:pw@git.example.com/a") == "https://git.example.com/a"
    assert without_credentials("git@host:a/b") == "git@host:a/b"


def test_objects_are_borrowed_only_from_this_host(source: Source, tmp_path: Path) -> None:
    assert object_folder(str(source.root)) == str(source.root / ".git" / "objects")
    assert object_folder(f"file://{source.root}") == str(source.root / ".git" / "objects")
    assert object_folder("https://example.com/x") is None
    assert object_folder(f"file://elsewhere{source.root}") is None
    assert object_folder(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("fatal: not a git repository: '/mirror'", True),
        ("fatal: not a git repository: '/elsewhere'", False),
        ("error: inflate: data stream error (incorrect header check)", True),
        ("fatal: pack has bad object at offset 12: inflate returned 1", True),
        ("fatal: unable to access 'https://x/': Could not resolve host: x", False),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", False),
        ("fatal: '/x' does not appear to be a git repository\nfatal: Could not read from remote", False),
        (
            "error: RPC failed; curl 18 transfer closed\nfatal: early EOF\nfatal: fetch-pack: invalid index-pack",
            False,
        ),
    ],
)
def test_an_outage_is_not_damage(said: str, damaged: bool) -> None:
    assert is_damage(said, "/mirror") is damaged


def _served(source: Source) -> str:
    """The source by a URL whose objects cannot be borrowed."""
    link = source.root.with_name("served")
    if not link.exists():
        # A linked work tree has a `.git` file, not a folder: git follows it, borrowing does not.
        source.git("worktree", "add", "-q", "--detach", str(link))
    return str(link)
