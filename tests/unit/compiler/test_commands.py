"""`kici init`, `kici compile`, `kici explain` as people and CI call them (AU-95, AU-97, AU-136, AU-145)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kici.cli.main import app
from kici.compiler.codes import explanations
from tests.support.repository import Repository

FINE = 'a = job("a", runs_on="linux", steps=[build])'
WARNS = 'ci = workflow("ci", jobs=[job("a", runs_on="linux", steps=[build])])'
FAILS = 'a = job("a", runs_on="linux", steps=[build], needs=["b"])'


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KICI_DEBUG", raising=False)
    return Repository(tmp_path)


def kici(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def git(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True, env=environment)


def test_compile_writes_once_and_check_agrees(repository: Repository) -> None:
    repository.workflow(FINE)
    lock = repository.kici_dir / "kici.lock.json"

    missing = kici("compile", "--check")
    assert (missing.exit_code, lock.exists()) == (1, False)
    assert "error[E701]: the lock file is out of date: there is none" in missing.stderr
    assert missing.stdout == ""

    first = kici("compile")
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow)\n"
    assert json.loads(lock.read_bytes())["workflows"][0]["name"] == "ci"
    assert len(json.loads(lock.read_bytes())["compiler"]["sdkBundleHash"]) == 64

    again = kici("compile")
    assert again.stdout == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow, unchanged)\n"
    check = kici("compile", "--check")
    assert (check.exit_code, check.stdout) == (0, "✓ .kici/kici.lock.json is up to date (1 workflow)\n")

    repository.workflow(FINE + "\nb = job('b', runs_on='x', steps=[build])")
    stale = kici("compile", "--check")
    assert stale.exit_code == 1
    assert "error[E701]: the lock file is out of date: ci (changed)" in stale.stderr


def test_errors_leave_the_previous_lock_file(repository: Repository) -> None:
    repository.workflow(FINE)
    kici("compile")
    before = (repository.kici_dir / "kici.lock.json").read_bytes()
    repository.workflow(FAILS)

    failed = kici("compile")

    assert (failed.exit_code, failed.stdout) == (1, "")
    assert ".kici/workflows/ci.py:12:5: error[E101]: job 'a' needs 'b'" in failed.stderr
    assert failed.stderr.endswith("✗ 1 error\n")
    assert "Traceback" not in failed.stderr
    assert (repository.kici_dir / "kici.lock.json").read_bytes() == before


def test_warnings_pass_unless_strict(repository: Repository) -> None:
    repository.workflow(WARNS)

    strict = kici("compile", "--strict")
    assert (strict.exit_code, (repository.kici_dir / "kici.lock.json").exists()) == (1, False)
    assert strict.stderr.endswith("✗ 1 warning\n")

    relaxed = kici("compile")
    assert relaxed.exit_code == 0
    assert "warning[W401]" in relaxed.stderr


def test_notes_are_never_fatal(repository: Repository) -> None:
    """AU-81, AU-91: W403 tells a fact; `--strict` stays of use to scheduled workflows."""
    triggers = "generic_webhook(source='s'), kici_event('x'), schedule(cron='0 4 * * *'), lifecycle(events='job_failed')"
    repository.workflow(
        f'ci = workflow("ci", on=[{triggers}], jobs=[job("a", runs_on="linux", steps=[build])])'
    )

    strict = kici("compile", "--strict")

    assert strict.exit_code == 0
    assert strict.stderr.count("note[W403]") == 4
    annotated = kici("compile", "--strict", "--format", "github")
    assert "::notice file=.kici/workflows/ci.py,line=12" in annotated.stdout
    told = json.loads(kici("compile", "--strict", "--json").stdout)
    assert told["ok"] is True
    assert {problem["severity"] for problem in told["problems"]} == {"note"}


def test_verbose_lists_what_was_compiled(repository: Repository) -> None:
    """AU-95: a line per workflow, and what went into them."""
    repository.workflow(FINE)
    lines = kici("compile", "--verbose").stdout.splitlines()
    assert lines[0] == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow)"
    assert lines[1].startswith("  ci  1 jobs, 1 steps; push; .kici/workflows/ci.py:13; ")
    assert lines[2] == "  1 source files, Python >=3.11, dependencies none"


@pytest.mark.parametrize("flag", [["--json"], ["--format", "json"]])
def test_json_is_one_document(repository: Repository, flag: list[str]) -> None:
    repository.workflow(FAILS + "\nprint('noise')")

    failed = kici("compile", *flag)

    document = json.loads(failed.stdout)
    assert failed.exit_code == 1
    assert (document["ok"], document["changed"], document["contentHash"]) == (False, False, None)
    (problem,) = document["problems"]
    assert (problem["code"], problem["file"], problem["line"]) == ("E101", ".kici/workflows/ci.py", 12)
    assert failed.stderr == "noise\n"

    repository.workflow(FINE)
    document = json.loads(kici("compile", *flag).stdout)
    assert (document["ok"], document["changed"], document["workflows"]) == (True, True, ["ci"])


def test_github_annotations(repository: Repository) -> None:
    repository.workflow(FAILS)

    failed = kici("compile", "--format", "github")

    assert failed.stdout.startswith(
        "::error file=.kici/workflows/ci.py,line=12,col=5,title=E101::job 'a' needs"
    )


def test_the_folder_is_found_upwards_or_given(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    repository.workflow(FINE)
    deep = repository.root / "src/deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert kici("compile").exit_code == 0

    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    nothing = kici("compile")
    assert nothing.exit_code == 1
    assert (
        "error[E001]: .kici/workflows: No such file or directory\n  help: run `kici init`" in nothing.stderr
    )
    assert kici("compile", "--kici-dir", str(repository.kici_dir)).exit_code == 0
    wrong = kici("compile", "--kici-dir", str(repository.root))
    assert wrong.exit_code == 2
    assert "not a folder named .kici" in wrong.stderr


def test_init_then_compile(repository: Repository) -> None:
    git(repository.root, "init", "-q", "-b", "trunk")
    repository.write({"/.gitignore": "*.log"})

    done = kici("init")

    assert done.exit_code == 0
    assert "The workflows start on the branch trunk" in done.stdout
    assert 'branches="trunk"' in (repository.kici_dir / "workflows/hello_world.py").read_text()
    assert 'target="trunk"' in (repository.kici_dir / "workflows/pr_checks.py").read_text()
    assert (repository.root / ".gitignore").read_text().splitlines()[:2] == ["*.log", ".kici/.venv/"]
    strict = kici("compile", "--strict")
    assert (strict.exit_code, strict.stderr) == (0, "")
    assert [workflow.name for workflow in repository.lock().workflows] == ["hello-world", "pr-checks"]


def test_init_keeps_what_is_there(repository: Repository) -> None:
    repository.write({"workflows/hello_world.py": "mine"})

    kept = kici("init", "--template", "hello_world", "--no-agents-md")
    assert kept.exit_code == 0
    assert (repository.kici_dir / "workflows/hello_world.py").read_text() == "mine"
    assert not (repository.kici_dir / "workflows/pr_checks.py").exists()
    assert not (repository.kici_dir / "AGENTS.md").exists()
    assert (repository.root / ".gitignore").read_text().splitlines() == [
        ".kici/.venv/",
        ".kici/.secrets",
        ".kici/.env.local",
        ".kici/secrets.toml",
        "__pycache__/",
    ]

    replaced = kici("init", "--template", "hello_world", "--force")
    assert "replaced .kici/workflows/hello_world.py" in replaced.stdout
    assert "kept     .gitignore" in replaced.stdout
    unknown = kici("init", "--template", "helo_world")
    assert (unknown.exit_code, "templates: hello_world, pr_checks, python_package" in unknown.stderr) == (
        2,
        True,
    )


def test_init_takes_the_default_branch_of_the_remote(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    git(repository.root, "init", "-q", "-b", "release")
    git(repository.root, *identity, "commit", "-q", "--allow-empty", "-m", "first")
    clone = tmp_path_factory.mktemp("clone")
    git(clone, "clone", "-q", str(repository.root), "here")
    git(clone / "here", "checkout", "-q", "-b", "feature")
    monkeypatch.chdir(clone / "here")

    assert "start on the branch release" in kici("init").stdout


def test_examples_of_agents_md_compile(repository: Repository) -> None:
    kici("init", "--template", "hello_world")
    text = (repository.kici_dir / "AGENTS.md").read_text()
    repository.write({"workflows/hello_world.py": text.partition("```python\n")[2].partition("```")[0]})

    compiled = repository.compile()

    assert [problem.text() for problem in compiled.problems] == []


@pytest.mark.parametrize("code", sorted(explanations()))
def test_every_code_is_explained(code: str) -> None:
    explained = kici("explain", code.lower())

    assert explained.exit_code == 0
    assert explained.stdout.startswith(f"{code}: ")
    assert "\nRemedy: " in explained.stdout


def test_unknown_codes() -> None:
    unknown = kici("explain", "E1011")

    assert unknown.exit_code == 2
    assert "error: E1011 is no code of the compiler; did you mean E111?" in unknown.stderr


def test_commands_start_without_servers_and_compilers() -> None:
    code = "import sys; import kici.cli.author; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    heavy = {
        "msgspec",
        "re2",
        "sqlalchemy",
        "litestar",
        "kici.compiler",
        "kici.sdk",
        "kici.runtime",
        "pydantic",
        "asyncio",
    }
    assert heavy & set(done.stdout.split()) == set()
