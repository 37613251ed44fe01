"""Blocking twins are generated from `Context` and stay equal to it (AU-13)."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from kici import Context, SyncContext, step
from kici.sdk import blocking, context, services, sync_context

ROOT = Path(__file__).parents[3]


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generator", ROOT / "scripts" / "gen_sync_context.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_file_is_what_the_script_writes() -> None:
    """AU-13: generated from Context and held equal."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", "sync_context.py", "-"]
    formatted = subprocess.run(
        command, input=generator().generate(), capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    committed = Path(sync_context.__file__).read_text()

    assert ast.dump(ast.parse(formatted)) == ast.dump(ast.parse(committed))


def members(protocol: type) -> set[str]:
    return {name for base in protocol.__mro__ for name in vars(base) if not name.startswith("_")}


def test_every_member_has_its_twin_and_no_twin_is_a_coroutine() -> None:
    """AU-13"""
    assert members(SyncContext) == members(Context)
    for _, name, twin in generator().TWINS:
        original = getattr(context, name, None) or getattr(services, name)
        assert members(getattr(sync_context, twin)) == members(original)
    assert "Coroutine" not in Path(sync_context.__file__).read_text()


def test_parts_with_coroutines_are_wrapped_too() -> None:
    """AU-13: every attribute of Context whose type has a twin is a part that `blocking` wraps."""
    tree = ast.parse(Path(sync_context.__file__).read_text())
    parts = {
        entry.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        for entry in node.body
        if isinstance(entry, ast.FunctionDef)
        and isinstance(entry.returns, ast.Name)
        and entry.returns.id.startswith("Sync")
    }

    assert parts <= blocking._PARTS


def test_who_asks_for_a_blocking_context() -> None:
    """AU-13"""

    @step
    def wants(ctx: SyncContext) -> None: ...

    @step
    def quoted(ctx: "SyncContext") -> None: ...

    @step
    def ordinary(ctx: Context) -> None: ...

    class Holder:
        def method(self, ctx: SyncContext) -> None: ...

    assert [blocking.wants_blocking(found.fn) for found in (wants, quoted, ordinary)] == [True, True, False]
    assert blocking.wants_blocking(Holder().method) is True
    assert blocking.wants_blocking(lambda: None) is False
    assert blocking.wants_blocking(5) is False
