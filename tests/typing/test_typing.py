"""What authors write is checked as their editor would: basedpyright and mypy, both strict (AU-5).

Files in `positive` hold no error and pin inferred types with `assert_type`. In `misuse` each line with
`# error: pyright=RULE mypy=RULE` must be refused with that rule, and no other line may be. The examples in
docstrings of public names are checked too, and those that only define something are run (AU-7).
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from doctest import DocTestParser
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

import kici
import kici.testing

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MARK = re.compile(r"# error: pyright=(?P<pyright>\w+) mypy=(?P<mypy>[\w-]+)")
CHECKERS = ("pyright", "mypy")
PYRIGHT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    # The style of examples, not their types.
    "reportUnusedExpression": False,
    "reportUnusedImport": False,
    "reportUnusedVariable": False,
    "reportUnusedFunction": False,
    "reportUnusedClass": False,
}
# What docstring examples may refer to.
PRELUDE = f"""
from typing import Annotated, Literal

from kici import {", ".join(kici.__all__)}
from kici.testing import FakeContext, FakeRuleContext

@step
async def build(ctx: Context) -> str:
    return ""

@step
async def lint(ctx: Context) -> None: ...

@step
async def test(ctx: Context) -> None: ...

@step
async def ship(ctx: Context) -> None: ...

@step
async def scan(ctx: Context, *, target: str) -> None: ...

@job(runs_on="linux")
async def deploy(ctx: Context) -> None: ...

def note(ctx: HookContext) -> None: ...

def remove_lock(ctx: Context) -> None: ...

async def read_drift() -> str | None:
    return None

async def write_file(drift: str) -> int:
    return 1

async def probe(url: str) -> int | None:
    return None

package = job("package", runs_on="linux", steps=[build])

@dynamic_jobs()
def reports(g: GenerateContext) -> list[MultiJob]:
    return []
"""


class Finding(NamedTuple):
    file: str  # "misuse/steps_and_jobs.py"
    line: int
    rule: str
    message: str


def sources(folder: str) -> Iterable[Path]:
    return sorted((HERE / folder).glob("*.py"))


def docstring_examples() -> dict[str, str]:
    """The example of each public name, as lines of code."""
    parser = DocTestParser()
    public = {name: getattr(kici, name) for name in kici.__all__}
    public |= {name: getattr(kici.testing, name) for name in ("FakeContext", "FakeRuleContext")}
    return {
        name: "".join(example.source for example in parser.get_examples(found.__doc__ or ""))
        for name, found in public.items()
    }


def run_pyright(folder: Path, files: list[Path]) -> list[Finding]:
    config = folder / "pyrightconfig.json"
    config.write_text(json.dumps({"include": [str(path) for path in files], **PYRIGHT}))
    arguments = ["-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    report = json.loads(checked([sys.executable, "-m", "basedpyright", *arguments]))
    assert report["summary"]["filesAnalyzed"] == len(files)
    return [
        Finding(shown(entry["file"]), entry["range"]["start"]["line"] + 1, entry["rule"], entry["message"])
        for entry in report["generalDiagnostics"]
        if entry["severity"] == "error"
    ]


def run_mypy(files: list[Path]) -> list[Finding]:
    options = ["--strict", "--no-error-summary", "--output=json"]
    output = checked([sys.executable, "-m", "mypy", *options, *(str(path) for path in files)])
    entries = [json.loads(line) for line in output.splitlines()]
    return [
        Finding(shown(str(ROOT / entry["file"])), entry["line"], entry["code"], entry["message"])
        for entry in entries
        if entry["severity"] == "error"
    ]


def checked(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def shown(file: str) -> str:
    path = Path(file)
    return path.relative_to(HERE).as_posix() if path.is_relative_to(HERE) else path.name


def own_nodes(code: str) -> Iterable[ast.AST]:
    """Everything outside of functions that the code defines."""
    stack: list[ast.AST] = [ast.parse(code)]
    while stack:
        node = stack.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            stack.extend(ast.iter_child_nodes(node))


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Finding]]:
    folder = tmp_path_factory.mktemp("typing")
    generated = folder / "docstrings.py"
    functions = [
        f"async def example_of_{name}(ctx: Context) -> None:\n{indent(code, '    ')}"
        for name, code in docstring_examples().items()
    ]
    generated.write_text(PRELUDE + "\n".join(functions))
    files = [*sources("positive"), *sources("misuse"), generated]
    return {"pyright": run_pyright(folder, files), "mypy": run_mypy(files)}


@pytest.mark.parametrize("checker", CHECKERS)
def test_correct_workflows_are_accepted_and_inferred(
    findings: dict[str, list[Finding]], checker: str
) -> None:
    assert [found for found in findings[checker] if not found.file.startswith("misuse/")] == []


@pytest.mark.parametrize("checker", CHECKERS)
def test_misuse_is_refused_where_it_stands(findings: dict[str, list[Finding]], checker: str) -> None:
    expected = {
        (shown(str(path)), number, mark[checker])
        for path in sources("misuse")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if (mark := MARK.search(line))
    }
    found = [entry for entry in findings[checker] if entry.file.startswith("misuse/")]
    marked_lines = {(file, line) for file, line, _rule in expected}

    assert len(expected) > 150
    assert expected - {(entry.file, entry.line, entry.rule) for entry in found} == set()
    assert [entry for entry in found if (entry.file, entry.line) not in marked_lines] == []


def test_every_public_name_has_an_example_and_definitions_run() -> None:
    examples = docstring_examples()

    assert [name for name, code in examples.items() if not code] == []
    ran = 0
    for code in examples.values():
        needs_a_step = any(isinstance(node, ast.Name) and node.id == "ctx" for node in own_nodes(code))
        if not needs_a_step:
            namespace: dict[str, object] = {}
            exec(PRELUDE + code, namespace)
            ran += 1
    assert ran > 60
