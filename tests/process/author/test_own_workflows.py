"""KiCI checks KiCI: the workflows in `.kici/` of this very repository, run on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]


def kici(*arguments: str, config: Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "KICI_CONFIG_DIR": str(config), "NO_COLOR": "1"}
    env.pop("PYTEST_CURRENT_TEST", None)
    return subprocess.run(
        [sys.executable, "-m", "kici.cli.main", *arguments],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )


def test_the_lock_file_is_current(tmp_path: Path) -> None:
    """AU-97: what CI asks of every author, asked of us."""
    done = kici("compile", "--check", "--strict", "--no-sync", config=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_push_to_a_branch_runs_the_quick_checks(tmp_path: Path) -> None:
    """AU-110: the project's own style and unit tests, under the agent's runner, from a copy of this tree."""
    done = kici("run", "local", "push", "--branch", "feature", "--json", config=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    document: dict[str, Any] = json.loads(done.stdout)
    assert [run["workflow"] for run in document["runs"]] == ["quick"]
    statuses = {job["name"]: job["status"] for job in document["runs"][0]["jobs"]}
    assert statuses == {"style": "success", "unit tests (engine)": "success", "unit tests (sdk)": "success"}


def test_preview_knows_what_a_push_to_main_starts(tmp_path: Path) -> None:
    """AU-120: nothing runs."""
    done = kici(
        "preview", "push", "--branch", "main", "--files", "src/kici/cli/main.py", "--json", config=tmp_path
    )
    assert done.returncode == 0, done.stderr
    matched = {entry["name"] for entry in json.loads(done.stdout)["workflows"] if entry["matched"]}
    assert matched == {"quick", "ci"}
