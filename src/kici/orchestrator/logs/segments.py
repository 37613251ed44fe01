"""Live segments: one append-only file of block records per stream.

An append is one `write` into the page cache: it survives `kill -9` of this process, and the record may
be acknowledged after it. What a kill leaves half written is cut off when the file is opened again.
"""

import mmap
import os
from collections import OrderedDict

from kici.orchestrator.logs.index import MAX_RECORD, Index, rebuild
from kici.orchestrator.logs.streams import LogNotWritable, MissingBlocks, StreamId
from kici.protocol.blocks import BlockHeader, CorruptBlock
from kici.runtime.logging import get_logger

log = get_logger(__name__)


class OpenFiles:
    """At most `size` descriptors for appending; the one longest unused is closed for a new one."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._open: OrderedDict[str, int] = OrderedDict()

    def get(self, path: str) -> int:
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.put(path, fd)
        return fd

    def put(self, path: str, fd: int) -> None:
        while len(self._open) >= self._size:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = fd

    def close(self, path: str) -> None:
        fd = self._open.pop(path, None)
        if fd is not None:
            os.close(fd)

    def close_all(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def __len__(self) -> int:
        return len(self._open)


class Segment:
    """The file of one live stream and its index. Opening it repairs it."""

    __slots__ = ("_overhang", "ended", "files", "index", "path", "stream")

    def __init__(self, stream: StreamId, path: str, files: OpenFiles) -> None:
        """Opens, or makes, the file. Raises OSError."""
        self.stream = stream
        self.path = path
        self.files = files
        self.ended = False  # nothing will be appended any more
        self._overhang = False  # the file may be longer than the index knows
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(fd).st_size
            self.index = _repair(fd, size, path) if size else Index()
        except BaseException:
            os.close(fd)
            raise
        files.put(path, fd)

    def append(self, record: bytes | memoryview, header: BlockHeader) -> bool:
        """False: seen before. Raises MissingBlocks, CorruptBlock, LogNotWritable."""
        index = self.index
        if header.seq != index.records:
            if header.seq < index.records:
                return False
            raise MissingBlocks(index.records, header.seq)
        if index.complete:
            raise CorruptBlock("a block came after the stream's end")
        if not index.continues(header):
            raise CorruptBlock("block positions go back")
        try:
            self._write(record)
        except OSError as error:
            raise LogNotWritable(f"cannot write log segment: {error.strerror or error}") from error
        self._overhang = False
        index.add(header, len(record))
        return True

    def seal(self) -> None:
        """Write the index footer and close: the file may move now. May be repeated. Raises OSError."""
        self._write(self.index.footer())
        self.files.close(self.path)

    def _write(self, data: bytes | memoryview) -> None:
        """All of it behind the last indexed record, or OSError; then the next write cuts the rest off."""
        if self._overhang:
            os.truncate(self.path, self.index.end)
        self._overhang = True
        if os.write(self.files.get(self.path), data) != len(data):
            raise OSError("the disk took only a part")


def _repair(fd: int, size: int, path: str) -> Index:
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        index = rebuild(data)
        lost = size - index.end
        if lost > MAX_RECORD:
            # More than a torn tail or a footer: keep the evidence before cutting it off.
            with open(path + ".damaged", "wb") as keep:
                keep.write(data[index.end :])
            log.error("log.segment_damaged", path=path, sound_bytes=index.end, damaged_bytes=lost)
    if lost:
        os.ftruncate(fd, index.end)
        log.info("log.torn_tail_cut", path=path, cut_bytes=lost)
    return index
