"""Packed environments over real HTTP, and archives that are none of ours (AG-73…76)."""

import io
import os
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kici.agent.packs import PackBroken, Packs, pack, unpack
from kici.agent.requests import RequestFailed
from kici.agent.transfer import Transfers
from tests.wire.test_agent_blobs import Server, server, transfers

__all__ = ["server", "transfers"]

GO_ON = threading.Event()


def environment(root: Path, *, mtime: float = 1e9) -> Path:
    packages = root / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (root / "bin").mkdir()
    (packages / "tiny.py").write_text("answer = 42\n")
    (root / "bin" / "tool").write_text("#!/bin/sh\n")
    (root / "bin" / "tool").chmod(0o755)
    (root / "bin" / "python").symlink_to("/usr/bin/env")
    (root / "bin" / "python3").symlink_to("python")
    (root / "lib64").symlink_to("lib")
    os.utime(packages / "tiny.py", (mtime, mtime))
    return root


class Store:
    """The orchestrator's half, as far as an agent sees it."""

    def __init__(self, server: Server, *, max_bytes: int = 1 << 20) -> None:
        self._server = server
        self._max = max_bytes
        self.entry: dict[str, Any] | None = None

    async def ask(self, method: str, params: dict[str, Any], _timeout_s: float) -> Any:
        assert params["key"] == "key"
        if method == "dependencies.restore":
            if self.entry is None:
                return {"hit": False}
            path = self._server.blobs.download_path("dependencies/x")
            return {"hit": True, "matchedKey": "key", "path": path, **self.entry}
        if method == "dependencies.save":
            path = self._server.blobs.upload_path("dependencies/x", self._max)
            return {"skip": self.entry is not None, "entryId": "e", "path": path, "maxBytes": self._max}
        if method == "dependencies.reject":
            assert self.entry is not None
            assert self.entry["sha256"] == params["sha256"]
            self.entry = None
            return {}
        self.entry = {"sha256": params["sha256"], "sizeBytes": params["sizeBytes"]}
        return {"saved": True}


async def test_what_is_published_is_fetched(server: Server, transfers: Transfers, tmp_path: Path) -> None:
    store, said = Store(server), list[str]()
    packs = Packs(transfers, store.ask)
    folder = environment(tmp_path / "a")
    assert not await packs.fetch("key", str(tmp_path / "b"), said.append)
    assert await packs.publish("key", str(folder), said.append)
    assert await packs.publish("key", str(folder), said.append)
    assert await packs.fetch("key", str(tmp_path / "b"), said.append)
    assert [line.split(" (")[0] for line in said][0::2] == [
        "Packed dependencies: none that fit this agent",
        "Packed dependencies: kept already",
    ]
    got = tmp_path / "b"
    assert (got / "lib64" / "python3.11" / "site-packages" / "tiny.py").read_text() == "answer = 42\n"
    assert os.access(got / "bin" / "tool", os.X_OK)
    assert os.path.realpath(got / "bin" / "python3").startswith("/")
    assert os.path.realpath(got / "bin" / "python3") != "/usr/bin/env"  # its own, not the one packed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "store"]


async def test_what_cannot_be_had_is_said(server: Server, transfers: Transfers, tmp_path: Path) -> None:
    """Never an error: too large, away, changed on the way."""
    store, said = Store(server, max_bytes=10), list[str]()
    packs = Packs(transfers, store.ask)
    folder = environment(tmp_path / "a")
    assert not await packs.publish("key", str(folder), said.append)
    assert "10 are allowed (KICI_CACHE_MAX_TARBALL_BYTES)" in said[-1]

    async def refuse(_method: str, _params: dict[str, Any], _timeout_s: float) -> Any:
        raise RequestFailed("unknown_method", "this orchestrator does not know it")

    away = Packs(transfers, refuse)
    assert await away.publish("key", str(folder), said.append)
    assert not await away.fetch("key", str(tmp_path / "b"), said.append)
    assert said[-2:] == [
        "Packed dependencies: not kept: this orchestrator does not know it",
        "Packed dependencies: not used: this orchestrator does not know it",
    ]
    store = Store(server)
    packs = Packs(transfers, store.ask)
    assert await packs.publish("key", str(folder), said.append)
    assert store.entry is not None
    store.entry["sha256"] = "0" * 64
    assert not await packs.fetch("key", str(tmp_path / "b"), said.append)
    assert said[-1] == "Packed dependencies: not used: the archive has another checksum"
    assert store.entry is None  # nobody fetches it again


def test_equal_environments_give_equal_bytes(tmp_path: Path) -> None:
    """AG-75: whoever made them, and when."""
    sizes = {
        pack(str(environment(tmp_path / name, mtime=mtime)), str(tmp_path / f"{name}.pack"), GO_ON)
        for name, mtime in (("a", 1e9), ("b", 2e9))
    }
    assert len(sizes) == 1
    assert (tmp_path / "a.pack").read_bytes() == (tmp_path / "b.pack").read_bytes()


def _archive(path: Path, *members: tarfile.TarInfo) -> str:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    path.write_bytes(zstandard.ZstdCompressor().compress(plain.getvalue()))
    return str(path)


def _member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member


@pytest.mark.parametrize(
    "members",
    [
        [_member("/etc/x")],
        [_member("../x")],
        [_member("a/../../x")],
        [_member("out", tarfile.SYMTYPE, "/etc")],
        [_member("out", tarfile.SYMTYPE, "../..")],
        [_member("null", tarfile.CHRTYPE)],
        [_member("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [_member("bin", tarfile.SYMTYPE, "lib"), _member("bin/x")],
        [],
    ],
)
def test_archives_that_are_none_of_ours_are_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    """AG-75: absolute, climbing, devices, links out, and writing through links."""
    archive = _archive(tmp_path / "archive", *members)
    with pytest.raises((PackBroken, OSError)):
        unpack(archive, str(tmp_path / "target"), GO_ON)
    assert not (tmp_path / "x").exists()


def test_a_cut_archive_is_refused(tmp_path: Path) -> None:
    folder = environment(tmp_path / "a")
    (folder / "bin" / "large").write_bytes(os.urandom(1 << 20))
    archive = tmp_path / "archive"
    pack(str(folder), str(archive), GO_ON)
    archive.write_bytes(archive.read_bytes()[: 1 << 19])
    with pytest.raises(PackBroken):
        unpack(str(archive), str(tmp_path / "target"), GO_ON)
