import os
import signal
import subprocess
from collections.abc import Generator

import pytest

from kici.runner import processes


@pytest.fixture
def family() -> Generator[tuple[int, int]]:
    """(a shell, its only child)"""
    shell = subprocess.Popen(
        ["bash", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
    )
    assert shell.stdout is not None
    with shell:
        yield shell.pid, int(shell.stdout.readline())
        processes.send_signal([*processes.descendants_of(shell.pid), shell.pid], signal.SIGKILL)


def test_a_tree_parents_first(family: tuple[int, int]) -> None:
    shell, child = family
    assert processes.children_of(shell) == [child]
    assert shell in processes.children_of(os.getpid())
    everything = processes.descendants_of(os.getpid())
    assert everything.index(shell) < everything.index(child)
    assert child not in processes.descendants_of(os.getpid(), without={shell})
    assert processes.parent_of(child) == shell
    assert processes._children_by_scan(shell) == [child]


def test_signals_pass_over_the_dead(family: tuple[int, int]) -> None:
    shell, child = family
    assert processes.is_running(child)
    processes.send_signal([child, 2**22 - 1], signal.SIGKILL)
    os.waitid(os.P_PID, shell, os.WEXITED | os.WNOWAIT)
    assert not processes.is_running(child)
    assert not processes.is_running(shell)  # a zombie by now
    assert processes.children_of(2**22 - 1) == []
    assert processes.parent_of(2**22 - 1) is None


def test_the_environment_a_process_was_started_with() -> None:
    shell = subprocess.Popen(
        ["bash", "-c", "echo; read x"], env={"MARK": "a=b"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert shell.stdout is not None
    with shell:
        shell.stdout.readline()
        assert processes.has_in_environment(shell.pid, b"MARK=a=b")
        assert not processes.has_in_environment(shell.pid, b"MARK=a")
    assert not processes.has_in_environment(2**22 - 1, b"MARK=a")
