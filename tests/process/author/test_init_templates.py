"""A newcomer's first minute: `kici init`, `kici compile`, `kici run local`, for every template (AU-145)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kici.cli.init import TEMPLATES

pytestmark = pytest.mark.process


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def kici(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "KICI_CONFIG_DIR": str(folder.parent / "config"), "CI": "true", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "kici.cli.main", *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With something for each template to work on, on a branch of another name."""
    folder = tmp_path / "repo"
    (folder / "packages/api").mkdir(parents=True)
    (folder / "packages/api/test_api.py").write_text(
        "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertTrue(True)\n"
    )
    git(folder, "init", "-q", "-b", "trunk")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "First commit")
    return folder


def start(folder: Path, *templates: str) -> None:
    kici(folder, "init", *(word for name in templates for word in ("--template", name)))
    kici(folder, "compile", "--strict")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "Workflows")


def jobs(document: dict[str, Any]) -> dict[str, str]:
    return {job["name"]: job["status"] for run in document["runs"] for job in run["jobs"]}


@pytest.mark.parametrize(
    ("template", "event", "expected"),
    [
        ("hello_world", ["push"], {"inspect": "success", "greet": "success"}),
        ("pr_checks", ["pr", "--files", "src/app.py"], {"lint": "success", "test": "success"}),
        (
            "monorepo",
            ["push", "--files", "packages/api/test_api.py"],
            {"test (api)": "success"},
        ),
        ("docker_build", ["push"], {"image": "success", "publish": "success"}),
        ("release", ["tag"], {"build": "success", "publish": "success"}),
    ],
)
def test_a_template_runs_as_it_is(
    template: str, event: list[str], expected: dict[str, str], repository: Path
) -> None:
    """AU-145: it checks out, runs something real, and the default branch is really substituted."""
    start(repository, template)
    assert '"main"' not in (repository / f".kici/workflows/{template}.py").read_text()
    document = json.loads(kici(repository, "run", "local", *event, "--json").stdout)
    found = jobs(document)
    assert {name: found.get(name) for name in expected} == expected


def test_the_package_template_tests_and_builds(repository: Path) -> None:
    """AU-145: python_package; its upload waits for a tag, and says so."""
    start(repository, "python_package")
    document = json.loads(kici(repository, "run", "local", "push", "--json").stdout)
    found = jobs(document)
    assert found["package"] == "success"
    assert found["upload"] == "skipped"
    assert [name for name in found if name.startswith("test (")] == [
        "test (3.11)",
        "test (3.12)",
        "test (3.13)",
    ]


def test_all_templates_live_beside_each_other(repository: Path) -> None:
    """AU-145: and the fixtures of init name the right branch."""
    start(repository, *TEMPLATES)
    assert 'push(branches="trunk")' in (repository / ".kici/tests/push_test.py").read_text()
    kici(repository, "compile", "--check")
    document = json.loads(
        kici(repository, "run", "local", "push-main", "--workflow", "hello-world", "--json").stdout
    )
    assert jobs(document) == {"inspect": "success", "greet": "success"}


def test_init_with_a_private_index(repository: Path) -> None:
    """AU-145: the index stands in pyproject.toml; a token never travels in the clear."""
    done = kici(
        repository,
        "init",
        "--private-index",
        "https://pypi.example.org/simple",
        "--private-index-secret",
        "build:PYPI",
    )
    assert 'token_secret="build:PYPI"' in done.stdout
    assert 'url = "https://pypi.example.org/simple"' in (repository / ".kici/pyproject.toml").read_text()
    kici(repository, "init", "--private-index", "http://pypi.example.org/simple", code=2)
    kici(
        repository,
        "init",
        "--private-index",
        "https://x.example.org",
        "--private-index-secret",
        "PYPI",
        code=2,
    )
