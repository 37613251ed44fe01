"""Which commit a working tree may lie over, and what of it then travels (AU-124)."""

import os
import subprocess
import tarfile
from pathlib import Path

import msgspec
import pytest

from kici.cli.local.repository import Repository
from kici.cli.remote.base import find_candidates
from kici.cli.remote.difference import Base, Difference, difference
from kici.cli.remote.pack import pack_difference, summary
from kici.cli.remote.tree import survey
from kici.protocol.overlay import MANIFEST_PATH, PACK_PATH, Manifest

ENV = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


class Clone:
    """Of a bare repository `shop.git` beside it, pushed; `origin` carries a password that is nobody's business."""

    def __init__(self, folder: Path) -> None:
        self.bare = folder / "shop.git"
        self.root = folder / "clone"
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.bare)], check=True, env=ENV)
        subprocess.run(["git", "init", "-q", "-b", "main", str(self.root)], check=True, env=ENV)
        self.git("remote", "add", "origin", str(self.bare))
        self.first = self.commit("First", app="1\n", old="old\n", large="x" * 100_000)
        self.git("push", "-q", "-u", "origin", "main")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(self.root), *arguments], env=ENV, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, subject: str, **files: str) -> str:
        for name, content in files.items():
            (self.root / name).write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.git("rev-parse", "HEAD")

    @property
    def bases(self) -> list[str]:
        return find_candidates(Repository(self.root)).bases

    def difference(self, place: Path, commit: str | None = None) -> Difference:
        repository = Repository(self.root)
        base = Base(commit=commit or self.first, source="shop", known=[])
        found = difference(repository, survey(repository), base, place / "objects")
        assert found is not None
        return found


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_the_base_is_where_head_left_its_remote(clone: Clone):
    """AU-124: the newest commit of HEAD's history that a tracking branch contains."""
    assert clone.bases == [clone.first]
    second = clone.commit("Local", app="2\n")
    assert clone.bases == [clone.first]
    clone.git("push", "-q", "origin", "HEAD:refs/heads/topic")
    clone.git("fetch", "-q")
    assert clone.bases == [second]
    clone.git("checkout", "-q", "--detach", clone.first)
    assert clone.bases == [clone.first]


def test_each_remote_has_its_own(clone: Clone, tmp_path: Path):
    """The server may know either."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "fork.git")], check=True, env=ENV)
    clone.git("remote", "add", "fork", "../fork.git")
    second = clone.commit("Local", app="2\n")
    clone.git("push", "-q", "fork", "HEAD:main")
    found = find_candidates(Repository(clone.root))
    assert set(found.bases) == {clone.first, second}
    assert set(found.tips) == {clone.first, second}
    assert set(found.addresses) == {str(clone.bare), str(tmp_path / "fork.git")}


def test_without_a_remote_there_is_none(clone: Clone, tmp_path: Path):
    """Nor in a shallow clone, nor when HEAD never met what was fetched."""
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{clone.bare}", str(shallow)], check=True)
    assert find_candidates(Repository(shallow)).bases == []
    clone.git("checkout", "-q", "--orphan", "other")
    clone.commit("Unrelated")
    assert clone.bases == []
    clone.git("remote", "remove", "origin")
    assert find_candidates(Repository(clone.root)).addresses == []


def test_addresses_travel_without_credentials(clone: Clone):
    clone.git("remote", "set-url", "origin", "https://ada:s3cret@forge.example/ada/shop.git")
    found = find_candidates(Repository(clone.root))
    assert found.addresses == ["https://forge.example/ada/shop.git"]


def test_only_what_differs_travels(clone: Clone, tmp_path: Path):
    """AU-124: changed and new files, whether committed or not; what is gone by name."""
    clone.commit("Local", app="2\n")
    (clone.root / "old").unlink()
    (clone.root / "new").write_text("new\n")
    found = clone.difference(tmp_path)
    assert found.tree.files == ["app", "new"]
    assert found.tree.deletions == ["old"]
    packed = pack_difference(found, tmp_path / "tree.tar.gz")
    shown = summary(found.tree, packed)
    assert shown.startswith(f"1 file changed, 1 new, 1 deleted over {clone.first[:7]} of shop (")
    assert packed.size_bytes < 2_000
    with tarfile.open(packed.path) as archive:
        names = archive.getnames()
        head = archive.extractfile(MANIFEST_PATH)
        assert head is not None
        manifest = msgspec.json.decode(head.read(), type=Manifest)
    assert names == [MANIFEST_PATH, "app", "new", PACK_PATH]
    assert (manifest.base, manifest.sha) == (clone.first, clone.git("rev-parse", "HEAD"))
    assert set(manifest.checksums) == {"app", "new", PACK_PATH}


def test_git_brings_only_what_the_source_lacks(clone: Clone, tmp_path: Path):
    """AU-124: nothing when all is pushed; refs and remotes by name, without credentials."""
    clone.git("tag", "v1")
    clone.git("remote", "add", "forge", "https://ada:s3cret@forge.example/ada/shop.git")
    found = clone.difference(tmp_path)
    assert (found.tree.files, found.objects) == ([], None)
    assert found.git.branch == "main"
    assert found.git.refs == dict.fromkeys(
        ("refs/heads/main", "refs/remotes/origin/main", "refs/tags/v1"), clone.first
    )
    assert found.git.remotes == {
        "origin": str(clone.bare),
        "forge": "https://forge.example/ada/shop.git",
    }


def test_bytes_decide_and_not_what_git_thinks_of_them(clone: Clone, tmp_path: Path):
    """AU-124: line endings, a file that git was told to take for unchanged, a mode, a link in a file's place."""
    clone.commit(
        "Attributes", **{".gitattributes": "*.txt text\n", "a.txt": "a\n", "run": "#!\n", "to": "x"}
    )
    clone.git("push", "-q", "origin", "main")
    base = clone.git("rev-parse", "HEAD")
    (clone.root / "a.txt").write_bytes(b"a\r\n")
    clone.git("update-index", "--assume-unchanged", "app")
    (clone.root / "app").write_text("changed behind git's back\n")
    (clone.root / "run").chmod(0o755)
    (clone.root / "to").unlink()
    (clone.root / "to").symlink_to("x")
    assert clone.difference(tmp_path, base).tree.files == ["a.txt", "app", "run", "to"]


def test_a_submodule_travels_as_files(clone: Clone, tmp_path: Path):
    """As with a whole tree; the agent's checkout leaves an empty folder in its place."""
    inner = tmp_path / "inner"
    subprocess.run(["git", "clone", "-q", str(clone.bare), str(inner)], check=True, env=ENV)
    clone.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "lib")
    base = clone.commit("Submodule")
    found = clone.difference(tmp_path, base)
    assert found.tree.deletions == ["lib"]
    assert found.tree.files == ["lib/app", "lib/large", "lib/old"]
    assert found.tree.deleted == 0


def test_names_that_a_manifest_cannot_say_want_a_whole_tree(clone: Clone, tmp_path: Path):
    (clone.root / os.fsdecode(b"caf\xe9")).write_text("x")
    base = clone.commit("Latin")
    repository = Repository(clone.root)
    over = Base(commit=base, source="shop", known=[])
    assert difference(repository, survey(repository), over, tmp_path / "objects") is None
