"""Starting an agent: settings, checks, labels, what it says about itself (AG-28…30, AG-91…94)."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kici.protocol.agent_v1 import AgentRegister
from tests.process.agent.scripted import TOKEN, AgentProcess, Orchestrator, agent

pytestmark = pytest.mark.process

PROGRAM = str(Path(sys.executable).parent / "kici-agent")


async def run(*args: str, **settings: str) -> tuple[int, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("KICI_")} | settings
    process = await asyncio.create_subprocess_exec(
        PROGRAM, *args, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


async def test_the_version_is_one_line() -> None:
    status, said = await run("--version")
    assert status == 0
    assert said.startswith("kici-agent ")


async def test_check_config_shows_settings_and_hides_the_token(tmp_path: Path) -> None:
    status, said = await run(
        "--check-config",
        KICI_ORCHESTRATOR_URL="ws://127.0.0.1:1/ws",
        KICI_AGENT_TOKEN=TOKEN,
        KICI_LABELS="GPU, big",
        KICI_DATA_DIR=str(tmp_path),
    )
    assert status == 0
    assert TOKEN not in said
    assert "KICI_AGENT_TOKEN=***" in said
    assert "labels: big, gpu, kici:arch:" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "KICI_ORCHESTRATOR_URL: required, not set"),
        ({"KICI_ORCHESTRATOR_URL": "http://x"}, "KICI_ORCHESTRATOR_URL: expected ws://"),
        (
            {"KICI_ORCHESTRATOR_URL": "ws://x/ws", "KICI_AGENT_TOKEN_FIEL": "x"},
            "KICI_AGENT_TOKEN_FIEL: unknown setting",
        ),
        (
            {"KICI_ORCHESTRATOR_URL": "ws://x/ws", "KICI_BACKPRESSURE_MODE": "x"},
            "KICI_BACKPRESSURE_MODE: Invalid enum value 'x'",
        ),
        ({"KICI_ORCHESTRATOR_URL": "ws://x/ws", "KICI_SANDBOX": "true"}, "KICI_SANDBOX: the bwrap sandbox"),
        ({"KICI_ORCHESTRATOR_URL": "ws://x/ws", "KICI_LABELS": "a,kici:role:builder"}, "kici:role:builder"),
        ({"KICI_ORCHESTRATOR_URL": "ws://x/ws", "PATH": "/nowhere"}, "git, sh, bash, rm, chmod"),
    ],
)
async def test_bad_settings_stop_the_start_and_say_which(settings: dict[str, str], complaint: str) -> None:
    status, said = await run("--check-config", **settings)
    assert status == 2
    assert complaint in said


async def test_a_taken_port_stops_the_start(orchestrator: Orchestrator, tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    async with taken:
        port = str(taken.sockets[0].getsockname()[1])
        async with agent(orchestrator, tmp_path / "data", KICI_PORT=port) as process:
            assert await process.exit_status() == 1
            assert f"127.0.0.1:{port}" in (await process.logged("agent.failed"))["error"]


async def test_it_registers_with_what_it_is(orchestrator: Orchestrator, tmp_path: Path) -> None:
    async with agent(
        orchestrator, tmp_path / "data", KICI_LABELS="GPU,gpu", KICI_PROPERTIES="rack=7,fast=true,zone=a"
    ) as process:
        await orchestrator.registered()
        (register,) = orchestrator.registrations
        assert isinstance(register, AgentRegister)
        assert register.agent_id == "agent-1"
        assert register.labels == sorted(set(register.labels))
        assert {"gpu", "kici:os:linux", f"kici:host:{register.hostname.lower()}"} <= set(register.labels)
        assert register.properties == {"rack": 7, "fast": True, "zone": "a"}
        assert (register.first_seq, register.last_seq, register.in_flight) == (1, 0, [])
        assert register.running_as_uid == os.getuid()
        build = await process.logged("agent.build.info")
        status, body = await process.get("/health")
        health = json.loads(body)
        assert status == 200
        assert (health["status"], health["agentId"], health["connected"]) == ("ok", "agent-1", True)
        for field in (
            "version",
            "buildCommit",
            "buildDate",
            "sdkVersion",
            "sdkBundleHash",
            "sharedVersion",
            "sharedBundleHash",
            "engineVersion",
            "engineBundleHash",
        ):
            assert health[field] == build[field]
        assert (await process.get("/nothing"))[0] == 404


async def test_its_memory_is_closed_to_other_processes(agent_process: AgentProcess) -> None:
    """Not dumpable: /proc/<pid> belongs to root, whoever the agent runs as, and ptrace is refused to its user."""
    code = (
        "from kici.agent.app import hide_memory; import ctypes;"
        "hide_memory(); print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert said == b"0\n"
    cmdline = Path(f"/proc/{agent_process.process.pid}/cmdline").read_bytes()
    environ = Path(f"/proc/{agent_process.process.pid}/environ").read_bytes()
    assert TOKEN.encode() not in cmdline + environ
