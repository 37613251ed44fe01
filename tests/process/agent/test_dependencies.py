"""Workflow environments with real installers: keys, eviction, pip where uv is missing (AG-73)."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from kici.agent.dependencies import KEEP, OWN, Environment, Environments, InstallFailed, environment_key
from tests.process.agent.scripted import Project
from tests.process.agent.test_job import TINY

pytestmark = pytest.mark.process


class Desk:
    def __init__(self, root: Path) -> None:
        self.environments = Environments(
            str(root / "venvs"), {**os.environ, "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"}
        )
        self.said: list[str] = []
        self.output = bytearray()

    async def resolve(self, repository: Path, sha: str = "a" * 40) -> Environment:
        return await self.environments.resolve(str(repository), sha, self.said.append, self.output.extend)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_no_dependency_file_means_the_agents_own_interpreter(desk: Desk, project: Project) -> None:
    project.write({".kici/workflows/ci.py": ""})
    assert await desk.resolve(project.root) == OWN


async def test_pip_installs_where_uv_is_missing(desk: Desk, project: Project) -> None:
    desk.environments.uv = None
    project.write({f".kici/tiny/{name}": text for name, text in TINY.items()})
    project.write({".kici/requirements.txt": "./tiny\n"})
    environment = await desk.resolve(project.root)
    assert environment.status == "miss"
    done = subprocess.run(
        [environment.python, "-c", "import tiny; print(tiny.answer)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "42\n"
    assert b"tiny" in desk.output


async def test_a_uv_lock_without_uv_says_so(desk: Desk, project: Project) -> None:
    desk.environments.uv = None
    project.write({".kici/uv.lock": "version = 1\n"})
    with pytest.raises(InstallFailed, match="no `uv`"):
        await desk.resolve(project.root)
    assert not [entry for entry in os.scandir(desk.environments.folder) if entry.is_dir()]


async def test_paths_in_a_lock_tie_the_environment_to_the_commit(desk: Desk, project: Project) -> None:
    project.write({f".kici/tiny/{name}": text for name, text in TINY.items()})
    project.write({".kici/requirements.txt": "./tiny\n"})
    first = await desk.resolve(project.root, "a" * 40)
    other = await desk.resolve(project.root, "b" * 40)
    again = await desk.resolve(project.root, "a" * 40)
    assert first.key != other.key
    assert (again.key, again.status) == (first.key, "hit")
    assert environment_key("lock", "") == environment_key("lock", "")
    assert environment_key("lock", "") != environment_key("other", "")


async def test_the_least_recently_used_environments_go_unless_somebody_uses_them(desk: Desk) -> None:
    folder = Path(desk.environments.folder)
    names = [f"cp311-{number:02}" for number in range(KEEP + 4)]
    for age, name in enumerate(reversed(names)):
        (folder / name).mkdir()
        used_at = time.time() - age * 60
        os.utime(folder / name, (used_at, used_at))
    for name, age in (("cp311-x.packing-7", 90_000), ("cp311-y.new.pack", 0)):  # of a killed agent; in use
        (folder / name).touch()
        used_at = time.time() - age
        os.utime(folder / name, (used_at, used_at))
    held = desk.environments.hold(names[0])
    await desk.environments.evict(keep=names[1])
    left = {entry.name for entry in os.scandir(folder) if entry.is_dir()}
    assert left == {*names[:2], *names[4:]}
    assert [path.name for path in folder.iterdir() if ".pack" in path.name] == ["cp311-y.new.pack"]
    held.release()
