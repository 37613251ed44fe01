"""What pages show is true: Python is typed and compiles, commands exist, executed blocks print what they show (AU-7)."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from kici.cli.admin.main import app as admin_app
from kici.cli.main import app
from tests.process.docs.pages import (
    GENERATED,
    ROOT,
    TEMPLATES,
    Block,
    Tree,
    blocks,
    commands,
    kici_calls,
    overwrites,
    pages,
    session,
)
from tests.process.docs.replay import differences, is_executed, needed_stack, replay

pytestmark = pytest.mark.process

PAGES = pages()
EXECUTED = [page for page in PAGES if is_executed(page) and "stack" not in session(page)]
ON_A_STACK = [page for page in PAGES if is_executed(page) and "stack" in session(page)]
STRICT = {
    "typeCheckingMode": "strict",
    "pythonVersion": "3.11",
    "venvPath": str(ROOT),
    "venv": ".venv",
    "reportMissingTypeStubs": False,
    # Workflows are found by their names; nothing in the file uses them.
    "reportUnusedVariable": False,
}
ROOTS: dict[str, Any] = {"kici": app, "kici-admin": admin_app}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def states(page: Path) -> Iterator[dict[str, str]]:
    """The files of the page's repository before anything in it is written anew, and at the end."""
    tree = Tree()
    for block in blocks(page):
        if overwrites(tree, block):
            yield dict(tree.files)
        tree.add(block)
    yield tree.files


def test_python_is_typed_strictly(tmp_path: Path) -> None:
    """AU-7: all blocks of all pages and all templates, in one call of the checker."""
    roots: list[str] = []
    for page in PAGES:
        for number, files in enumerate(states(page)):
            root = f"{name_of(page).replace('/', '-')}-{number}"
            written = {file: text for file, text in files.items() if file.endswith(".py")}
            for file, text in written.items():
                path = (
                    tmp_path / root / file.replace(".kici/", "dot-kici/")
                )  # the checker skips folders with a dot
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            if written:
                roots.append(root)
    for template in TEMPLATES.glob("*.py"):
        path = tmp_path / "templates" / template.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(template.read_text())
    roots.append("templates")
    environments = [{"root": root, "extraPaths": [f"{root}/dot-kici", root]} for root in roots]
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({**STRICT, "include": roots, "executionEnvironments": environments})
    )
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--project", str(tmp_path), "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    report = json.loads(done.stdout)
    found = [
        f"{Path(each['file']).relative_to(tmp_path)}:{each['range']['start']['line'] + 1} {each['message']}"
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    ]
    assert found == []
    assert report["summary"]["filesAnalyzed"] > 30


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles(page: Path) -> None:
    """AU-7: also with the warnings that the compiler gives for doubtful code."""
    for files in states(page):
        for file, text in files.items():
            if file.endswith(".py"):
                compile(text, f"{name_of(page)}: {file}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist(page: Path) -> None:
    """AU-7: every `kici …` in a console block is one that the program accepts, options and all."""
    for block in blocks(page):
        if block.language != "console":
            continue
        for command in commands(block):
            for call in kici_calls(command.text):
                parse(call, block)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path) -> None:
    """AU-7: the same for `kici …` between backticks, where capitals stand for anything."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`((?:kici|kici-admin) [^`]+)`", text):
        for call in kici_calls(quoted):
            command, rest = find(call)
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            for word in rest:
                assert not word.startswith("--") or word.partition("=")[0] in known, f"{page}: `{quoted}`"


def find(call: list[str]) -> tuple[Any, list[str]]:
    """The command that the first words name, and the words after them."""
    command: Any = typer.main.get_command(ROOTS[call[0]])
    rest = call[1:]
    while rest and isinstance(command, TyperGroup) and not rest[0].startswith("-"):
        inner = command.get_command(command.context_class(command), rest[0])
        if inner is None and command.invoke_without_command:
            break
        assert inner is not None, f"{' '.join(call)}: no command {rest[0]!r}"
        command, rest = inner, rest[1:]
    return command, rest


def parse(call: list[str], block: Block) -> None:
    command, rest = find(call)
    try:
        command.make_context(call[0], [*rest])
    except Exception as wrong:  # typer brings classes of its own
        if type(wrong).__name__ != "Exit":  # --help
            pytest.fail(f"{block.place}: `{' '.join(call)}`: {wrong}")


@pytest.mark.timeout(300)
def test_executed_blocks_print_what_they_show(tmp_path: Path) -> None:
    """AU-7: each page in a repository of its own, through `kici` itself."""

    def play(page: Path) -> list[str]:
        folder = tmp_path / name_of(page).replace("/", "-")
        folder.mkdir()
        return [wrong for block, real in replay(page, folder) if (wrong := differences(block, real))]

    with ThreadPoolExecutor(2) as pool:
        wrong = [text for found in pool.map(play, EXECUTED) for text in found]
    assert wrong == [], "\n\n".join(wrong)
    assert len(EXECUTED) >= 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", ON_A_STACK, ids=name_of)
def test_pages_with_a_server_print_what_they_show(page: Path, tmp_path: Path) -> None:
    """AU-7, AU-129: against a whole KiCI."""
    with needed_stack(page) as stack:
        wrong = [
            text for block, real in replay(page, tmp_path, stack) if (text := differences(block, real))
        ]
    assert wrong == [], "\n\n".join(wrong)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """AU-146: files and headings of this repository."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:", "mailto:")):
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{name_of(page)}: {target}"


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings, and those that are written out."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def test_every_how_to_page_shows_something_that_was_executed() -> None:
    """AU-7: one page, one tried example."""
    found = {page.stem for page in PAGES if page.parent.name == "how-to" and is_executed(page)}
    written = {path.stem for path in (ROOT / "docs" / "how-to").glob("*.md")}
    assert written - found == {"operate"}


def test_generated_pages_are_left_to_the_generator() -> None:
    assert not [page for page in PAGES if name_of(page).startswith(GENERATED)]
