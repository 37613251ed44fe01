"""Whether the kernel killed something for want of memory."""


def oom_kills() -> int:
    """Kills so far: in this process's memory cgroup when it has its own count, else on the machine."""
    for path, word in _counters():
        try:
            with open(path, "rb", buffering=0) as file:
                for line in file.read().splitlines():
                    name, _, count = line.partition(b" ")
                    if name == word:
                        return int(count)
        except OSError:
            continue
    return 0


def _counters() -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            for line in file:
                _number, controllers, path = line.strip().split(":", 2)
                if "memory" in controllers.split(","):
                    found.append((f"/sys/fs/cgroup/memory{path}/memory.oom_control", b"oom_kill"))
                elif not controllers:
                    found.append((f"/sys/fs/cgroup{path}/memory.events", b"oom_kill"))
    except (OSError, ValueError):
        pass
    return [*found, ("/proc/vmstat", b"oom_kill")]
