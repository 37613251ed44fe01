"""The runner in interpreters and event loops other than the one the tests run on."""

import asyncio
import sys
import venv
from pathlib import Path

import pytest
import uvloop

from kici.runner.host import Zygote, ZygoteError
from kici.spec.states import JobStatus
from tests.process.runner.builders import Recorder, Repo

pytestmark = pytest.mark.process

WHERE = """
@step
async def where(ctx: Context) -> str:
    import only_here
    await ctx.sh("echo in bash")
    return sys.prefix

jobs = [job("j", runs_on=LINUX, steps=[where])]
"""


def make_venv(folder: Path) -> Path:
    """An environment with one module and without kici."""
    venv.create(folder, symlinks=True, with_pip=False)
    packages = folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (packages / "only_here.py").write_text("")
    return packages


async def test_an_environment_without_kici_borrows_ours(repo: Repo, tmp_path: Path) -> None:
    make_venv(tmp_path / "venv")
    repo.write(WHERE)
    async with asyncio.timeout(60), Zygote.start(python=str(tmp_path / "venv/bin/python")) as zygote:
        result = await zygote.run(repo.execute("j"), Recorder())
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs == {"where": str(tmp_path / "venv")}


async def test_an_environments_own_kici_wins(repo: Repo, tmp_path: Path) -> None:
    packages = make_venv(tmp_path / "venv")
    (packages / "kici").mkdir()
    (packages / "kici" / "__init__.py").write_text("raise ImportError('the pinned one')\n")
    repo.write(WHERE)
    with pytest.raises(ZygoteError, match=r"(?s)could not load kici\.runner: .*the pinned one"):
        async with asyncio.timeout(60), Zygote.start(python=str(tmp_path / "venv/bin/python")):
            pass


def test_a_host_on_uvloop(repo: Repo) -> None:
    repo.write("""
    @step
    async def much(ctx: Context) -> None:
        await ctx.sh("seq 300000")
        print("end", end="")

    jobs = [job("j", runs_on=LINUX, steps=[much])]
    """)
    seen: list[Recorder] = []

    async def host() -> None:
        seen.append(Recorder())
        async with asyncio.timeout(60), Zygote.start() as zygote:
            for _ in range(3):
                seen.append(Recorder())
                result = await zygote.run(repo.execute("j"), seen[-1])
                assert result.status == JobStatus.SUCCESS, result.error_message

    uvloop.run(host())
    expected = "".join(f"{number}\n" for number in range(1, 300_001)) + "end"
    assert [recorder.text(0) for recorder in seen[1:]] == [expected] * 3
