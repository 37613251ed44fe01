"""Jobs of an agent that is root, as another user: what they can and cannot reach (AG-62)."""

import hashlib
import io
import json
import os
import pwd
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Generator
from pathlib import Path

import msgspec
import pytest

import kici
from kici.protocol.agent_v1 import AgentResponse
from kici.spec.states import JobStatus
from tests.process.agent.scripted import Orchestrator, Project, agent

USER = "nobody"

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can run jobs as another user"),
]


@pytest.fixture
def open_folder() -> Generator[Path]:
    """Unlike tmp_path, others may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="kici-job-user-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def program(open_folder: Path) -> list[str]:
    """The agent on an interpreter that everybody may run: ours may lie in root's home."""
    python = Path(os.path.realpath(sys.executable))
    home = open_folder / "python"
    left_out = shutil.ignore_patterns(
        "test",
        "tests",
        "site-packages",
        "idlelib",
        "tkinter",
        "ensurepip",
        "config-*",
        "include",
        "share",
        "*.a",
    )
    shutil.copytree(sys.base_prefix, home, symlinks=True, ignore=left_out, copy_function=_link)
    library = open_folder / "library"  # what the runner loads; the checkout may be closed to others, too
    for module in (kici, msgspec):
        package = Path(str(module.__file__)).parent
        ignore = shutil.ignore_patterns("__pycache__", "static", "docs")
        shutil.copytree(package, library / package.name, ignore=ignore)
    copied = str(home / python.relative_to(os.path.realpath(sys.base_prefix)))
    entry = pwd.getpwnam(USER)
    subprocess.run(
        [copied, "-I", "-c", f"import sys; sys.path.append({str(library)!r}); import kici.runner.host"],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=[],
        cwd="/",
        check=True,
    )
    paths = [str(library), str(Path(str(msgspec.__file__)).parents[1])]  # the agent itself is root
    line = f"import sys; sys.path += {paths}; sys.argv[0] = 'kici-agent'; from kici.agent.cli import main; main()"
    return [copied, "-c", line]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


async def test_a_job_runs_as_its_user_and_reaches_nothing_of_the_agents(
    orchestrator: Orchestrator, open_folder: Path, program: list[str]
) -> None:
    """AG-62, AG-63: own work tree, own HOME, git included; not the token, not the agent's folders or memory."""
    project = Project(open_folder / "project").workflow("""
        def reads(path):
            try:
                os.listdir(path) if os.path.isdir(path) else open(path, "rb").read()
            except PermissionError:
                return False
            return True

        @step
        async def look(ctx: Context) -> dict[str, Any]:
            data = os.environ["DATA"]
            agent = os.environ["AGENT"]
            await ctx.sh("git log -1 --format=%s > log && git status --porcelain")
            (ctx.workspace / "made").write_text("by the job")
            (ctx.tmp / "made").write_text("by the job")
            return {
                "uid": [os.getuid(), os.geteuid(), os.getgid()],
                "groups": os.getgroups(),
                "user": os.environ["USER"],
                "home": os.environ["HOME"],
                "owner": os.stat(ctx.workspace).st_uid,
                "log": open("log").read(),
                "token": reads(os.path.join(os.path.dirname(data), "agent-token")),
                "data": reads(data),
                "work": reads(os.path.join(data, "work")),
                "mirrors": reads(os.path.join(data, "mirrors")),
                "spool": reads(os.path.join(data, "spool")),
                "environ": reads(f"/proc/{agent}/environ"),
                "memory": reads(f"/proc/{agent}/maps"),
            }

        @step
        async def linger(ctx: Context) -> None:
            await ctx.sh("sleep 1000 & echo $! > pid; disown")
            print(open("pid").read())

        jobs = [job("build", runs_on="kici:os:linux", steps=[look, linger])]
    """)
    data = open_folder / "data"
    async with agent(orchestrator, data, program=program, KICI_JOB_USER=USER) as process:
        await orchestrator.registered()
        dispatch = project.dispatch(env={"DATA": str(data), "AGENT": str(process.process.pid)})
        ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.outputs is not None
    entry = pwd.getpwnam(USER)
    assert ended.outputs["look"] == {
        "uid": [entry.pw_uid, entry.pw_uid, entry.pw_gid],
        "groups": os.getgrouplist(USER, entry.pw_gid),
        "user": USER,
        "home": entry.pw_dir,
        "owner": entry.pw_uid,
        "log": "commit\n",
        **dict.fromkeys(("token", "data", "work", "mirrors", "spool", "environ", "memory"), False),
    }, json.dumps(ended.outputs)
    left = int(orchestrator.text(dispatch.job_id, 1))
    assert not os.path.exists(f"/proc/{left}")


async def test_a_restored_cache_belongs_to_the_jobs_user(
    orchestrator: Orchestrator, open_folder: Path, program: list[str]
) -> None:
    """AG-62, AG-78: fetched by the agent, unpacked by the job."""
    project = Project(open_folder / "project").workflow("""
        @step(cache=Cache(key="k", paths=["deps"]))
        async def build(ctx: Context) -> dict[str, Any]:
            found = os.stat("deps/marker")
            return {"owner": found.st_uid, "content": open("deps/marker").read()}

        jobs = [job("build", runs_on="kici:os:linux", steps=[build])]
    """)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("workspace/deps/marker")
        member.size, member.mode = 6, 0o644
        archive.addfile(member, io.BytesIO(b"cached"))
    packed = orchestrator.blobs["/blobs/ticket"] = buffer.getvalue()
    async with agent(orchestrator, open_folder / "data", program=program, KICI_JOB_USER=USER):
        await orchestrator.registered()
        dispatch = project.dispatch()
        await orchestrator.send(dispatch)
        await orchestrator.until(lambda: bool(orchestrator.asked("cache.restore")))
        (asked,) = orchestrator.asked("cache.restore")
        found = {
            "hit": True,
            "matchedKey": "k",
            "path": "/blobs/ticket",
            "sha256": hashlib.sha256(packed).hexdigest(),
            "sizeBytes": len(packed),
        }
        await orchestrator.send(
            AgentResponse(request_id=asked.request_id, job_id=dispatch.job_id, result=found)
        )
        await orchestrator.until(lambda: bool(orchestrator.terminal(dispatch.job_id)))
    (ended,) = orchestrator.terminal(dispatch.job_id)
    assert ended.outputs == {"build": {"owner": pwd.getpwnam(USER).pw_uid, "content": "cached"}}, (
        ended.error_message
    )


async def test_a_user_that_cannot_be_is_refused_at_the_start(
    orchestrator: Orchestrator, tmp_path: Path
) -> None:
    """AG-91."""
    for name in ("no-such-user-here", "root"):
        async with agent(orchestrator, tmp_path / name, KICI_JOB_USER=name) as process:
            assert await process.exit_status() != 0
