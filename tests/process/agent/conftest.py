from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.process.agent.scripted import AgentProcess, Orchestrator, Project, agent, orchestrating


@pytest.fixture
async def orchestrator() -> AsyncGenerator[Orchestrator]:
    async with orchestrating() as running:
        yield running


@pytest.fixture
async def agent_process(orchestrator: Orchestrator, tmp_path: Path) -> AsyncGenerator[AgentProcess]:
    async with agent(orchestrator, tmp_path / "data") as process:
        await orchestrator.registered()
        yield process


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")
