"""Working trees of remote runs: what is packed comes out, and nothing else ever does (AU-124, AU-125)."""

import base64
import hashlib
import io
import os
import secrets
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kici.agent import difference, overlay
from kici.agent.workspace import Workspace
from kici.protocol.overlay import (
    CHUNK,
    MAGIC,
    MANIFEST_PATH,
    PACK_PATH,
    GitState,
    Manifest,
    Opener,
    OverlayBroken,
    link_checksum,
    seal,
    upload_key,
)

KEY = secrets.token_bytes(32)
KEY_TEXT = base64.b64encode(KEY).decode()


def _workspace(folder: Path) -> Workspace:
    repository = folder / "repo"
    repository.mkdir()
    return Workspace(str(folder), str(repository), str(folder / "tmp"))


class Packer:
    """Packs as the command line does, and lies on request."""

    def __init__(self, **manifest: Any) -> None:
        self.members: list[tuple[tarfile.TarInfo, bytes]] = []
        self.checksums: dict[str, str] = {}
        self.manifest = manifest

    def file(self, name: str, content: bytes, mode: int = 0o644) -> "Packer":
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), mode
        self.members.append((info, content))
        self.checksums[name] = hashlib.sha256(content).hexdigest()
        return self

    def link(self, name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> "Packer":
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        self.members.append((info, b""))
        self.checksums[name] = link_checksum(target)
        return self

    def device(self, name: str) -> "Packer":
        info = tarfile.TarInfo(name)
        info.type = tarfile.CHRTYPE
        self.members.append((info, b""))
        return self

    def sealed(self, path: Path) -> str:
        words: dict[str, Any] = {"sha": "0" * 40, "checksums": self.checksums, **self.manifest}
        manifest = Manifest(**words)
        raw = msgspec.json.encode(manifest)
        head = tarfile.TarInfo(MANIFEST_PATH)
        head.size = len(raw)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.addfile(head, io.BytesIO(raw))
            for info, content in self.members:
                archive.addfile(info, io.BytesIO(content))
        path.write_bytes(b"".join(seal(KEY, [buffer.getvalue()])))
        return str(path)


def test_a_working_tree_arrives_as_it_was(tmp_path: Path) -> None:
    """AU-124: files with their modes, links and `.git`; the agent's own git never sees that one (AG-35)."""
    sealed = (
        Packer()
        .file(".kici/workflows/ci.py", b"print()\n")
        .file("bin/tool", b"#!/bin/sh\n", 0o755)
        .link("latest", "bin/tool")
        .file(".git/HEAD", b"ref: refs/heads/main\n")
        .sealed(tmp_path / "sealed")
    )
    workspace = _workspace(tmp_path)
    manifest = overlay.unpack(sealed, KEY_TEXT, workspace)
    root = Path(workspace.repository)
    assert manifest.sha == "0" * 40
    assert (root / ".kici/workflows/ci.py").read_bytes() == b"print()\n"
    assert os.access(root / "bin/tool", os.X_OK)
    assert os.readlink(root / "latest") == "bin/tool"
    assert not (root / ".git").exists()
    assert not (root / ".kici-overlay-tmp").exists()
    overlay.install_git(workspace)
    assert (root / ".git/HEAD").read_bytes() == b"ref: refs/heads/main\n"


def test_only_the_difference_is_laid_over_a_commit(tmp_path: Path) -> None:
    """AU-124 [S]: deletions go, what was a link or a folder makes room."""
    workspace = _workspace(tmp_path)
    root = Path(workspace.repository)
    (root / "old").write_text("old")
    (root / "folder").mkdir()
    (root / "folder/inner").write_text("x")
    (root / "kept").write_text("kept")
    sealed = (
        Packer(base="1" * 40, deletions=["old", "nowhere/at/all"])
        .file("folder", b"now a file")
        .file("new/file", b"new")
        .sealed(tmp_path / "sealed")
    )
    overlay.unpack(sealed, KEY_TEXT, workspace)
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == [
        "folder",
        "kept",
        "new/file",
    ]


def _wrong_checksum() -> Packer:
    packer = Packer().file("a", b"right")
    packer.checksums["a"] = hashlib.sha256(b"wrong").hexdigest()
    return packer


def _missing() -> Packer:
    packer = Packer().file("a", b"a")
    packer.checksums["b"] = "0" * 64
    return packer


def _unlisted() -> Packer:
    packer = Packer().file("a", b"a")
    packer.checksums.clear()
    return packer


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Packer().file("../evil", b"x"), "unacceptable path"),
        (lambda: Packer().file("/etc/evil", b"x"), "unacceptable path"),
        (lambda: Packer().file("a/../../evil", b"x"), "unacceptable path"),
        (lambda: Packer().file("a//b", b"x"), "unacceptable path"),
        (lambda: Packer().file(".GIT/config", b"x"), "unacceptable path"),
        (lambda: Packer().file(".kici-overlay-tmp/more", b"x"), "unexpected member"),
        (lambda: Packer().device("tty"), "neither file"),
        (lambda: Packer().link("out", "/etc/passwd"), "leads out"),
        (lambda: Packer().link("out", "../../etc/passwd"), "leads out"),
        (lambda: Packer().link("a/out", "../../etc/passwd"), "leads out"),
        (lambda: Packer().link("here", ".").link("out", "here/here/../../../etc"), "leads out"),
        (lambda: Packer().link("here", ".").link("out", "here/here/../.."), "leads out"),
        (lambda: Packer().link("in", "sub").file("in/evil", b"x"), "goes through a link"),
        (lambda: Packer().file("a", b"a").link("hard", "a", tarfile.LNKTYPE), "neither file"),
        (lambda: Packer(base="1" * 40).file(".git/config", b"[core]\n"), "a .git of its own"),
        (lambda: Packer(base="1" * 40, deletions=[".git/HEAD"]), "deletes"),
        (lambda: Packer().file("a", b"a").file("a", b"a"), "twice"),
        (lambda: Packer().file(".git", b"gitdir: /etc"), "is no folder"),
        (_wrong_checksum, "another checksum"),
        (_missing, "lacks 'b'"),
        (_unlisted, "manifest does not have"),
    ],
)
def test_nothing_escapes_and_nothing_is_taken_on_trust(
    tmp_path: Path, make: Callable[[], Packer], says: str
) -> None:
    """AU-125: paths, links and devices that lead out, and contents that the manifest does not promise."""
    sealed = make().sealed(tmp_path / "sealed")
    workspace = _workspace(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OverlayBroken, match=says):
        overlay.unpack(sealed, KEY_TEXT, workspace)
    assert set(os.listdir(tmp_path)) - set(before) <= {"git"}


def test_a_folder_goes_with_its_last_file(tmp_path: Path) -> None:
    """AU-124: as in a checkout of the author's."""
    workspace = _workspace(tmp_path)
    root = Path(workspace.repository)
    for name in ("kept/here", "deep/er/only", "deep/er/too", "becomes/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    gone = ["becomes/file", "deep/er/only", "deep/er/too"]
    sealed = (
        Packer(base="b" * 40, deletions=gone).file("becomes", b"now a file").sealed(tmp_path / "sealed")
    )
    overlay.unpack(sealed, KEY_TEXT, workspace)
    assert sorted(path.name for path in root.iterdir()) == ["becomes", "kept"]


def test_gits_own_objects_stay_out_of_the_work_tree(tmp_path: Path) -> None:
    """AU-124; and without a base they are unexpected."""
    workspace = _workspace(tmp_path)
    overlay.unpack(
        Packer(base="b" * 40).file(PACK_PATH, b"PACK").sealed(tmp_path / "sealed"), KEY_TEXT, workspace
    )
    assert Path(overlay.pack_file(workspace)).read_bytes() == b"PACK"
    assert os.listdir(workspace.repository) == []
    whole = Packer().file(PACK_PATH, b"PACK").sealed(tmp_path / "whole")
    with pytest.raises(OverlayBroken, match="unexpected member"):
        overlay.unpack(whole, KEY_TEXT, workspace)


SHA, BASE = "a" * 40, "b" * 40


def _manifest(base: str | None = BASE, sha: str = SHA, **state: Any) -> Manifest:
    words: dict[str, Any] = {"branch": "main", "refs": {}, "remotes": {}, **state}
    return Manifest(sha=sha, base=base, git=GitState(**words), checksums={})


def test_what_git_shall_know_is_checked() -> None:
    """It is written into git's files and goes to git as arguments."""
    found = difference.knowledge(_manifest(refs={"refs/tags/v1.0": SHA}), BASE)
    assert found is not None
    assert (found.base, found.sha, found.has_objects) == (BASE, SHA, False)
    assert difference.knowledge(Manifest(sha=SHA, checksums={}), None) is None


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (_manifest(base="--upload-pack=touch /tmp/x"), "another commit"),
        (_manifest(base=None), "another commit"),
        (Manifest(sha=SHA, base=BASE, checksums={}), "must say what git knows"),
        (_manifest(sha="--all"), "no object id"),
        (_manifest(refs={"refs/heads/x": "0"}), "no object id"),
        (_manifest(branch="x\nrefs/heads/y"), "no ref"),
        (_manifest(branch="../../config"), "no ref"),
        (_manifest(refs={"refs/kici/x": SHA}), "no ref"),
        (_manifest(refs={"refs/heads/a b": SHA}), "no ref"),
    ],
)
def test_what_git_must_not_know(manifest: Manifest, says: str) -> None:
    """AU-125: another base than the run's, and names that are none."""
    with pytest.raises(OverlayBroken, match=says):
        difference.knowledge(manifest, BASE)


def test_a_base_must_be_a_commit_id() -> None:
    with pytest.raises(OverlayBroken, match="no object id"):
        difference.knowledge(_manifest(base="--x"), "--x")


# ── the sealed stream ────────────────────────────────────────────────────────────────────────────


def _records(sealed: bytes) -> list[bytes]:
    records, at = [], len(MAGIC)
    while at < len(sealed):
        end = at + 32 + int.from_bytes(sealed[at : at + 4])
        records.append(sealed[at:end])
        at = end
    return records


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_any_amount_comes_back_from_pieces_of_any_size(size: int) -> None:
    """AU-125: streamed in chunks."""
    plain = os.urandom(size)
    sealed = b"".join(seal(KEY, [plain[at : at + 70_001] for at in range(0, size, 70_001)]))
    opener, opened = Opener(KEY), b""
    for at in range(0, len(sealed), 12_345):
        opened += opener.feed(sealed[at : at + 12_345])
    opener.finish()
    assert opened == plain


def _swap(records: list[bytes]) -> list[bytes]:
    return [records[1], records[0], *records[2:]]


@pytest.mark.parametrize(
    "disturb",
    [
        _swap,
        lambda records: records[:-1],
        lambda records: records[:1] + records[2:],
        lambda records: [*records, records[-1]],
        lambda records: [records[0], *records],
        lambda records: [records[0][:-1] + bytes([records[0][-1] ^ 1]), *records[1:]],
    ],
)
def test_a_stream_that_was_changed_does_not_open(
    disturb: Callable[[list[bytes]], list[bytes]],
) -> None:
    """AU-125: order, end and bytes are authenticated."""
    records = _records(b"".join(seal(KEY, [os.urandom(3 * CHUNK)])))
    opener = Opener(KEY)
    with pytest.raises(OverlayBroken):
        opener.feed(MAGIC + b"".join(disturb(records)))
        opener.finish()


def test_both_sides_come_to_the_same_key() -> None:
    """AU-125: fresh X25519 pairs, HKDF-SHA256 with its own info."""
    ours, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    key = upload_key(ours, theirs.public_key().public_bytes_raw())
    assert key == upload_key(theirs, ours.public_key().public_bytes_raw())
    assert len(key) == 32
