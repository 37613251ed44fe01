"""`.kici/pyproject.toml` and the workflows' own environment (AU-96, E006, E007)."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kici.compiler.pipeline import compile_repository
from kici.compiler.project import Project, SyncFailed, needs_sync, python_of, sync
from tests.support.repository import BUILD, Repository

FINE = 'a = job("a", runs_on="linux", steps=[build])'
WHICH_PYTHON = f"import sys; print(sys.prefix)\n{FINE}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path).workflow(WHICH_PYTHON)


def lock_with_uv(repository: Repository) -> None:
    """An environment without packages needs no index."""
    repository.write(
        {
            "pyproject.toml": """
                [project]
                name = "workflows"
                version = "0"
                requires-python = ">=3.11"
                dependencies = []
                [tool.uv]
                package = false
                """
        }
    )
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "lock", "--quiet", "--offline", "--project", str(repository.kici_dir)]
    subprocess.run(command, check=True, capture_output=True)


def test_uv_environment_is_made_once_and_used(repository: Repository) -> None:
    lock_with_uv(repository)
    announced: list[str] = []
    assert needs_sync(repository.kici_dir)

    first = compile_repository(repository.kici_dir, compiler=BUILD, announce=announced.append)
    second = compile_repository(repository.kici_dir, compiler=BUILD, announce=announced.append)

    assert announced == ["Syncing the dependencies of .kici"]
    assert not needs_sync(repository.kici_dir)
    assert first.problems == []
    assert first.output == f"{repository.kici_dir / '.venv'}\n"  # kici and msgspec are lent to it
    assert (first.data, second.output) == (second.data, first.output)
    assert python_of(repository.kici_dir) == str(repository.kici_dir / ".venv/bin/python")

    (repository.kici_dir / "uv.lock").write_text("changed")
    assert needs_sync(repository.kici_dir)


def test_without_announcement_nothing_is_synced(repository: Repository) -> None:
    lock_with_uv(repository)

    compiled = repository.compile()

    assert compiled.errors == []
    assert python_of(repository.kici_dir) is None


def test_what_the_package_manager_says_is_told(repository: Repository) -> None:
    repository.write({"uv.lock": "not toml", "pyproject.toml": '[project]\nname = "x"\nversion = "0"'})

    with pytest.raises(SyncFailed, match=r"(?s)uv sync --frozen.* exited with \d+\n.*uv.lock"):
        sync(repository.kici_dir)

    assert needs_sync(repository.kici_dir)


def test_pip_environment(repository: Repository) -> None:
    """AU-96: paths are relative to `.kici`, wherever the command is called."""
    repository.write({"requirements.txt": "./demo-1.0-py3-none-any.whl\n"})
    with zipfile.ZipFile(repository.kici_dir / "demo-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n")
        wheel.writestr("demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("demo-1.0.dist-info/RECORD", "")

    sync(repository.kici_dir)

    assert not needs_sync(repository.kici_dir)
    assert repository.compile().output == f"{repository.kici_dir / '.venv'}\n"


def test_an_environment_that_cannot_start_is_named(repository: Repository) -> None:
    python = repository.kici_dir / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    python.chmod(0o755)

    (problem,) = repository.compile().problems

    assert problem.message == "the workflows' Python could not start: broken"
    assert str(python) in problem.help


@pytest.mark.parametrize(
    ("requirement", "fine"),
    [
        ("kici", True),
        ("kici >= 0.1", True),
        ("kici[all]>=0.1.0,<0.2", True),
        ("kici==0.1.*", True),
        ("kici==0.1", True),
        ("kici~=0.1.0", True),
        ("kici~=0.1; python_version > '3'", True),
        ("kici @ https://example.com/kici.whl", True),
        ("kici-extras>=9", True),
        ("kici>=0.1.1", False),
        ("kici<0.1", False),
        ("kici>0.1", False),
        ("kici!=0.1.0", False),
        ("kici~=0.2", False),
        ("kici==0.2.*", False),
        ("kici<=0.0.9", False),
    ],
)
def test_declared_ranges(repository: Repository, requirement: str, fine: bool) -> None:
    repository.write({"pyproject.toml": f'[project]\ndependencies = ["{requirement}"]'})

    codes = [problem.code for problem in Project(repository.kici_dir).check("0.1.0")]

    assert codes == ([] if fine else ["E006"])


def test_unreadable_project_file(repository: Repository) -> None:
    repository.write({"pyproject.toml": "[project"})

    (problem,) = Project(repository.kici_dir).check("0.1.0")

    assert problem.text().startswith(".kici/pyproject.toml:1:1: error[E002]: syntax error")
