"""One case per code: the catalogue's own example where a file is enough, a repository otherwise (AU-90)."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import kici.compiler
import kici.sdk
from kici.compiler import lockfile
from kici.compiler.codes import explanations
from kici.compiler.pipeline import check_against_disk
from kici.sdk.problems import Problem
from tests.support.repository import Repository

FINE = 'a = job("a", runs_on="linux", steps=[build])'
EXAMPLES = {code: found.example for code, found in explanations().items() if found.example}


def nothing_there(repository: Repository) -> list[Problem]:
    return repository.write({"workflows/_helper.py": ""}).compile().problems


def endless_import(repository: Repository) -> list[Problem]:
    repository.write({"workflows/slow.py": "while True: pass"})
    return repository.compile(import_limit_s=0.5).problems


def other_kici_wanted(repository: Repository) -> list[Problem]:
    repository.write({"pyproject.toml": '[project]\nname = "x"\ndependencies = ["kici[all]>=0.2,<1"]'})
    return repository.workflow(FINE).compile().problems


def dependency_outside(repository: Repository) -> list[Problem]:
    repository.write(
        {"pyproject.toml": '[tool.uv.sources]\nlib = { path = "../../lib" }\nin = { path = "../lib" }'}
    )
    return repository.workflow(FINE).compile().problems


def stale_lock(repository: Repository) -> list[Problem]:
    compiled = repository.workflow(FINE).compile()
    stale = check_against_disk(repository.kici_dir, compiled)
    assert stale is not None
    return [stale]


def newer_lock(repository: Repository) -> list[Problem]:
    repository.write({"kici.lock.json": '{"schemaVersion": 99}'})
    return repository.workflow(FINE).compile().problems


def too_many_workflows(repository: Repository) -> list[Problem]:
    many = f"many = [workflow(f'w{{n}}', on=push(), jobs=[a]) for n in range({lockfile.MAX_WORKFLOWS + 1})]"
    return repository.workflow(f"{FINE}\n{many}").compile().problems


def double_fixture(repository: Repository) -> list[Problem]:
    one = "from kici import *\none = fixture('x', event=push())\n"
    repository.write({"tests/a.py": one, "tests/deep/b.py": one})
    return repository.workflow(FINE).compile().problems


def failing_fixture(repository: Repository) -> list[Problem]:
    repository.write(
        {"tests/a.py": "from kici import *\n@fixture('x')\nasync def x():\n    raise RuntimeError('no')\n"}
    )
    return repository.workflow(FINE).compile().problems


def unknown_secret(repository: Repository) -> list[Problem]:
    repository.write(
        {
            "types/kici_secrets.pyi": "from typing import Literal\n"
            "Staging = Literal['DB_URL', 'TOKEN']  # staging\nEnvironment = Literal['staging']\n"
        }
    )
    body = """
        @step
        async def use(ctx: Context) -> None:
            await ctx.secrets.get("TOKEN")
            await ctx.secrets.expose("DB_ULR")
        a = job("a", runs_on="linux", environment=["staging", "stagging"], steps=[use])
        """
    return repository.workflow(body).compile().problems


BY_REPOSITORY: dict[str, Callable[[Repository], list[Problem]]] = {
    "E001": nothing_there,
    "E005": endless_import,
    "E006": other_kici_wanted,
    "E007": dependency_outside,
    "E501": double_fixture,
    "E502": failing_fixture,
    "E701": stale_lock,
    "E702": newer_lock,
    "E703": too_many_workflows,
    "W303": unknown_secret,
}
NOTES = {"W403": "note"}


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_causes_its_code_and_no_other_error(tmp_path: Path, code: str) -> None:
    """AU-90, AU-91: the code, at the file that causes it."""
    problems = Repository(tmp_path).workflow(EXAMPLES[code]).compile().problems

    assert code in {problem.code for problem in problems}
    assert {problem.code for problem in problems if problem.severity == "error"} <= {code}
    (first, *_) = [problem for problem in problems if problem.code == code]
    assert first.severity == NOTES.get(code, "error" if code.startswith("E") else "warning")
    assert first.source is not None
    assert first.source.file == ".kici/workflows/ci.py"


@pytest.mark.parametrize("code", BY_REPOSITORY)
def test_repository_causes_its_code_and_no_other_error(tmp_path: Path, code: str) -> None:
    """AU-90, AU-91: codes that take more than one workflow file."""
    problems = BY_REPOSITORY[code](Repository(tmp_path))

    expected = [code] if code.startswith("E") else []
    assert [problem.code for problem in problems if problem.severity == "error"] == expected
    assert code in {problem.code for problem in problems}


def test_secrets_and_environments_are_known_by_their_type_stub(tmp_path: Path) -> None:
    """AU-90 (W303): each unknown name at its place, with the nearest one that exists; never a network call."""
    told = [problem.text() for problem in unknown_secret(Repository(tmp_path)) if problem.code == "W303"]
    stub = "is unknown to .kici/types/kici_secrets.pyi"
    assert "\n".join(told).splitlines() == [
        f".kici/workflows/ci.py:16:11: warning[W303]: secret 'DB_ULR' {stub}",
        "  help: did you mean 'DB_URL'?",
        f".kici/workflows/ci.py:17:5: warning[W303]: environment 'stagging' {stub}",
        "  help: did you mean 'staging'?",
    ]


def test_every_code_in_use_is_explained_and_tried() -> None:
    """AU-90: every code has a page of `kici explain` and a case above that provokes it."""
    sources = [
        path.read_text()
        for package in (kici.sdk, kici.compiler)
        for path in Path(package.__path__[0]).rglob("*.py")
    ]
    used = set(re.findall(r'"([EW]\d{3})"', "\n".join(sources)))

    assert used == set(explanations())
    assert set(EXAMPLES) | set(BY_REPOSITORY) == set(explanations())
    assert not set(EXAMPLES) & set(BY_REPOSITORY)
