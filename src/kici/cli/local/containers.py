"""Jobs in containers of this machine's podman or docker (AU-115): the same runner program, another userland.

The image has a `python3` of the version that runs `kici` here; kici itself, its one dependency and the
workflows' environment are mounted read-only. The run's folder is mounted where it is, so that paths mean the
same inside and outside. The container shares this machine's process ids, which is how its jobs are stopped.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from kici.engine.graph import PlannedJob
from kici.runner.host import Zygote, ZygoteError, own_paths
from kici.spec.errors import InvalidInput, KiciError

_ENGINES = ("podman", "docker")
_PROBE_WITHIN_S = 600  # it may have to load the image
_PROBE = "import sys, os, json; print(json.dumps([list(sys.version_info[:2]), dict(os.environ)]))"
_BOOT = """\
import socket, sys
ends = []
for _ in range(2):
    end = socket.socket(socket.AF_UNIX)
    end.connect(sys.argv[1])
    ends.append(end.detach())
sys.path += sys.argv[2:]
from kici.runner.guardian import main
main(*ends)
"""


class NoEngine(InvalidInput):
    """Neither podman nor docker is here."""


class ContainerFailed(KiciError):
    """The image is not to be had, or cannot run jobs. The engine's own words are in the message."""

    code = "container_failed"


class Box(Struct, frozen=True, kw_only=True):
    """Where the jobs of one image run, and the environment that the image brings."""

    zygote: Zygote
    env: dict[str, str]


class Containers:
    """One container per image, made when its first job comes. `close` ends them."""

    def __init__(self, *, image: str | None, mounts: Sequence[Path], kici_dir: Path) -> None:
        """`image`: for jobs that name none; they run on the host when it is None. `mounts` are writable.
        Raises NoEngine."""
        engine = next((path for name in _ENGINES if (path := shutil.which(name))), None)
        if engine is None:
            raise NoEngine("--container needs podman or docker: install one of them, or run without")
        self._engine = engine
        self._image = image
        self._mounts = mounts
        self._libraries = [*own_paths(), *_site_packages(kici_dir)]
        self._sockets = Path(tempfile.mkdtemp(prefix="kici-"))  # short: such paths have 107 bytes
        self._boxes: dict[str, Box] = {}
        self._making: dict[str, asyncio.Lock] = {}

    def image_for(self, planned: PlannedJob) -> str | None:
        """None: the job runs on the host. Setup rows always do."""
        if planned.kind != "job":
            return None
        return planned.job.container.image if planned.job.container is not None else self._image

    async def box(self, image: str) -> Box:
        """Raises ContainerFailed."""
        async with self._making.setdefault(image, asyncio.Lock()):
            if image not in self._boxes:
                env = await asyncio.to_thread(self._probe, image)
                zygote = Zygote.start(python=f"the container of {image}", launcher=self._launcher(image))
                try:
                    await zygote.__aenter__()
                except ZygoteError as error:
                    raise ContainerFailed(str(error)) from None
                self._boxes[image] = Box(zygote=zygote, env=env)
        return self._boxes[image]

    async def close(self) -> None:
        for box in self._boxes.values():
            await box.zygote.close()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _probe(self, image: str) -> dict[str, str]:
        """The image's own variables, once it is sure that its Python can run jobs."""
        command = [self._engine, "run", "--rm", "--entrypoint", "python3", image, "-I", "-c", _PROBE]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=_PROBE_WITHIN_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ContainerFailed(f"{self._engine} cannot run {image}: {error}") from None
        if done.returncode:
            words = "\n".join(done.stderr.strip().splitlines()[-5:])
            wanted = ".".join(map(str, sys.version_info[:2]))
            needs = f"jobs in containers need python3 {wanted} in the image"
            raise ContainerFailed(f"{image} cannot run jobs; {needs}\n{words}")
        version, env = json.loads(done.stdout.strip().splitlines()[-1])
        if tuple(version) != sys.version_info[:2]:
            found, here = (".".join(map(str, numbers)) for numbers in (version, sys.version_info[:2]))
            raise ContainerFailed(
                f"{image} has Python {found}, and kici runs on {here} here: use an image with {here}, or kici "
                f"on {found}"
            )
        dropped = {"container", "HOSTNAME", "TERM"}
        return {name: value for name, value in env.items() if name not in dropped}

    def _launcher(self, image: str) -> list[str]:
        path = self._sockets / f"{len(self._boxes)}.sock"
        argv = [self._engine, "run", "--rm", "--pid=host", "--network=host", "--init=false"]
        if os.path.basename(self._engine) == "docker" and os.getuid():
            argv += ["--user", f"{os.getuid()}:{os.getgid()}"]
        for folder in dict.fromkeys([*self._mounts, self._sockets]):
            argv += ["--volume", f"{folder}:{folder}"]
        for folder in dict.fromkeys(self._libraries):
            argv += ["--volume", f"{folder}:{folder}:ro"]
        argv += ["--entrypoint", "python3", image, "-I", "-X", "utf8", "-c", _BOOT, str(path)]
        argv += self._libraries
        wanted: dict[str, Any] = {"argv": argv, "env": dict(os.environ), "socket": str(path)}
        return [sys.executable, "-I", "-m", "kici.cli.local.container_relay", json.dumps(wanted)]


def _site_packages(kici_dir: Path) -> list[str]:
    """Libraries of the workflows' own environment."""
    return [str(path) for path in (kici_dir / ".venv").glob("lib/python*/site-packages")]
