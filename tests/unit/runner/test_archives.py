"""Archives of caches: the same bytes for the same files, and nothing unpacked outside of its place."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from kici.runner.archives import BadArchiveError, BadPathError, pack, places, unpack


class Tree:
    def __init__(self, root: Path) -> None:
        self.roots = {"workspace": str(root / "work"), "home": str(root / "home")}
        self.work, self.home = root / "work", root / "home"
        self.work.mkdir(parents=True)
        self.home.mkdir()


def fill(tree: Tree) -> None:
    (tree.work / "deps" / "empty").mkdir(parents=True)
    (tree.work / "deps" / "b.txt").write_text("b")
    (tree.work / "deps" / "a.sh").write_text("#!/bin/sh\n")
    (tree.work / "deps" / "a.sh").chmod(0o755)
    (tree.work / "deps" / "link").symlink_to("b.txt")
    (tree.work / "other").write_text("not cached")
    (tree.home / ".tool").mkdir()
    (tree.home / ".tool" / "x").write_bytes(bytes(100_000))


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    """AG-75: modes and links inside are kept, what was there before is replaced."""
    one, two = Tree(tmp_path / "1"), Tree(tmp_path / "2")
    fill(one)
    declared = places(["deps", "~/.tool", "missing"])
    archive = str(tmp_path / "a.tgz")
    assert pack(archive, declared, one.roots, print) == 7
    (two.work / "deps").mkdir()
    (two.work / "deps" / "b.txt").write_text("old")
    (two.work / "deps" / "a.sh").mkdir()
    assert unpack(archive, declared, two.roots) == 7
    assert (two.work / "deps" / "b.txt").read_text() == "b"
    assert os.access(two.work / "deps" / "a.sh", os.X_OK)
    assert os.readlink(two.work / "deps" / "link") == "b.txt"
    assert (two.work / "deps" / "empty").is_dir()
    assert (two.home / ".tool" / "x").stat().st_size == 100_000
    assert not (two.work / "other").exists()


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    """AG-75: neither times, owners, order nor place of the tree enter."""
    written: list[bytes] = []
    for name in ("1", "2"):
        tree = Tree(tmp_path / name)
        fill(tree)
        os.utime(tree.work / "deps" / "b.txt", (int(name), int(name)))
        archive = tmp_path / f"{name}.tgz"
        paths = ["deps", "~/.tool"] if name == "1" else ["~/.tool", "deps", "deps/b.txt"]
        pack(str(archive), places(paths), tree.roots, print)
        written.append(archive.read_bytes())
    assert written[0] == written[1]


def test_globs_stand_for_what_they_match(tmp_path: Path) -> None:
    """AU-58, AG-75: folders with all that is in them, below the repository and below ~; a name that is a glob
    only by its looks stands for itself."""
    one, two = Tree(tmp_path / "1"), Tree(tmp_path / "2")
    for name in ("a/out/x", "a/src", "b/deep/out/y.o", "b/z.o", "[odd]/f", ".hidden/out/h"):
        (one.work / name).parent.mkdir(parents=True, exist_ok=True)
        (one.work / name).write_text(name)
    (one.home / "v1").mkdir()
    (one.home / "v1" / "t").write_text("t")
    declared = places(["**/out", "b/*.{o,a}", "[odd]", "~/v?/**", "none/*"])
    archive = tmp_path / "a.tgz"
    said: list[str] = []
    pack(str(archive), declared, one.roots, said.append)
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [
            "home/v1/t",
            "workspace/.hidden/out", "workspace/.hidden/out/h",
            "workspace/a/out", "workspace/a/out/x",
            "workspace/b/deep/out", "workspace/b/deep/out/y.o",
            "workspace/[odd]", "workspace/[odd]/f",
            "workspace/b/z.o",
        ]  # fmt: skip
    assert unpack(str(archive), declared, two.roots) == 10
    assert (two.work / "b" / "deep" / "out" / "y.o").read_text() == "b/deep/out/y.o"
    assert said == []


def test_globs_let_nothing_else_in_or_out(tmp_path: Path) -> None:
    """AG-75: links are not followed, and members that no declared path holds are refused."""
    tree = Tree(tmp_path / "1")
    (tree.work / "deps").symlink_to("/etc")
    (tree.work / "d").mkdir()
    (tree.work / "d" / "f").write_text("f")
    archive = str(tmp_path / "a.tgz")
    assert pack(archive, places(["**/hosts", "deps/*"]), tree.roots, print) == 0
    assert pack(archive, places(["d"]), tree.roots, print) == 2
    with pytest.raises(BadArchiveError, match="is not below a declared path"):
        unpack(archive, places(["e/**", "*.o"]), tree.roots)
    with pytest.raises(BadPathError):
        places(["../*"])


@pytest.mark.parametrize("path", ["/etc", "..", "../up", "a/../../b", "~root/x", "~/../x", "a\0b"])
def test_paths_that_no_cache_may_have(path: str) -> None:
    """AU-58, AG-78."""
    with pytest.raises(BadPathError):
        places([path])


def test_links_that_leave_are_left_out(tmp_path: Path) -> None:
    """AG-75: also a declared path that is itself reached through such a link."""
    tree = Tree(tmp_path / "1")
    (tree.work / "deps").mkdir()
    (tree.work / "deps" / "out").symlink_to("/etc/passwd")
    (tree.work / "deps" / "in").symlink_to(tree.work / "deps")
    (tree.work / "side").symlink_to("/etc")
    said: list[str] = []
    archive = str(tmp_path / "a.tgz")
    assert pack(archive, places(["deps", "side/passwd"]), tree.roots, said.append) == 2
    assert len(said) == 2
    assert "workspace/deps/out" in said[0]


def member(name: str, **changes: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize(
    "bad",
    [
        member("/etc/evil"),
        member("workspace/deps/../../evil"),
        member("workspace/other/evil"),
        member("elsewhere/deps"),
        member("workspace/deps/./evil"),
        member("workspace/deps/link", type=tarfile.SYMTYPE, linkname="../../../evil"),
        member("workspace/deps/link", type=tarfile.SYMTYPE, linkname="/etc"),
        member("workspace/deps/link", type=tarfile.LNKTYPE, linkname="/etc/passwd"),
        member("workspace/deps/null", type=tarfile.CHRTYPE),
        member("workspace/deps/pipe", type=tarfile.FIFOTYPE),
        member("workspace/deps/side/evil"),
    ],
    ids=lambda bad: f"{bad.name}-{bad.type!r}",
)
def test_what_no_cache_of_ours_holds_is_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    """AG-75: absolute, escaping, undeclared, a device, a link that leaves, or below such a link on disk."""
    tree = Tree(tmp_path / "1")
    (tree.work / "deps").mkdir()
    (tmp_path / "outside").mkdir()
    (tree.work / "deps" / "side").symlink_to(tmp_path / "outside")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(bad)
    archive = tmp_path / "bad.tgz"
    archive.write_bytes(gzip.compress(buffer.getvalue()))
    with pytest.raises(BadArchiveError):
        unpack(str(archive), places(["deps"]), tree.roots)
    assert not list(tmp_path.rglob("evil"))
