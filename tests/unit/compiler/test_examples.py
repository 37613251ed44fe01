"""Every example and template is right: typed, compiled without a warning, and its lock file is current (AU-7)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kici.cli
from kici.compiler.pipeline import check_against_disk, compile_repository
from tests.support.repository import BUILD

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted(path.parent for path in (ROOT / "examples").glob("*/.kici"))
TEMPLATES = Path(kici.cli.__path__[0]) / "templates"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_compiles_to_its_committed_lock_file(example: Path) -> None:
    compiled = compile_repository(example / ".kici", compiler=BUILD)

    assert [problem.text() for problem in compiled.problems if problem.severity != "note"] == []
    assert check_against_disk(example / ".kici", compiled) is None
    assert compiled.output == ""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_compiles_the_same_as_a_repository_of_its_own(example: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(example, alone, ignore=shutil.ignore_patterns("__pycache__"))

    compiled = compile_repository(alone / ".kici", compiler=BUILD)

    assert compiled.data == compile_repository(example / ".kici", compiler=BUILD).data


def test_there_are_examples() -> None:
    assert [path.name for path in EXAMPLES] == [
        "container_build",
        "docs_site",
        "hello_world",
        "matrix",
        "monorepo",
        "pipeline",
        "python_library",
        "service",
    ]
    listed = (ROOT / "examples/README.md").read_text("utf-8")
    assert all(f"| [{path.name}]({path.name}/.kici/workflows/" in listed for path in EXAMPLES)


def test_examples_and_templates_are_typed(tmp_path: Path) -> None:
    workflows = [str(path) for example in EXAMPLES for path in (example / ".kici").rglob("*.py")]
    config = tmp_path / "pyrightconfig.json"
    config.write_text(
        json.dumps(
            {
                "include": [*workflows, *(str(path) for path in TEMPLATES.glob("*.py"))],
                "extraPaths": [str(example / ".kici") for example in EXAMPLES],
                "typeCheckingMode": "strict",
            }
        )
    )
    command = [sys.executable, "-m", "basedpyright", "-p", str(config), "--pythonpath", sys.executable]

    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.returncode == 0, done.stdout
