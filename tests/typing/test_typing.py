"""What authors write is checked as their editor would: basedpyright and mypy, both strict (AU-5).

Files in `positive` hold no error and pin inferred types with `assert_type`. In `misuse` each line with
`# error: pyright=RULE mypy=RULE` must be refused with that rule, and no other line may be.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = re.compile(r"# error: pyright=(?P<pyright>\w+) mypy=(?P<mypy>[\w-]+)")
CHECKERS = ("pyright", "mypy")


class Finding(NamedTuple):
    file: str  # "misuse/steps_and_jobs.py"
    line: int
    rule: str
    message: str


def run_pyright(config: Path) -> list[Finding]:
    config.write_text(
        json.dumps(
            {
                "include": [str(HERE / "positive"), str(HERE / "misuse")],
                "typeCheckingMode": "strict",
                "pythonVersion": "3.11",
                "reportUnusedExpression": False,
            }
        )
    )
    arguments = ["-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(sources("positive"))) + len(
        list(sources("misuse"))
    )
    return [
        Finding(
            relative(entry["file"]), entry["range"]["start"]["line"] + 1, entry["rule"], entry["message"]
        )
        for entry in report["generalDiagnostics"]
        if entry["severity"] == "error"
    ]


def run_mypy() -> list[Finding]:
    options = ["--strict", "--no-error-summary", "--output=json"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(HERE / "positive"), str(HERE / "misuse")],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode in {0, 1}, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        Finding(relative(str(ROOT / entry["file"])), entry["line"], entry["code"], entry["message"])
        for entry in entries
        if entry["severity"] == "error"
    ]


def relative(file: str) -> str:
    return Path(file).relative_to(HERE).as_posix()


def sources(folder: str) -> Iterable[Path]:
    return sorted((HERE / folder).glob("*.py"))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Finding]]:
    return {
        "pyright": run_pyright(tmp_path_factory.mktemp("typing") / "pyrightconfig.json"),
        "mypy": run_mypy(),
    }


@pytest.mark.parametrize("checker", CHECKERS)
def test_correct_workflows_are_accepted_and_inferred(
    findings: dict[str, list[Finding]], checker: str
) -> None:
    assert [found for found in findings[checker] if found.file.startswith("positive/")] == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_misuse_is_refused_where_it_stands(findings: dict[str, list[Finding]], checker: str) -> None:
    expected = {
        (relative(str(path)), number, mark[checker])
        for path in sources("misuse")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (mark := MARK.search(line))
    }
    found = [entry for entry in findings[checker] if entry.file.startswith("misuse/")]
    marked_lines = {(file, line) for file, line, _rule in expected}

    assert len(expected) > 40
    assert expected - {(entry.file, entry.line, entry.rule) for entry in found} == set()
    assert [entry for entry in found if (entry.file, entry.line) not in marked_lines] == []
