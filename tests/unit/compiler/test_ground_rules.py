"""What holds for every repository with workflows, whatever they do."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kici.cli.main import app
from kici.compiler.content import lockfile_hash
from kici.compiler.pipeline import compile_repository
from kici.compiler.project import needs_sync, python_of
from kici.orchestrator.lockfiles.document import parse_lock
from tests.support.repository import BUILD, Repository


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    return Repository(tmp_path)


def test_python_is_the_source_and_the_lock_file_the_contract(repository: Repository) -> None:
    """AU-1: `kici init` makes the whole layout, and the orchestrator's reader plans from the lock file alone."""
    done = CliRunner().invoke(app, ["init", "--skip-install"])
    assert done.exit_code == 0, done.output
    repository.write(
        {"tests/more.py": "from kici import fixture, push\nf = fixture('main', event=push())\n"}
    )
    assert CliRunner().invoke(app, ["compile"]).exit_code == 0
    kici = repository.kici_dir
    for name in ("workflows", "tests", "pyproject.toml", "AGENTS.md", "kici.lock.json"):
        assert (kici / name).exists(), name
    assert (repository.root / ".kiciignore").is_file()

    data = (kici / "kici.lock.json").read_bytes()
    shutil.rmtree(kici)
    planned = {workflow.lock.name: workflow for workflow in parse_lock(data).workflows}
    assert set(planned) == {"hello-world", "pr-checks"}
    assert [job.name for job in planned["pr-checks"].lock.jobs] == ["lint", "test"]


def test_every_definition_knows_its_place(repository: Repository) -> None:
    """AU-12: file, line and column, for the dashboard's link, annotations and messages."""
    repository.write(
        {
            "helpers.py": "from kici import *\n\n@step\nasync def help_out(ctx: Context) -> None: ...\n",
            "workflows/ci.py": (
                "from kici import *\n"
                "from helpers import help_out\n"
                "\n"
                "@step(timeout='5m')\n"
                "async def build(ctx: Context) -> None: ...\n"
                "\n"
                "first = job('first', runs_on='linux', steps=[build, help_out])\n"
                "@job(runs_on='linux', needs=[first])\n"
                "async def second(ctx: Context) -> None: ...\n"
                "ci = workflow('ci', on=push(), jobs=[first, second])\n"
            ),
        }
    )
    (workflow,) = repository.lock().workflows
    jobs: dict[str, Any] = {job.name: job for job in workflow.jobs}
    assert (workflow.source.file, workflow.source.export) == (".kici/workflows/ci.py", "#ci")
    places = {name: (job.source.file, job.source.line, job.source.column) for name, job in jobs.items()}
    assert places == {
        "first": (".kici/workflows/ci.py", 7, 9),
        "second": (".kici/workflows/ci.py", 8, 2),
    }
    build, help_out = (step.source_location for step in jobs["first"].steps)
    assert (build.file, build.line) == (".kici/workflows/ci.py", 4)
    assert (help_out.file, help_out.line) == (".kici/helpers.py", 3)
    assert build.column >= 1

    (repository.kici_dir / "workflows/ci.py").write_text(
        "from kici import *\n@step\nasync def s(ctx: Context) -> None: ...\n"
        "w = workflow('w', on=push(), jobs=[\n    job('a', runs_on='x', steps=[s]),\n"
        "    job('b', runs_on='x', steps=[s], needs=['c']),\n])\n"
    )
    done = CliRunner().invoke(app, ["compile", "--format", "github"])
    assert "::error file=.kici/workflows/ci.py,line=6,col=5,title=E101::" in done.stdout


def test_what_only_the_server_knows_is_not_asked_for(repository: Repository) -> None:
    """AU-92: nobody here knows which secrets, environments and teams there are, so none is missing."""
    repository.workflow(
        """
        @step
        async def use(ctx: Context) -> None:
            await ctx.secrets.get("NOBODY_HAS_THIS")

        a = job("a", runs_on="linux", steps=[use], environment="not-there",
                approval=[team("nobody"), user("nobody-else")])
        w = workflow("w", on=push(), jobs=[a], install_env=["not-there:TOKEN"],
                     registries=[Registry(url="https://x.example/simple", token_secret="not-there:INDEX")])
        """
    )
    compiled = repository.compile()
    assert [problem.text() for problem in compiled.problems] == []
    assert compiled.data is not None


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n"])
def test_the_dependency_lock_has_a_hash_of_its_own(repository: Repository, end_of_line: str) -> None:
    """AU-100: of `uv` or `pip`, a line feed, and the file; a workspace's member takes the root's."""

    def sha256(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    def write(path: str, text: str) -> None:
        target = repository.root / path
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(text.replace("\n", end_of_line).encode())

    write(".kici/workflows", "")
    assert lockfile_hash(repository.root) is None
    write("uv.lock", "root\n")
    assert lockfile_hash(repository.root) is None  # somebody else's
    write(".kici/requirements.txt", "kici==1 --hash=sha256:0\n")
    assert lockfile_hash(repository.root) == sha256("pip\nkici==1 --hash=sha256:0\n")
    write("pyproject.toml", '[tool.uv.workspace]\nmembers = ["libs/*", ".kici"]\n')
    assert lockfile_hash(repository.root) == sha256("uv\nroot\n")
    write(".kici/uv.lock", "own\n")
    assert lockfile_hash(repository.root) == sha256("uv\nown\n")


def test_a_member_of_a_workspace_has_its_environment_in_kici(repository: Repository) -> None:
    """AU-96, AU-100: uv alone would put it beside the workspace's root, where nobody looks for it."""
    project = '[project]\nname = "{}"\nversion = "0"\nrequires-python = ">=3.11"\n'
    repository.workflow('a = job("a", runs_on="linux", steps=[build])')
    repository.write(
        {
            "pyproject.toml": project.format("workflows"),
            "/pyproject.toml": project.format("whole") + '[tool.uv.workspace]\nmembers = [".kici"]\n',
        }
    )
    uv = Path(sys.executable).with_name("uv")
    subprocess.run(
        [uv, "lock", "--quiet", "--offline", "--project", repository.root], check=True, capture_output=True
    )
    announced: list[str] = []
    compiled = compile_repository(repository.kici_dir, compiler=BUILD, announce=announced.append)
    assert compiled.errors == []
    assert announced == ["Syncing the dependencies of .kici"]
    assert not needs_sync(repository.kici_dir)
    assert python_of(repository.kici_dir) == str(repository.kici_dir / ".venv/bin/python")


def test_compile_errors_are_data(repository: Repository) -> None:
    """AU-147: an agent's edit loop reads code, place and help from one JSON document; AU-136: exit 1."""
    repository.workflow(
        """
        a = job("a", runs_on="linux", steps=[build], needs=["biuld"])
        biuld = job("build", runs_on="linux", steps=[build], timeout="5 parsecs")
        """
    )
    done = CliRunner().invoke(app, ["compile", "--json"])
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["ok"] is False
    found = {problem["code"]: problem for problem in document["problems"]}
    assert set(found) == {"E101", "E309"}
    lines = (repository.kici_dir / "workflows/ci.py").read_text().split("\n")
    for code, text in (("E101", 'needs=["biuld"]'), ("E309", "5 parsecs")):
        problem = found[code]
        assert (problem["file"], problem["severity"]) == (".kici/workflows/ci.py", "error")
        assert text in lines[problem["line"] - 1]
        assert problem["column"] >= 1
        assert problem["message"]
        assert problem["help"]
    assert not (repository.kici_dir / "kici.lock.json").exists()
