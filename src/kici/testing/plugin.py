"""pytest plug-in: the fixture `kici_ctx`. Loaded by pytest itself, in the author's own environment."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kici.testing.context import FakeContext


@pytest.fixture
def kici_ctx(tmp_path: Path) -> "FakeContext":
    """A fresh FakeContext; its workspace and tmp are folders below `tmp_path`."""
    from kici.testing.context import FakeContext

    workspace, tmp = tmp_path / "workspace", tmp_path / "tmp"
    workspace.mkdir()
    tmp.mkdir()
    return FakeContext(workspace=workspace, tmp=tmp)
