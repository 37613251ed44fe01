import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.support.linked_orchestrator import Orchestrator
from tests.support.postgres import Database
from tests.support.scripted_platform import ScriptedPlatform, scripted_platform


@pytest.fixture
async def platform() -> AsyncGenerator[ScriptedPlatform]:
    async with scripted_platform() as started:
        yield started


@pytest.fixture
async def orchestrator(
    orchestrator_db: Database, platform: ScriptedPlatform, tmp_path: Path
) -> AsyncGenerator[Orchestrator]:
    made = Orchestrator(orchestrator_db, platform.url, tmp_path)
    async with asyncio.TaskGroup() as tasks:
        made.start(tasks)
        yield made
        await made.stop()
    await made.store.close()
