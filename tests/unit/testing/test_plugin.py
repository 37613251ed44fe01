"""The pytest plug-in, as pytest finds it in an author's environment (AU-122)."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]

AUTHORS_TEST = """
from kici import Context, step

@step
async def build(ctx: Context) -> str:
    (ctx.workspace / "made").write_text("x")
    return (await ctx.sh("git describe")).text

def test_build(kici_ctx, tmp_path):
    import asyncio
    kici_ctx.answer("git *", "v1\\n")
    assert asyncio.run(build(kici_ctx)) == "v1"
    assert (tmp_path / "workspace" / "made").exists()
    assert [command.text for command in kici_ctx.commands] == ["git describe"]
"""


def test_pytest_finds_the_fixture_by_its_entry_point(tmp_path: Path) -> None:
    """AU-122: with pytest in the author's own environment, and no warnings."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    metadata = tmp_path / "site" / "fresh-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: fresh\nVersion: 1\n")
    lines = "".join(f"{name} = {target}\n" for name, target in declared.items())
    (metadata / "entry_points.txt").write_text(f"[pytest11]\n{lines}")
    (tmp_path / "test_it.py").write_text(AUTHORS_TEST)

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:asyncio", "test_it.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT / 'src'}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert "warning" not in done.stdout


def test_the_plug_in_itself_is_light() -> None:
    """AU-122: it is imported by every run of pytest in an environment that has kici."""
    code = "import pytest, sys; import kici.testing.plugin; print(*[n for n in sys.modules if n.startswith('kici')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "kici.sdk" not in loaded.stdout.split()
