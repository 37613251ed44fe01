"""What the kernel says about our processes: CPU time, resident memory, peaks."""

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[psutil.Process]:
    """A program and everything below it that is alive."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_ms(pid: int) -> float:
    """User and system time of a program with all its descendants, the ended ones included."""
    total = 0.0
    for member in family(pid):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total * 1000


def rss_mb(pid: int) -> float:
    """Proportional set size where the kernel tells it (shared pages counted once), else resident."""
    total = 0
    for member in family(pid):
        try:
            with open(f"/proc/{member.pid}/smaps_rollup", encoding="ascii") as file:
                total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total / 1_048_576


def reset_peaks(pids: Mapping[str, int]) -> None:
    for pid in pids.values():
        for member in family(pid):
            try:
                Path(f"/proc/{member.pid}/clear_refs").write_text("5")
            except OSError:
                continue


def peak_mb(pid: int) -> float:
    """The largest resident size of any one process of the family since `reset_peaks`."""
    largest = 0
    for member in family(pid):
        try:
            with open(f"/proc/{member.pid}/status", encoding="ascii") as file:
                largest = max(
                    largest, *(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
                )
        except (OSError, ValueError):
            continue
    return largest / 1024
