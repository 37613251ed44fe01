"""Whether the kernel killed something for want of memory."""

from msgspec import Struct


class OomKills(Struct, frozen=True, kw_only=True):
    """Counts so far: of this process's memory cgroup, and of the whole machine."""

    own: int
    machine: int

    def since(self) -> str | None:
        """What happened after this count was taken, in words; None when nothing did."""
        now = oom_kills()
        if now.own > self.own:
            return "out of memory"
        return "probably out of memory" if now.machine > self.machine else None


def oom_kills() -> OomKills:
    return OomKills(
        own=max((_count(path) for path in _own_counters()), default=0), machine=_count("/proc/vmstat")
    )


def _count(path: str) -> int:
    try:
        with open(path, "rb", buffering=0) as file:
            for line in file.read().splitlines():
                name, _, count = line.partition(b" ")
                if name == b"oom_kill":
                    return int(count)
    except OSError:
        pass
    return 0


def _own_counters() -> list[str]:
    """For both versions of control groups."""
    found: list[str] = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            for line in file:
                _number, controllers, path = line.strip().split(":", 2)
                if "memory" in controllers.split(","):
                    found.append(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
                elif not controllers:
                    found.append(f"/sys/fs/cgroup{path}/memory.events")
    except (OSError, ValueError):
        pass
    return found
