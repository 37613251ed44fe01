"""Reads options that steps, jobs and workflows share: rules, caches, approvals, containers, resources, init."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from msgspec import structs

from kici.sdk.definitions import Rule
from kici.sdk.errors import DefinitionError
from kici.sdk.options import Options
from kici.sdk.problems import collect
from kici.sdk.rules import PendingRule
from kici.sdk.settings import (
    Amount,
    Approval,
    Approver,
    Cache,
    CacheKey,
    Container,
    Init,
    Preset,
    Resources,
)

ApprovalLike: TypeAlias = Literal[True] | Sequence[Approver] | Approval | Mapping[str, Any] | None
CacheLike: TypeAlias = Cache | Mapping[str, Any] | Sequence[Cache | Mapping[str, Any]]
InitEntry: TypeAlias = Init | Preset | Mapping[str, Any]
InitLike: TypeAlias = Literal["auto", "mise", "uv", False] | InitEntry | Sequence[InitEntry]
ResourcesLike: TypeAlias = Resources | Mapping[str, Any]
ContainerLike: TypeAlias = str | Container | Mapping[str, Any]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)([kmgt]?)b?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_CPUS = 256
_PRESETS = ("auto", "mise", "uv")


def rules(given: Options) -> tuple[Rule, ...]:
    kept: list[Rule] = []
    for entry in given.sequence("rules", given.given.get("rules", ())):
        if isinstance(entry, Rule):
            kept.append(entry)
        elif isinstance(entry, PendingRule):
            given.report(
                "E119", f"rule {entry.label!r} has no check", "pass a function: rule('label', check)"
            )
        else:
            given.report(
                "E119",
                f"`rules` holds {type(entry).__name__}",
                "wrap the function: rule('label', check) or skip('label', check)",
            )
    return tuple(kept)


def caches(given: Options, name: str = "cache") -> tuple[Cache, ...]:
    value = given.given.get(name)
    if value is None:
        return ()
    entries = (value,) if isinstance(value, Cache | Mapping) else given.sequence(name, value)
    checked = [cache(given, entry, name) for entry in entries]
    return tuple(found for found in checked if found is not None)


def cache(given: Options, value: object, name: str) -> Cache | None:
    found = given.struct(name, Cache, value)
    if found is None:
        return None
    key: object = found.key
    if isinstance(key, Mapping):
        key = given.struct(f"{name}.key", CacheKey, cast("Mapping[str, Any]", key))
    if not isinstance(key, str | CacheKey) or not (key if isinstance(key, str) else key.prefix):
        given.report(
            "E307", f"`{name}`: the key is empty", "write text, or cache_key('prefix', files=[...])"
        )
        key = "empty"
    paths = given.sequence(f"{name}.paths", found.paths)
    if not paths and _is_listed(found.paths):
        given.report("E307", f"`{name}`: no paths", "list what to keep: paths=['~/.cache/uv']")
    files = key.files if isinstance(key, CacheKey) else ()
    for path in (*paths, *files):
        reason = _bad_path(path)
        if reason or (path in files and path.startswith("~")):
            given.report(
                "E307",
                f"`{name}`: {path!r} {reason or 'is outside the repository'}",
                "use paths below the repository or, for `paths`, below ~",
            )
    restore = given.sequence(f"{name}.restore_keys", found.restore_keys)
    if not all(isinstance(entry, str) and entry for entry in restore):
        given.report("E307", f"`{name}`: a restore key is empty", "each one is the beginning of a key")
    return Cache(key=key, paths=paths, restore_keys=restore)


def given_cache(spec: object) -> Cache:
    """The cache that `ctx.cache` was asked for: itself, or a mapping with the same keys. Raises DefinitionError."""
    if isinstance(spec, Cache):
        return spec
    with collect() as problems:
        found = cache(Options("ctx.cache", {}, ()), spec, "cache")
    if problems or found is None:
        raise DefinitionError(structs.replace(problems[0], source=None))
    return found


def _is_listed(value: object) -> bool:
    """Whether `Options.sequence` had nothing to say about it."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _bad_path(path: object) -> str:
    if not isinstance(path, str) or not path:
        return "is empty" if path == "" else "is no text"
    if path.startswith("/"):
        return "is absolute"
    if ".." in path.split("/"):
        return "leaves its folder"
    return ""


def approval(given: Options, *, has_check: bool | None = None) -> Approval | None:
    """`has_check` None: not a step, where approval of drift means nothing (E304, E305)."""
    value = given.given.get("approval")
    if value is None:
        return None
    if value is True:
        return Approval()
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = Approval(approvers=cast("Sequence[Approver]", value))
    found = given.struct("approval", Approval, value)
    if found is None:
        return None
    approvers: list[Approver] = []
    for entry in given.sequence("approval.approvers", found.approvers):
        clause = given.struct("approval", Approver, entry)
        if clause is None:
            continue
        if bool(clause.team) == bool(clause.user):
            given.report(
                "E119", "`approval`: an approver is a team or a user", "write team('sre') or user('ada')"
            )
        else:
            approvers.append(clause)
    if found.timeout is not None:
        Options(
            given.subject, {"approval.timeout": found.timeout}, ("approval.timeout",), given.source
        ).duration("approval.timeout")
    if found.when not in {"always", "drift"}:
        given.report("E119", f"`approval`: unknown `when` {found.when!r}", "always or drift")
    elif found.when == "drift" and has_check is None:
        given.report(
            "E304", "`approval` of drift belongs to a step", "move it to the step that has `check`"
        )
    elif found.when == "drift" and not has_check:
        given.report(
            "E305", "`approval` of drift, but the step has no `check`", "add check=, or drop when='drift'"
        )
    return structs.replace(found, approvers=tuple(approvers))


def container(given: Options) -> Container | None:
    value = given.given.get("container")
    if value is None:
        return None
    if isinstance(value, str):
        value = Container(image=value)
    found = given.struct("container", Container, value)
    if found is None:
        return None
    if not isinstance(cast("object", found.image), str) or not found.image.strip():
        given.report("E119", "`container` has no image", "write container='python:3.12-slim'")
        return None
    return Container(image=found.image, env=variables(given, "container.env", found.env))


def variables(given: Options, name: str, value: object) -> Mapping[str, str]:
    """Names and texts of environment variables (E310)."""
    if not isinstance(value, Mapping):
        given.wrong_type(name, "a mapping of names to text", value)
        return {}
    clean: dict[str, str] = {}
    for variable, text in cast("Mapping[object, object]", value).items():
        if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
            given.report(
                "E310", f"{variable!r} is no name for a variable", "letters, digits and _, no digit first"
            )
        elif variable.startswith("KICI_"):
            given.report(
                "E310", f"variable {variable!r} starts with `KICI_`", "that prefix is ours; take another"
            )
        elif not isinstance(text, str) or "\0" in text:
            given.report(
                "E119", f"variable {variable!r} is text, not {type(text).__name__}", f"write str({text!r})"
            )
        else:
            clean[variable] = text
    return clean


def resources(given: Options) -> Resources | None:
    """With memory in bytes; each side filled from the other (AU-56)."""
    value = given.given.get("resources")
    if value is None:
        return None
    if isinstance(value, Mapping) and not {"requests", "limits"} & cast("Mapping[str, Any]", value).keys():
        value = {"requests": value}  # the other side mirrors it
    found = given.struct("resources", Resources, value)
    if found is None:
        return None
    requests = _amount(given, "requests", found.requests)
    limits = _amount(given, "limits", found.limits)
    if requests is None and limits is None:
        given.report("E206", "`resources` says nothing", "write resources={'memory': '2g', 'cpus': 1}")
        return None
    requests, limits = _mirrored(requests, limits), _mirrored(limits, requests)
    for what, least, most in (
        ("memory", requests.memory, limits.memory),
        ("cpus", requests.cpus, limits.cpus),
    ):
        if least is not None and most is not None and cast("float", least) > cast("float", most):
            given.report(
                "E206", f"`resources` requests more {what} than its limit", "request at most the limit"
            )
    return Resources(requests=requests, limits=limits)


def _mirrored(own: Amount | None, other: Amount | None) -> Amount:
    own, other = own or Amount(), other or Amount()
    return Amount(
        memory=other.memory if own.memory is None else own.memory,
        cpus=other.cpus if own.cpus is None else own.cpus,
    )


def _amount(given: Options, side: str, value: object) -> Amount | None:
    if value is None:
        return None
    found = given.struct(f"resources.{side}", Amount, value)
    if found is None:
        return None
    memory: int | None = None
    if found.memory is not None:
        memory = memory_bytes(found.memory)
        if memory is None:
            given.report(
                "E206", f"`resources`: {found.memory!r} is no amount of memory", "write 512m, 4g or 2048k"
            )
    cpus = cast("object", found.cpus)
    if cpus is not None and (
        isinstance(cpus, bool)
        or not isinstance(cpus, int | float)
        or not math.isfinite(cpus)
        or not 0 < cpus <= _MAX_CPUS
    ):
        given.report(
            "E206", f"`resources`: {cpus!r} is no number of CPUs", f"more than 0, at most {_MAX_CPUS}"
        )
        cpus = None
    return Amount(memory=memory, cpus=cast("float | None", cpus))


def memory_bytes(value: object) -> int | None:
    """Bytes of `512m`, `4g`, `2048k` or a number; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if value > 0 else None
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    amount = int(float(match[1]) * _BYTES[match[2].lower()]) if match else 0
    return amount if amount > 0 else None


def init(given: Options) -> tuple[tuple[Init | Preset, ...], bool]:
    """The entries in order, and whether `False` was written (AU-57)."""
    value = given.given.get("init")
    if value is None or value is False:
        return (), value is False
    lone = isinstance(value, str | Init | Preset | Mapping)
    entries = (value,) if lone else given.sequence("init", value)
    kept: list[Init | Preset] = []
    for number, entry in enumerate(entries):
        if isinstance(entry, str):
            if entry in _PRESETS:
                kept.append(Preset(name=entry))
            else:
                given.report(
                    "E119",
                    f"`init`: unknown preset {entry!r}",
                    f"one of {', '.join(_PRESETS)}, or Init(run=...)",
                )
            continue
        if isinstance(entry, Preset):
            kept.append(entry)
            continue
        found = given.struct("init", Init, entry)
        if found is None:
            continue
        if not isinstance(cast("object", found.run), str) or not found.run.strip():
            given.report("E308", f"`init[{number}].run` is empty", "write the script, or remove the entry")
            continue
        if given.as_duration("init.timeout", found.timeout) == 0:
            given.report("E309", "`init.timeout` must be more than zero")
        kept.append(
            structs.replace(
                found,
                cache=None if found.cache is None else cache(given, found.cache, "init.cache"),
                env=variables(given, "init.env", found.env),
            )
        )
    return tuple(kept), False
