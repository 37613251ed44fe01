"""What an init does: the author's script, or the commands of a toolchain that it names (AU-57)."""

import os
import platform
import shlex
import shutil
from collections.abc import Mapping

from msgspec import Struct

from kici.sdk.definitions import Cache, CacheKey, Init, Preset

_MISE_FILES = ("mise.toml", ".mise.toml", ".tool-versions")
_MISE_LOCK = "mise.lock"


class Plan(Struct, kw_only=True):
    """`commands` run one after the other; `exports` and `paths` are for what comes after."""

    commands: list[list[str]] = []
    notes: list[str] = []
    exports: dict[str, str] = {}
    paths: list[str] = []
    cache: Cache | None = None


def plan_of(entry: Init | Preset, env: Mapping[str, str], workspace: str, uv: str | None = None) -> Plan:
    """Looks at the workspace, changes nothing. `uv`: the host's, where PATH has none."""
    if isinstance(entry, Init):
        return Plan(commands=[script(entry.shell, entry.run)], cache=entry.cache)
    match entry.name:
        case "mise":
            return _mise(entry, workspace)
        case "uv":
            return _uv(entry, env, workspace, uv)
        case "auto":
            return _auto(entry, env, workspace, uv)


def script(shell: str, text: str) -> list[str]:
    """bash as for steps, sh as strict as it can be, any other program with `-c`."""
    words = shlex.split(shell)
    match words:
        case ["bash"]:
            return ["bash", "-euo", "pipefail", "-c", text]
        case ["sh"]:
            return ["sh", "-eu", "-c", text]
        case []:
            raise ValueError("the shell of an init must not be empty")
        case _:
            return [*words, "-c", text]


def _auto(entry: Preset, env: Mapping[str, str], workspace: str, uv: str | None) -> Plan:
    for name in _MISE_FILES:
        if os.path.exists(os.path.join(workspace, name)):
            plan = _mise(entry, workspace)
            plan.notes.insert(0, f"auto: found {name}, preparing its tools with mise")
            return plan
    if os.path.exists(os.path.join(workspace, "uv.lock")):
        plan = _uv(entry, env, workspace, uv)
        plan.notes.insert(0, "auto: found uv.lock, preparing its environment with uv")
        return plan
    return Plan(
        notes=[
            f"auto: none of {', '.join(_MISE_FILES)}, uv.lock is at the repository's root: nothing to do"
        ]
    )


def _mise(entry: Preset, workspace: str) -> Plan:
    """Install, then put the tools on PATH and take over the variables that the configuration sets."""
    files = tuple(
        name for name in (*_MISE_FILES, _MISE_LOCK) if os.path.exists(os.path.join(workspace, name))
    )
    text = (
        "command -v mise >/dev/null || { echo 'mise is not installed on this agent' >&2; exit 127; }\n"
        "mise trust --yes --quiet --all\n"
        "mise install --yes\n"
        'mise bin-paths >> "$KICI_PATH"\n'
        'mise env --dotenv 2>/dev/null | grep -v "^PATH=" >> "$KICI_ENV" || true\n'
    )
    key = CacheKey(prefix="mise", parts=_platform(), files=files)
    cache = _cache(entry, key, ["~/.local/share/mise"])
    return Plan(commands=[script(entry.shell, text)], cache=cache)


def _uv(entry: Preset, env: Mapping[str, str], workspace: str, uv: str | None) -> Plan:
    """`uv sync` of the repository's project; its environment goes first on PATH."""
    program = shutil.which("uv", path=env.get("PATH")) or uv
    if program is None or not os.access(program, os.X_OK):
        return Plan(commands=[script("sh", "echo 'uv is not installed on this agent' >&2; exit 127")])
    sync = [program, "sync"]
    if os.path.exists(os.path.join(workspace, "uv.lock")):
        sync.append("--frozen")
    if entry.python is not None:
        sync += ["--python", entry.python]
    for group in entry.groups:
        sync += ["--group", group]
    place = os.path.join(workspace, env.get("UV_PROJECT_ENVIRONMENT") or ".venv")
    version = entry.python or "default"
    key = CacheKey(prefix="uv", parts=(*_platform(), version), files=("uv.lock",))
    return Plan(
        commands=[sync],
        exports={"VIRTUAL_ENV": place},
        paths=[os.path.join(place, "bin")],
        cache=None if "UV_CACHE_DIR" in env else _cache(entry, key, ["~/.cache/uv"]),
    )


def _cache(entry: Preset, key: CacheKey, paths: list[str]) -> Cache | None:
    match entry.cache:
        case Cache() as own:
            return own
        case True:
            prefix = "-".join([key.prefix, *key.parts]) + "-"
            return Cache(key=key, paths=paths, restore_keys=[prefix])
        case _:
            return None


def _platform() -> tuple[str, str]:
    return platform.system().lower(), platform.machine()
