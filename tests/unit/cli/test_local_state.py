"""What local runs keep on this machine: caches, locks, history; and the lines that move."""

import asyncio
import io
import os
import time
from pathlib import Path

import pytest

from kici.cli.local import history
from kici.cli.local.cache import LocalCache, UnknownFile
from kici.cli.local.live import took
from kici.cli.local.locks import Group, kill_grace_ms, lock_folder
from kici.cli.local.results import JobReport, RunReport, StepReport
from kici.cli.local.screen import Screen
from kici.spec.errors import InvalidInput
from kici.spec.states import JobStatus, RunStatus, StepStatus


def put(cache: LocalCache, key: str, size: int, *, used_at_s: float) -> None:
    path = cache.begin(key)
    assert path is not None
    path.write_bytes(b"x" * size)
    os.utime(path, (used_at_s, used_at_s))
    cache.commit(key, str(path))


def test_a_cache_is_written_once_and_found_by_prefix(tmp_path: Path) -> None:
    """AU-58, AU-115, AG-78."""
    cache = LocalCache("team/project", base=tmp_path)
    assert cache.restore("deps-2", ["deps-"]) is None
    now = time.time()
    put(cache, "deps-1", 10, used_at_s=now - 20)
    put(cache, "deps-0", 10, used_at_s=now - 10)
    found = cache.restore("deps-2", ["none-", "deps-"])
    assert found is not None
    assert found[0] == "deps-0"  # the newest of those that begin so
    assert cache.restore("deps-1", []) is not None
    assert cache.begin("deps-1") is None
    one, two = cache.begin("both"), cache.begin("both")
    assert one is not None
    assert two is not None
    cache.commit("both", str(one))
    cache.commit("both", str(two))  # the first stays
    assert not two.exists()
    with pytest.raises(UnknownFile):
        cache.commit("other", "/etc/passwd")
    left = cache.begin("unfinished")
    cache.discard()
    assert left is not None
    assert not left.exists()
    assert LocalCache("team/other", base=tmp_path).restore("deps-1", ["deps-"]) is None


def test_the_longest_unused_entries_make_room(tmp_path: Path) -> None:
    """AU-115: the folder is bounded."""
    cache = LocalCache("team/project", base=tmp_path, quota_bytes=250)
    now = time.time()
    for number in range(3):
        put(cache, f"k{number}", 100, used_at_s=now - 100 + number)
    assert cache.restore("k0", []) is None
    assert cache.restore("k1", []) is not None  # and so used just now
    put(cache, "k3", 100, used_at_s=now)
    assert cache.restore("k2", []) is None
    assert cache.restore("k1", []) is not None
    put(cache, "huge", 1000, used_at_s=now + 10)
    assert cache.restore("huge", []) is not None  # the newest stays, however large


def test_places_of_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-116: who holds one says so in its file; scopes never meet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert lock_folder() == tmp_path / "kici-local-locks"
    group = Group("repo", "deploys", workflow="ci", places=2)
    one, two = group.try_place(), group.try_place()
    assert one is not None
    assert two is not None
    assert group.try_place() is None
    (first, _second) = group.holders()
    assert (first.pid, first.workflow, first.key, bool(first.host)) == (os.getpid(), "ci", "deploys", True)
    other = Group("elsewhere", "deploys", workflow="ci").try_place()
    assert other is not None
    one.release()
    again = group.try_place()
    assert again is not None
    for place in (two, other, again):
        place.release()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    assert str(os.getuid()) in lock_folder().name


def test_the_grace_of_a_superseded_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-116."""
    assert kill_grace_ms() == 30_000
    monkeypatch.setenv("KICI_LOCAL_LOCK_KILL_GRACE_MS", "500")
    assert kill_grace_ms() == 500
    monkeypatch.setenv("KICI_LOCAL_LOCK_KILL_GRACE_MS", "soon")
    with pytest.raises(InvalidInput, match="milliseconds"):
        kill_grace_ms()


def report(run_id: str) -> RunReport:
    step = StepReport(
        index=0, name="test", type="step", status=StepStatus.FAILED, duration_ms=65_000, exit_code=3,
        error_message="it broke", excerpt="one\ntwo", attempts=2,
    )  # fmt: skip
    job = JobReport(
        name="tests",
        title="tests",
        status=JobStatus.FAILED,
        runs_on=["linux"],
        duration_ms=100,
        steps=[step],
    )
    return RunReport(
        run_id=run_id, workflow="ci", trigger="Push to main", status=RunStatus.FAILED, duration_ms=70_000, jobs=[job]
    )  # fmt: skip


def test_history_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-137."""
    monkeypatch.setenv("KICI_CONFIG_DIR", str(tmp_path))
    for number in range(history.MOST_RUNS + 2):
        history.write(
            history.Entry(
                run_id=f"run-{number}",
                started_at_ms=number,
                root="/r",
                event="push",
                ref="main",
                sha="",
                run=report("r"),
            )
        )
    (tmp_path / "history" / "9999999999999-broken.json").write_text("{")
    kept = [entry.run_id for entry in history.entries()]
    assert (len(kept), kept[0], kept[-1]) == (200, "run-201", "run-2")
    found = history.find("run-201")
    assert found is not None
    assert found.run.jobs[0].steps[0].exit_code == 3
    assert history.find("run-0") is None
    assert history.find("") is None


async def test_running_jobs_have_lines_at_the_foot(monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-117: one line per running job with what it does; one line stays of each."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("LINES", "20")
    stream = io.BytesIO()
    screen = Screen(stream, quiet=True, live=True)
    screen.announce(["build", "test"])
    screen.begin("build")
    screen.begin("test")
    screen.step("test", "run the tests " + "x" * 80)
    while b"2 running, 0 of 2 done" not in stream.getvalue():
        await asyncio.sleep(0.01)
    shown = stream.getvalue().decode()
    assert "build" in shown
    assert "run the tests" in shown
    assert all(len(line) < 60 for line in shown.splitlines())
    screen.end("build", JobStatus.SUCCESS, 1200)
    assert "✓ build  1.2 s\n" in stream.getvalue().decode()
    screen.close()
    ended = len(stream.getvalue())
    await asyncio.sleep(0.15)
    assert len(stream.getvalue()) == ended  # nothing moves any more


def test_the_tree_ends_with_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-117."""
    stream = io.BytesIO()
    Screen(stream, quiet=True).tree(report("r"))
    assert stream.getvalue().decode() == (
        "\n✗ ci  Push to main\n"
        "└─ ✗ tests  0.1 s\n"
        "   └─ ✗ test (2 attempts)  1 m 05 s  it broke\n"
        "\n✗ tests › test, exit code 3\n  one\n  two\n\nfailed in 1 m 10 s  (run r)\n"
    )
    assert [took(0.44), took(61), took(3720)] == ["0.4 s", "1 m 01 s", "1 h 02 m"]
