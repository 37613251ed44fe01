"""`.kici/pyproject.toml` and the environment it stands for: checked, synced, found."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, cast

from kici.compiler.content import lockfile_hash
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec.errors import KiciError

DEFAULT_REQUIRES_PYTHON = ">=3.11"
_SHOWN = ".kici/pyproject.toml"
_STAMP = "kici-synced"  # holds the lockfile hash that the environment was made from
_SYNC_LIMIT_S = 600
_REQUIREMENT = re.compile(r"kici(?:\[[^\]]*\])?\s*([<>=!~][^;]*)?(?:;.*)?")
_CLAUSE = re.compile(r"(===|==|!=|<=|>=|~=|<|>)\s*v?(\d+(?:\.\d+)*)(\.\*)?.*")


class SyncFailed(KiciError):
    """The package manager refused; its own words are in the message."""

    code: ClassVar[str] = "dependency_sync_failed"


class Project:
    """What `.kici/pyproject.toml` says; nothing when it is absent."""

    def __init__(self, kici_dir: Path) -> None:
        self._kici_dir = kici_dir
        self._problems: list[Problem] = []
        self._table: dict[str, Any] = {}
        try:
            self._table = tomllib.loads((kici_dir / "pyproject.toml").read_text("utf-8"))
        except FileNotFoundError:
            pass
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as wrong:
            self._problems.append(_problem("E002", f"syntax error: {wrong}", ""))

    @property
    def requires_python(self) -> str:
        return str(self._project().get("requires-python") or DEFAULT_REQUIRES_PYTHON)

    def check(self, sdk_version: str) -> Iterator[Problem]:
        yield from self._problems
        for requirement in cast("list[object]", self._project().get("dependencies") or []):
            match = _REQUIREMENT.fullmatch(str(requirement).strip())
            if match and match[1] and not _satisfies(sdk_version, match[1]):
                yield _problem(
                    "E006",
                    f"kici {sdk_version} is outside the declared range {match[1].strip()!r}",
                    "install a matching kici, or change the range",
                )
        yield from self._paths_outside()

    def _project(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._table.get("project") or {})

    def _paths_outside(self) -> Iterator[Problem]:
        sources = (self._table.get("tool") or {}).get("uv", {}).get("sources", {})
        root = self._kici_dir.parent.resolve()
        for name, entry in sources.items():
            for source in cast("list[Any]", entry if isinstance(entry, list) else [entry]):
                path = source.get("path") if isinstance(source, dict) else None
                if path is not None and not (self._kici_dir / str(path)).resolve().is_relative_to(root):
                    yield _problem(
                        "E007",
                        f"dependency {name!r} is at {path!r}, outside the repository",
                        "agents see the repository only: move it inside, or publish it",
                    )


def python_of(kici_dir: Path) -> str | None:
    """The interpreter of the workflows' own environment, None without one."""
    python = kici_dir / ".venv/bin/python"
    return str(python) if python.exists() else None


def needs_sync(kici_dir: Path) -> bool:
    """Whether the dependency lock changed since the environment was made."""
    wanted = lockfile_hash(kici_dir.parent)
    if wanted is None:
        return False
    try:
        return (kici_dir / ".venv" / _STAMP).read_text("utf-8") != wanted
    except FileNotFoundError:
        return True


def sync(kici_dir: Path) -> None:
    """Make `.kici/.venv` what the dependency lock says (AU-96), as agents do: from within `.kici`, which paths
    in it are relative to. Raises SyncFailed."""
    kici_dir = kici_dir.resolve()
    if (kici_dir / "uv.lock").exists() or not (kici_dir / "requirements.txt").exists():
        uv = shutil.which("uv") or _next_to_python("uv")
        if uv is None:
            raise SyncFailed("uv is not installed; install it, or pass --no-sync")
        # Of a workspace's member uv would otherwise put the environment beside the workspace's root.
        place = {"UV_PROJECT_ENVIRONMENT": str(kici_dir / ".venv")}
        _run([uv, "sync", "--frozen", "--quiet", "--project", str(kici_dir)], kici_dir, place)
    else:
        _run([sys.executable, "-m", "venv", str(kici_dir / ".venv")], kici_dir)
        requirements = [
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "-r",
            str(kici_dir / "requirements.txt"),
        ]
        _run([str(kici_dir / ".venv/bin/python"), "-m", "pip", *requirements], kici_dir)
    (kici_dir / ".venv" / _STAMP).write_text(lockfile_hash(kici_dir.parent) or "", "utf-8")


def _next_to_python(name: str) -> str | None:
    path = os.path.join(os.path.dirname(sys.executable), name)
    return path if os.access(path, os.X_OK) else None


def _run(command: list[str], folder: Path, more: Mapping[str, str] = MappingProxyType({})) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SYNC_LIMIT_S,
            env={**environment, **more},
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise SyncFailed(f"{' '.join(command)}: {failed}") from failed
    if done.returncode:
        raise SyncFailed(f"{' '.join(command)} exited with {done.returncode}\n{done.stderr.strip()}")


def _problem(code: str, message: str, help: str) -> Problem:
    return Problem(code=code, message=message, help=help, source=SourceLocation(file=_SHOWN, line=1))


def _satisfies(version: str, specifier: str) -> bool:
    """Release numbers only; a version or clause that is not understood passes, the package manager decides."""
    have = _release(version)
    return have is None or all(_clause(have, text.strip()) for text in specifier.split(",") if text.strip())


def _clause(have: tuple[int, ...], text: str) -> bool:
    match = _CLAUSE.fullmatch(text)
    if match is None:
        return True
    parts = tuple(int(part) for part in match[2].split("."))
    size = max(len(have), len(parts))
    a, b = have + (0,) * (size - len(have)), parts + (0,) * (size - len(parts))
    same = a[: len(parts)] == parts if match[3] else a == b
    match match[1]:
        case "==" | "===":
            return same
        case "!=":
            return not same
        case "<=":
            return a <= b
        case ">=":
            return a >= b
        case "<":
            return a < b
        case ">":
            return a > b
        case _:  # ~=: at least this, same prefix
            return a >= b and a[: len(parts) - 1] == parts[:-1]


def _release(version: str) -> tuple[int, ...] | None:
    match = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else None
