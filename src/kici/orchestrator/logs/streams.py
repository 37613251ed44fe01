"""Which stream, what its files are called, and what can be wrong with it.

KiciError
 ├─ LogNotFound     404  no such run, job, step or attempt
 ├─ LogExpired      410  it printed something, and the retention removed it
 ├─ LogDamaged      500  stored bytes do not hold their checksum
 ├─ LogNotWritable  503  the disk refused; the record must not be acknowledged
 ├─ LogUnavailable  503  the object store does not answer
 ├─ BadPattern      400  the search pattern is not a regular expression
 └─ WatchOverflow   409  a watcher fell too far behind; read ranges and watch again
CorruptBlock (kici.protocol.blocks)
 └─ MissingBlocks        a record came before its predecessors
"""

import re
from typing import ClassVar, NamedTuple

from kici.protocol.blocks import CorruptBlock
from kici.spec.errors import InvalidInput, KiciError, NotFound


class LogNotFound(NotFound):
    code: ClassVar[str] = "log_not_found"


class LogExpired(KiciError):
    code: ClassVar[str] = "log_expired"
    status: ClassVar[int] = 410


class LogDamaged(KiciError):
    code: ClassVar[str] = "log_damaged"


class LogNotWritable(KiciError):
    code: ClassVar[str] = "log_not_writable"
    status: ClassVar[int] = 503


class LogUnavailable(KiciError):
    code: ClassVar[str] = "log_unavailable"
    status: ClassVar[int] = 503


class BadPattern(InvalidInput):
    code: ClassVar[str] = "bad_pattern"


class MissingBlocks(CorruptBlock):
    """Block `got` came while `expected` was due: the sender skipped something."""

    def __init__(self, expected: int, got: int) -> None:
        super().__init__(f"block {got} came before block {expected}")
        self.expected = expected
        self.got = got


class StreamId(NamedTuple):
    """One step's output in one attempt of a job."""

    run_id: str
    job_id: str
    attempt: int
    step_index: int


LIVE_SUFFIX = ".seg"
SENT_SUFFIX = ".sent"

# Ids become file names, and block headers come from agents: nothing that could walk a path.
_SAFE_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NAME = re.compile(r"([0-9A-Za-z_-]+)\.([0-9A-Za-z_-]+)-(\d+)-(-?\d+)")


def safe(stream: StreamId) -> bool:
    return (
        _SAFE_ID.fullmatch(stream.run_id) is not None
        and _SAFE_ID.fullmatch(stream.job_id) is not None
        and stream.attempt >= 0
    )


def file_name(stream: StreamId) -> str:
    """`<runId>.<jobId>-<attempt>-<stepIndex>`; no folder per run, because folders cost more than files."""
    return f"{stream.run_id}.{stream.job_id}-{stream.attempt}-{stream.step_index}"


def parse_name(name: str) -> StreamId | None:
    """The stream of a file name; None when the name is not ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    stream = StreamId(found[1], found[2], int(found[3]), int(found[4]))
    return stream if safe(stream) else None
