"""What this host is, said at registration and in job contexts; labels by the rules of AG-28…30."""

import getpass
import os
import platform
import socket
import sys
from typing import ClassVar

from msgspec import Struct

from kici.spec.errors import KiciError

RESERVED = "kici:"
_ARCH = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64", "arm64": "arm64"}


class ReservedLabels(KiciError):
    code: ClassVar[str] = "reserved_labels"


class HostFacts(Struct, frozen=True, kw_only=True):
    platform: str  # linux, darwin
    arch: str  # x64, arm64, or the machine's own word
    hostname: str
    os_release: str
    python_version: str
    cpu_count: int
    total_memory_mb: int
    user: str
    uid: int


def host_facts() -> HostFacts:
    machine = platform.machine().lower()
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        user = str(os.getuid())
    return HostFacts(
        platform=sys.platform,
        arch=_ARCH.get(machine, machine),
        hostname=socket.gethostname(),
        os_release=f"{platform.system()} {platform.release()}",
        python_version=platform.python_version(),
        cpu_count=len(os.sched_getaffinity(0)),
        total_memory_mb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        user=user,
        uid=os.getuid(),
    )


def automatic_labels(facts: HostFacts) -> list[str]:
    """`kici:os:…`, `kici:arch:…` with its alias, `kici:host:…`."""
    labels = [f"kici:os:{facts.platform}", f"kici:arch:{facts.arch}", f"kici:host:{facts.hostname}"]
    if facts.platform == "darwin":
        labels.append("kici:os:macos")
    if facts.arch == "x64":
        labels.append("kici:arch:amd64")
    return labels


def all_labels(configured: str, facts: HostFacts) -> list[str]:
    """`KICI_LABELS` (comma list) with the automatic ones: lower case, unique, sorted.

    Raises ReservedLabels for labels that only KiCI may set.
    """
    own = [label.strip().lower() for label in configured.split(",") if label.strip()]
    reserved = [label for label in own if label.startswith(RESERVED)]
    if reserved:
        raise ReservedLabels(
            f"KICI_LABELS: {', '.join(reserved)}: the prefix {RESERVED!r} is reserved; remove "
            f"{'it' if len(reserved) == 1 else 'them'}"
        )
    return sorted({*own, *(label.lower() for label in automatic_labels(facts))})


def parse_properties(configured: str) -> dict[str, str | int | float | bool]:
    """`k=v,…`: true and false are booleans, numbers are numbers, the rest is text."""
    found: dict[str, str | int | float | bool] = {}
    for part in configured.split(","):
        name, _, value = part.partition("=")
        if name.strip():
            found[name.strip()] = _typed(value.strip())
    return found


def _typed(value: str) -> str | int | float | bool:
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def memory_used_mb() -> int:
    """Memory of the host that is in use."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            rows = dict(line.split(":", 1) for line in file)
        return (int(rows["MemTotal"].split()[0]) - int(rows["MemAvailable"].split()[0])) >> 10
    except (OSError, KeyError, ValueError):
        return 0
