"""An image made from this machine's own Python and shell: nothing has to be downloaded."""

import glob
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import msgspec

CONFIG = """
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
_PROGRAMS = ("bash", "env", "cat", "sleep")
_LEFT_OUT = {"__pycache__", "test", "site-packages", "idlelib", "tkinter", "lib2to3", "ensurepip"}


class NoContainers(Exception):
    """This machine cannot run containers; the message says why."""


class Image:
    """`name` in podman's store until `remove`; `env` is what podman needs here."""

    def __init__(self, folder: Path) -> None:
        """Raises NoContainers."""
        if shutil.which("podman") is None or shutil.which("runc") is None:
            raise NoContainers("podman and runc are not installed")
        config = folder / "containers.conf"
        config.write_text(CONFIG)
        self.env = {"CONTAINERS_CONF": str(config)}
        self.name = f"localhost/kici-test-{os.getpid()}:latest"
        _write_root(folder / "root.tar")
        self._podman("import", str(folder / "root.tar"), self.name)
        (folder / "root.tar").unlink()
        try:
            self._podman("run", "--rm", self.name, "python3", "-c", "")
        except NoContainers:
            self.remove()
            raise

    def remove(self) -> None:
        self._podman("rmi", "--force", self.name)

    def containers(self) -> list[str]:
        """Ids of those that run it."""
        return self._podman("ps", "-q", "--filter", f"ancestor={self.name}").split()

    def _podman(self, *arguments: str) -> str:
        done = subprocess.run(
            ["podman", *arguments],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise NoContainers(done.stderr.strip())
        return done.stdout


def _write_root(path: Path) -> None:
    python = os.path.realpath(sys.executable)
    library = sysconfig.get_path("stdlib")
    site = str(Path(msgspec.__file__).parents[1])
    programs = [str(shutil.which(name)) for name in _PROGRAMS]
    modules = glob.glob(f"{library}/lib-dynload/*.so")
    lent = [*glob.glob(f"{site}/msgspec/*.so"), *glob.glob(f"{site}/_re2*.so")]
    with tarfile.open(path, "w") as tar:
        seen: set[str] = set()

        def add(name: str) -> None:
            if name not in seen:
                seen.add(name)
                tar.add(os.path.realpath(name), arcname=name.lstrip("/"), recursive=False)

        for program in (*programs, python, *modules):
            add(program)
        for linked in (*programs, python, *modules, *lent):
            for name in _libraries(linked):
                add(name)
        for folder, folders, files in os.walk(library):
            folders[:] = [name for name in folders if name not in _LEFT_OUT]
            for name in files:
                add(os.path.join(folder, name))
        for name, target in (("usr/bin/python3", python), ("bin", "usr/bin")):
            if f"/{name}" not in seen:
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, target
                tar.addfile(link)
        for name in ("tmp", "etc", "proc", "dev", "sys", "root"):
            folder_entry = tarfile.TarInfo(name)
            folder_entry.type, folder_entry.mode = tarfile.DIRTYPE, 0o1777
            tar.addfile(folder_entry)


def _libraries(program: str) -> list[str]:
    shown = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", shown)
