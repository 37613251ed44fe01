"""What every command of `kici` has in common (AU-135, AU-136): help with an example, `--json` where the table
says so, exit codes, errors without traceback, and a start that loads no server and no network code."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from typer.testing import CliRunner

from kici.cli.main import COMMANDS, app

pytestmark = pytest.mark.process

# The table of AU-136. True: it has --json.
TABLE = {
    "init": False,
    "compile": True,
    "explain": False,
    "run local": True,
    "run remote": True,
    "preview": True,
    "fixture": False,
    "types": False,
    "hook install": False,
    "endpoints": True,
    "login": False,
    "logout": False,
    "whoami": True,
    "org list": True,
    "org use": True,
    "org current": True,
    "orchestrators list": True,
    "orchestrators use": True,
    "runs list": True,
    "runs show": True,
    "runs logs": True,
    "runs watch": True,
    "runs rerun": True,
    "runs cancel": False,
    "approve": False,
    "reject": False,
    "secrets list": True,
    "pat create": True,
    "workflows list": True,
    "diagnostics": True,
    "verify-attestation": True,
    "docs": False,
    "docs llm": False,
    "doctor": True,
    "version": True,
    "admin drain-worker": False,
}
HEAVY = {
    "httpx",
    "sqlalchemy",
    "litestar",
    "asyncpg",
    "kici.orchestrator",
    "kici.platform",
    "kici.compiler.pipeline",
}


def leaves() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    group: Any = typer.main.get_command(app)
    context = click.Context(group)
    waiting = [(name, group.get_command(context, name)) for name in COMMANDS]
    while waiting:
        name, command = waiting.pop()
        children: dict[str, Any] = getattr(command, "commands", {})
        if not children or getattr(command, "invoke_without_command", False):
            yield name, command
        waiting += [(f"{name} {child}", inner) for child, inner in children.items()]


ALL = dict(leaves())


def test_every_command_of_the_table_exists() -> None:
    """AU-136."""
    assert set(TABLE) <= set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_help_has_an_example_of_itself(name: str) -> None:
    """AU-135."""
    shown = CliRunner().invoke(app, [*name.split(), "--help"])
    assert shown.exit_code == 0, shown.output
    assert f"Example: kici {name}" in " ".join(shown.output.split())


@pytest.mark.parametrize("name", sorted(name for name, wanted in TABLE.items() if wanted))
def test_commands_marked_so_print_json(name: str) -> None:
    """AU-135: J."""
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert "--json" in options


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_loads_neither_network_nor_server_code(name: str) -> None:
    """AU-135: `--help` answers at once, because it loads nothing that it does not need."""
    code = (
        "import sys\nfrom kici.cli.main import app\n"
        f"try:\n    app([{name!r}, '--help'], prog_name='kici')\nexcept SystemExit: pass\n"
        "print('LOADED', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = set(done.stdout.split("LOADED", 1)[1].split())
    assert not loaded & HEAVY


def test_a_wrong_word_is_a_usage_error() -> None:
    """AU-136: 2."""
    assert CliRunner().invoke(app, ["compil"]).exit_code == 2
    assert CliRunner().invoke(app, ["runs", "list", "--page", "zero"]).exit_code == 2
    unknown = CliRunner().invoke(app, ["workflows", "list", "--trigger-type", "pull"])
    assert unknown.exit_code == 2
    assert "it is one of push, tag, pr," in unknown.stderr


def kici(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kici.cli.main", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=cwd,
        env={
            **os.environ,
            "KICI_CONFIG_DIR": str(cwd / "config"),
            "HOME": str(cwd),
            "NO_COLOR": "1",
            **env,
        },
    )


def test_an_unreachable_server_is_exit_5_and_one_line(tmp_path: Path) -> None:
    """AU-135, AU-136: what, why and the next command on stderr; no traceback, nothing on stdout."""
    done = kici(
        "runs", "list", cwd=tmp_path, KICI_PLATFORM_URL="http://127.0.0.1:9", KICI_TOKEN="kici_pat_x"
    )
    assert done.returncode == 5
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    """AU-135: KICI_DEBUG."""
    done = kici(
        "runs",
        "list",
        cwd=tmp_path,
        KICI_PLATFORM_URL="http://127.0.0.1:9",
        KICI_TOKEN="kici_pat_x",
        KICI_DEBUG="true",
    )
    assert "Traceback" in done.stderr


def test_without_a_server_one_is_told_how_to_get_one(tmp_path: Path) -> None:
    """AU-136: 4."""
    done = kici("runs", "list", cwd=tmp_path, XDG_DATA_HOME=str(tmp_path / "data"), KICI_DATA_DIR="")
    if done.returncode == 0:  # a `kici up` runs on this machine
        pytest.skip("a local KiCI runs here")
    assert done.returncode in {4, 5}
    assert "kici up" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str, tmp_path: Path) -> None:
    """AU-135: a script for each shell, and words for what was typed so far."""
    script = kici("--show-completion", shell, cwd=tmp_path)
    assert script.returncode == 0, script.stderr
    assert "kici" in script.stdout
    typed = {"COMP_WORDS": "kici run", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "kici run"}
    typed["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    words = kici(cwd=tmp_path, _KICI_COMPLETE=f"complete_{shell}", **typed)
    assert "run" in words.stdout
    assert "runs" in words.stdout


def test_version_of_a_wheel_is_what_its_installation_says(tmp_path: Path) -> None:
    """AU-103: `kici version --of` hashes a wheel from the index."""
    import zipfile

    import kici as package

    root = Path(package.__path__[0])
    wheel = tmp_path / "kici-9.9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(root.rglob("*.py")):
            archive.write(path, f"kici/{path.relative_to(root).as_posix()}")
    mine = json.loads(kici("version", "--json", cwd=tmp_path).stdout)
    theirs = json.loads(kici("version", "--of", str(wheel), "--json", cwd=tmp_path).stdout)
    assert theirs["version"] == "9.9.9"
    for field in ("sdkBundleHash", "sharedBundleHash", "engineBundleHash"):
        assert theirs[field] == mine[field] != "unknown"
    assert kici("version", "--of", str(tmp_path / "none.whl"), cwd=tmp_path).returncode == 2
