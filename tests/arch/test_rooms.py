"""What may load what, seen from fresh interpreters, and rules that no linter knows."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "kici").rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in `sys.modules` after a statement, in an interpreter of its own."""
    program = f"import sys, json\n{statement}\nprint(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_importing_the_sdk_loads_no_server_and_nothing_but_msgspec():
    """AU-6: the SDK depends on nothing but msgspec."""
    plain = loaded_by("import msgspec")
    extra = loaded_by("import kici") - plain
    third_party = {
        name for name in extra if name not in sys.stdlib_module_names and not name.startswith("_")
    }
    assert third_party <= {"kici"}


def test_the_agent_never_loads_sql():
    loaded = loaded_by("import kici.agent.app")
    assert not loaded & {"sqlalchemy", "asyncpg", "alembic"}


def test_help_loads_neither_servers_nor_sql():
    loaded = loaded_by("import kici.cli.main")
    assert not loaded & {"sqlalchemy", "litestar", "uvicorn", "httpx"}


def test_only_task_groups_start_tasks():
    """A bare create_task loses its exception and outlives its owner. The runner may: it makes one task per
    author function, in a context of its own, and awaits it on the spot."""
    guilty = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in SOURCES
        if path.parent.name != "runner"
        for line in path.read_text().splitlines()
        if re.search(r"(get_running_loop\(\)|loop|asyncio)\.create_task\(|ensure_future\(", line)
    ]
    assert guilty == []


def test_settings_are_read_in_one_place_per_process():
    allowed = {"cli", "compiler", "runner"}  # programs that people and authors start
    guilty = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.relative_to(ROOT / "src" / "kici").parts[0] not in allowed
        and path.name not in {"app.py", "cli.py"}
        and re.search(r"os\.(environ|getenv)", path.read_text())
    ]
    assert guilty == []


@pytest.mark.parametrize("page", ["conformance.md", "settings.md", "protocol.md"])
def test_generated_reference_pages_are_up_to_date(page: str):
    """The conformance table lists exactly the requirement ids that tests quote."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import gen_reference  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    committed = (ROOT / "docs" / "reference" / page).read_text(encoding="utf-8")
    assert gen_reference.PAGES[page]() == committed, "run `make gen` and commit"
