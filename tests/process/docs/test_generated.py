"""Pages made from the code, and bundles for models (AU-146)."""

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

import kici
import kici.testing
from kici.cli.docs import MAX_BUNDLE_BYTES
from kici.cli.main import app
from kici.compiler.codes import explanations
from kici.engine.capabilities import missing
from kici.spec.lock import LockFile
from tests.process.docs.pages import DOCS, ROOT, TEMPLATES
from tests.process.docs.test_snippets import anchors

pytestmark = pytest.mark.process

BUNDLES = ("getting-started", "sdk", "cli", "patterns", "features", "providers", "architecture")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """scripts/gen_docs.py as a module."""
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "scripts" / "gen_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_its_entry(generator: ModuleType) -> None:
    """AU-5, AU-7: with a signature or fields, and an example."""
    page = generator.sdk()
    for name in (*kici.__all__, *kici.testing.__all__):
        assert f"### `{name}`\n" in page
    assert ">>>" not in page


def test_links_inside_the_generated_pages_lead_somewhere() -> None:
    for page in (DOCS / "reference" / name for name in ("sdk.md", "errors.md", "cli.md")):
        own = anchors(page)
        numbered = {re.sub(r"-\d+$", "", anchor) for anchor in own}
        for target in re.findall(r"\]\(#([^)]+)\)", page.read_text("utf-8")):
            assert target in own or re.sub(r"-\d+$", "", target) in numbered, f"{page.name}: #{target}"


def test_every_code_has_its_anchor(generator: ModuleType) -> None:
    """AU-90: cause, example and remedy of each code stand on one page."""
    page = generator.errors()
    for code, told in explanations().items():
        assert f"\n### {code}\n" in page
        assert told.remedy in page


def test_every_command_has_its_entry(generator: ModuleType) -> None:
    """AU-136."""
    page = generator.cli()
    for command in (
        "kici run local",
        "kici compile",
        "kici runs watch",
        "kici docs llm",
        "kici-admin trust add",
    ):
        assert f"### `{command}`\n" in page
    assert "| 130 | Ctrl-C |" in page
    assert "--install-completion" not in page.partition("## Write workflows")[2]


def test_what_would_be_left_out_stops_the_generator(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AU-146: a page in no bundle, a variable that nobody reads."""
    made = {"how-to/nobody-lists-this.md": "# New\n"}
    with pytest.raises(generator.Incomplete, match="nobody-lists-this"):
        generator.bundles(made)
    words: Any = sys.modules["docs_words"]
    monkeypatch.setitem(words.VARIABLES, "KICI_NOBODY", ("", ""))
    with pytest.raises(generator.Incomplete, match="KICI_NOBODY"):
        generator.cli()


@pytest.mark.parametrize("topic", [None, *BUNDLES, "full"])
def test_bundles_are_printed_without_a_network(topic: str | None) -> None:
    """AU-146: an index, and bundles that fit."""
    shown = CliRunner().invoke(app, ["docs", "llm", *([topic] if topic else [])])
    assert shown.exit_code == 0
    if topic is None:
        assert all(f"- [{name}](https://" in shown.stdout for name in (*BUNDLES, "full"))
        return
    if topic != "full":
        assert len(shown.stdout.encode()) <= MAX_BUNDLE_BYTES
    # Links work wherever the text is read; nothing is left of notes to people who edit.
    assert not re.findall(r"\]\((?!https?:|#|mailto:)[^)\s]+\)", shown.stdout)
    assert "<!-- session" not in shown.stdout
    assert "```console run" not in shown.stdout


def test_an_unknown_bundle_is_refused_with_the_names() -> None:
    """AU-136: 2."""
    shown = CliRunner().invoke(app, ["docs", "llm", "nothing"])
    assert shown.exit_code == 2
    assert "patterns" in shown.output


def test_agents_md_says_what_it_must() -> None:
    """AU-146: where the types are, five patterns, anti-patterns, the loop."""
    text = (TEMPLATES / "AGENTS.md").read_text("utf-8")
    for number in range(1, 6):
        assert f"# {number}. " in text
    for word in ("YAML", "at import", "`await`", "E603", "kici.lock.json", "kici docs llm"):
        assert word in text
    order = [text.rindex(command) for command in ("compile --check", "kici preview", "kici run local")]
    assert order == sorted(order)


def test_what_servers_lack_is_what_the_page_says(tmp_path: Path) -> None:
    """A workflow that uses everything is refused for exactly the options of the table, and AU-142."""
    workflows = tmp_path / ".kici" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "all.py").write_text(
        "from kici import *\n"
        "@step\nasync def run(ctx: Context) -> None: ...\n"
        "one = job('one', runs_on='a', environment='e', container='i', approval=True, steps=[run])\n"
        "two = job('two', runs_on_all='a', steps=[run])\n"
        "everything = workflow('all', on=push(repos='a'), jobs=[one, two], approval=True, install_env=['e:s'],\n"
        "    registries=[Registry(url='https://pypi.example.com/simple', token_secret='e:s')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "kici.cli.main", "compile", "--no-sync"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lockfile = msgspec.json.decode((tmp_path / ".kici" / "kici.lock.json").read_bytes(), type=LockFile)
    lacking = {option.partition(" ")[0] for option in missing(lockfile.workflows[0])}
    page = (DOCS / "explanation" / "local-and-server.md").read_text("utf-8")
    table = page.partition("## What servers")[2]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == lacking


def test_a_wheel_carries_the_documentation(tmp_path: Path) -> None:
    """AU-146: `kici docs llm` of an installation needs no checkout."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=110,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "installed")
    assert "kici/docs/llm/llms.txt" in names
    assert "kici/docs/tutorials/first-pipeline.md" in names
    done = subprocess.run(
        [sys.executable, "-c", "from kici.cli.docs import read; print(read('patterns'))"],
        env={"PYTHONPATH": str(tmp_path / "installed"), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("# KiCI for Python")
