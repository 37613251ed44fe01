"""`kill -9` at every line of the store's code: what was acknowledged is there, nothing is doubled.

A forked child takes records and finalises; a trace function ends it, without any clean-up, at its n-th
executed line. Then a new store opens the folder, the sender repeats what the child had not
acknowledged, and the log must be the undisturbed one.
"""

import asyncio
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kici.orchestrator.logs as logs_room
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import StreamId, file_name
from kici.protocol.blocks import END
from tests.support import log_blocks
from tests.support.log_blocks import JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)
DATA = b"".join(b"line %d of the log\n" % number for number in range(60))
RECORDS = log_blocks.records(DATA, [300, 700])
ROOM = os.path.dirname(logs_room.__file__)
KILLED = 99


async def take(folder: str, acknowledged: int) -> None:
    """What the orchestrator does with arriving blocks; acknowledged sequence numbers go to a file."""
    store = LogStore(folder)
    await store.sweep()
    for seq, record in enumerate(RECORDS[acknowledged:], acknowledged):
        header = store.append(RUN_ID, record)
        Path(folder, "acknowledged").write_text(str(seq + 1))
        if header.flags & END:
            await store.finalize(*STREAM)
    await store.close()


def die_at(folder: str, line: int, acknowledged: int) -> bool:
    """Run `take` in a child that ends at its `line`-th line of the room. False: it came to its end."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal left
            if not frame.f_code.co_filename.startswith(ROOM):
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os._exit(KILLED)
            return trace

        try:
            sys.settrace(trace)
            asyncio.run(take(folder, acknowledged))
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED)
    return status == KILLED


def acknowledged_in(folder: Path) -> int:
    path = folder / "acknowledged"
    return int(path.read_text() or "0") if path.exists() else 0


async def check(folder: Path) -> None:
    await take(str(folder), acknowledged_in(folder))
    store = LogStore(str(folder))
    await store.sweep()
    assert store.unfinished() == []
    assert (await store.raw(STREAM, 0)).data == DATA
    assert (await store.read(STREAM)).complete
    assert os.listdir(folder / "store" / "logs" / RUN_ID[:7]) == [f"{file_name(STREAM)}.log"]
    assert os.listdir(folder / "logs") == []
    await store.close()


@pytest.mark.timeout(300)
def test_a_kill_at_any_line_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """OP-82."""
    line = 0
    while True:
        folder = tmp_path / str(line)
        folder.mkdir()
        killed = die_at(str(folder), line, 0)
        asyncio.run(check(folder))
        if not killed:
            break
        line += 1
    assert line > 100  # the tracer saw the room


@pytest.mark.timeout(300)
def test_a_second_kill_while_recovering_changes_nothing(tmp_path: Path) -> None:
    for first in range(0, 2000, 23):
        folder = tmp_path / str(first)
        folder.mkdir()
        killed = die_at(str(folder), first, 0)
        for second in range(0, 90, 7):
            die_at(str(folder), second, acknowledged_in(folder))
        asyncio.run(check(folder))
        if not killed:
            break
