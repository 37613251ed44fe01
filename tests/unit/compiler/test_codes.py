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


BY_REPOSITORY: dict[str, Callable[[Repository], list[Problem]]] = {
    "E001": nothing_there,
    "E005": endless_import,
    "E006": other_kici_wanted,
    "E007": dependency_outside,
    "E701": stale_lock,
    "E702": newer_lock,
    "E703": too_many_workflows,
}


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_causes_its_code_and_no_other_error(tmp_path: Path, code: str) -> None:
    problems = Repository(tmp_path).workflow(EXAMPLES[code]).compile().problems

    assert code in {problem.code for problem in problems}
    assert {problem.code for problem in problems if problem.severity == "error"} <= {code}
    (first, *_) = [problem for problem in problems if problem.code == code]
    assert first.severity == ("error" if code.startswith("E") else "warning")
    assert first.source is not None
    assert first.source.file == ".kici/workflows/ci.py"


@pytest.mark.parametrize("code", BY_REPOSITORY)
def test_repository_causes_its_code_and_no_other_error(tmp_path: Path, code: str) -> None:
    problems = BY_REPOSITORY[code](Repository(tmp_path))

    assert [problem.code for problem in problems if problem.severity == "error"] == [code]


def test_every_code_in_use_is_explained_and_tried() -> None:
    sources = [
        path.read_text()
        for package in (kici.sdk, kici.compiler)
        for path in Path(package.__path__[0]).rglob("*.py")
    ]
    used = set(re.findall(r'"([EW]\d{3})"', "\n".join(sources)))

    assert used == set(explanations())
    assert set(EXAMPLES) | set(BY_REPOSITORY) == set(explanations())
    assert not set(EXAMPLES) & set(BY_REPOSITORY)
