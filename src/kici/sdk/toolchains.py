"""Presets that prepare a toolchain, cache keys, and the people of an approval."""

from collections.abc import Mapping, Sequence
from typing import Any

from kici.sdk.options import Options
from kici.sdk.readers import cache as read_cache
from kici.sdk.readers import variables
from kici.sdk.settings import Approver, Cache, CacheKey, Preset
from kici.sdk.source import caller
from kici.sdk.values import Duration


def mise(
    *,
    cache: Cache | bool = True,
    timeout: Duration = "10m",
    env: Mapping[str, str] | None = None,
    shell: str = "bash",
) -> Preset:
    """Tools of `mise.toml`, `.mise.toml` or `.tool-versions`, ready on PATH for every step.

    >>> checks = job("checks", runs_on="kici:os:linux", init=mise(timeout="5m"), steps=[lint])
    """
    given = Options("mise()", {"timeout": timeout}, ("timeout",), caller())
    return Preset(
        name="mise",
        cache=_cache(given, cache),
        timeout=timeout if given.duration("timeout") else "10m",
        env=variables(given, "env", env or {}),
        shell=shell,
    )


def uv(
    *,
    python: str | None = None,
    groups: Sequence[str] = (),
    cache: Cache | bool = True,
    timeout: Duration = "10m",
) -> Preset:
    """The project's environment by `uv sync`, with its `.venv` on PATH.

    >>> tests = job("tests", runs_on="kici:os:linux", init=uv(python="3.12", groups=["dev"]), steps=[test])
    """
    given = Options("uv()", {"timeout": timeout}, ("timeout",), caller())
    if python is not None and not isinstance(python, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        given.wrong_type("python", "a version such as '3.12'", python)
        python = None
    names = given.sequence("groups", groups)
    return Preset(
        name="uv",
        cache=_cache(given, cache),
        timeout=timeout if given.duration("timeout") else "10m",
        python=python,
        groups=tuple(str(name) for name in names),
    )


def _cache(given: Options, value: Any) -> Cache | bool:
    if isinstance(value, bool):
        return value
    return read_cache(given, value, "cache") or True


def cache_key(prefix: str, /, *parts: str, files: Sequence[str] = ()) -> CacheKey:
    """A key that ends in a digest of files, worked out on the agent after the clone.

    >>> wheels = Cache(key=cache_key("uv", "3.12", files=["uv.lock"]), paths=["~/.cache/uv"])
    """
    given = Options("cache_key()", {}, (), caller())
    if not isinstance(prefix, str) or not prefix:  # pyright: ignore[reportUnnecessaryIsInstance]
        given.report("E307", "the prefix is empty", "write cache_key('uv', files=['uv.lock'])")
        prefix = "cache"
    return CacheKey(
        prefix=prefix, parts=tuple(str(part) for part in parts), files=given.sequence("files", files)
    )


def team(name: str, /) -> Approver:
    """Anybody of a team may approve.

    >>> release = job("release", runs_on="kici:os:linux", approval=[team("sre")], steps=[ship])
    """
    return Approver(team=_name("team", name))


def user(name: str, /) -> Approver:
    """This person may approve.

    >>> release = job("release", runs_on="kici:os:linux", approval=[user("ada"), team("sre")], steps=[ship])
    """
    return Approver(user=_name("user", name))


def _name(what: str, name: object) -> str:
    if isinstance(name, str) and name.strip():
        return name
    Options(f"{what}()", {}, (), caller()).report("E119", "the name is empty", f"write {what}('name')")
    return "?"
