"""What an init comes to, by its options and what lies in the repository (AU-57)."""

import sys
from pathlib import Path

import pytest

from kici.runner.presets import plan_of, script
from kici.sdk.definitions import Cache, CacheKey, Init, Preset


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (["mise.toml", ".tool-versions", "uv.lock"], "found mise.toml"),
        ([".mise.toml", "uv.lock"], "found .mise.toml"),
        ([".tool-versions", "uv.lock"], "found .tool-versions"),
        (["uv.lock"], "found uv.lock"),
        (["pyproject.toml"], "nothing to do"),
    ],
)
def test_auto_takes_the_first_that_it_knows(tmp_path: Path, files: list[str], found: str) -> None:
    """AU-57."""
    for name in files:
        (tmp_path / name).touch()
    plan = plan_of(Preset(name="auto"), {}, str(tmp_path))
    assert found in plan.notes[0]
    assert bool(plan.commands) is (found != "nothing to do")


def test_mise_is_keyed_by_its_committed_files(tmp_path: Path) -> None:
    """AU-57: the cache key derives from the committed configuration."""
    for name in (".mise.toml", ".tool-versions", "mise.lock"):
        (tmp_path / name).touch()
    cache = plan_of(Preset(name="mise"), {}, str(tmp_path)).cache
    assert cache is not None
    assert isinstance(cache.key, CacheKey)
    assert cache.key.files == (".mise.toml", ".tool-versions", "mise.lock")
    assert list(cache.restore_keys) == ["-".join(["mise", *cache.key.parts]) + "-"]


def test_uv_takes_its_options(tmp_path: Path) -> None:
    """AU-57: python version and groups; an own cache, none, and none where uv keeps its files elsewhere."""
    (tmp_path / "uv.lock").touch()
    plan = plan_of(
        Preset(name="uv", python="3.12", groups=("dev", "docs")), {}, str(tmp_path), sys.executable
    )
    assert plan.commands == [
        [sys.executable, "sync", "--frozen", "--python", "3.12", "--group", "dev", "--group", "docs"]
    ]
    assert plan.exports == {"VIRTUAL_ENV": f"{tmp_path}/.venv"}
    own = Cache(key="mine", paths=["~/x"])
    here = str(tmp_path)
    assert plan_of(Preset(name="uv", cache=own), {}, here, sys.executable).cache is own
    assert plan_of(Preset(name="uv", cache=False), {}, here, sys.executable).cache is None
    assert plan_of(Preset(name="uv"), {"UV_CACHE_DIR": "/x"}, here, sys.executable).cache is None


def test_uv_is_found_on_path_before_the_hosts_own(tmp_path: Path) -> None:
    """AU-57: and where there is none, the row says so."""
    own = tmp_path / "bin" / "uv"
    own.parent.mkdir()
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    path = {"PATH": str(own.parent)}
    assert plan_of(Preset(name="uv"), path, str(tmp_path), sys.executable).commands == [[str(own), "sync"]]
    for program in (None, str(tmp_path / "away")):
        (command,) = plan_of(Preset(name="uv"), {"PATH": "/nowhere"}, str(tmp_path), program).commands
        assert "uv is not installed on this agent" in command[-1]


@pytest.mark.parametrize(
    ("shell", "argv"),
    [
        ("bash", ["bash", "-euo", "pipefail", "-c", "x"]),
        ("sh", ["sh", "-eu", "-c", "x"]),
        ("python3 -u", ["python3", "-u", "-c", "x"]),
    ],
)
def test_shells(tmp_path: Path, shell: str, argv: list[str]) -> None:
    assert script(shell, "x") == argv
    assert plan_of(Init(run="x", shell=shell), {}, str(tmp_path)).commands == [argv]
