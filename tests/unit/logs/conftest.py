from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kici.orchestrator.logs.store import LogStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[LogStore]:
    opened = LogStore(str(tmp_path))
    yield opened
    await opened.close()
