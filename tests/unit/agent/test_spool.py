"""The outbox: nothing forgotten before it is acknowledged, memory and disk bounded (AG-20…22, AG-83)."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kici.agent import spool
from kici.agent.spool import Outbox, Pressure
from kici.protocol import agent_v1, blocks
from kici.protocol.agent_v1 import JobAck
from kici.protocol.blocks import BlockHeader, decode_block
from kici.protocol.frames import unpack_log_block


def header(seq: int, size: int, *, first_byte: int = 0, flags: int = blocks.RAW) -> BlockHeader:
    return BlockHeader(
        job_id="job",
        attempt=1,
        step_index=0,
        seq=seq,
        first_line=seq,
        line_count=1,
        first_byte=first_byte,
        raw_len=size,
        first_ts_ms=0,
        last_ts_ms=0,
        flags=flags,
    )


def status(seq: int) -> JobAck:
    return JobAck(seq=seq, run_id="run", job_id="job", attempt=1, timestamp=0)


def payload(number: int, size: int) -> bytes:
    return (b"%08d" % number) * (size // 8)


class Receiver:
    """The other end: checks that both numberings are without holes."""

    def __init__(self) -> None:
        self.seq = 0
        self.blocks = 0
        self.bytes = 0
        self.lines = 0
        self.whole: dict[int, bytes] = {}
        self.dropped: list[int] = []
        self.statuses: list[int] = []

    def take(self, frames: Iterator[tuple[bytes, bool]], *, lose: bool = False) -> None:
        for data, is_text in frames:
            if lose:
                continue
            if is_text:
                message = agent_v1.decode_from_agent(data)
                assert isinstance(message, JobAck)
                seq = message.seq
                if seq > self.seq:
                    self.statuses.append(seq)
            else:
                seq, record = unpack_log_block(data)
                if seq > self.seq:
                    self._block(record)
            assert seq <= self.seq + 1
            self.seq = max(self.seq, seq)

    def _block(self, record: memoryview) -> None:
        found, body, _end = decode_block(record)
        assert found.seq == self.blocks
        assert found.first_byte == self.bytes + found.dropped_bytes
        assert found.first_line == self.lines + found.dropped_lines
        self.blocks += 1
        self.bytes = found.first_byte + found.raw_len
        self.lines = found.first_line + found.line_count
        if found.flags & blocks.GAP:
            self.dropped.append(found.seq)
        else:
            self.whole[found.seq] = bytes(body)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    made = Outbox(str(tmp_path), memory_limit=10_000, files_limit=40_000, segment_size=8_000)
    yield made
    made.close()


def fill(outbox: Outbox, count: int, size: int = 1_000) -> None:
    for number in range(count):
        outbox.put_block(header(number, size, first_byte=number * size), payload(number, size))


def test_frames_are_numbered_from_one_and_kept_until_acknowledged(outbox: Outbox) -> None:
    assert [outbox.put(status) for _ in range(3)] == [1, 2, 3]
    outbox.connected(0, 0)
    receiver = Receiver()
    receiver.take(outbox.take(1 << 20))
    assert receiver.statuses == [1, 2, 3]
    outbox.ack(2, 0)
    assert (outbox.first_seq, outbox.last_seq) == (3, 3)
    outbox.disconnected(0)
    outbox.connected(2, 0)
    again = Receiver()
    again.seq = 2
    again.take(outbox.take(1 << 20))
    assert again.statuses == [3]


async def test_settled_means_everything_was_acknowledged(outbox: Outbox) -> None:
    outbox.put(status)
    outbox.connected(0, 0)
    list(outbox.take(1 << 20))
    outbox.ack(99, 0)  # more than was ever sent
    await outbox.wait_settled()
    assert outbox.put(status) == 2


def test_overflow_goes_to_disk_and_comes_back_in_order(outbox: Outbox) -> None:
    fill(outbox, 30)
    outbox.put(status)
    assert outbox.spooled_bytes > 15_000
    outbox.connected(0, 0)
    receiver = Receiver()
    while receiver.seq < outbox.last_seq:
        receiver.take(outbox.take(5_000))
    assert receiver.whole == {number: payload(number, 1_000) for number in range(30)}
    outbox.ack(31, 0)
    assert (outbox.spooled_bytes, outbox.held_bytes, outbox.unsent_bytes) == (0, 0, 0)


def test_the_spool_leaves_no_name_behind(outbox: Outbox, tmp_path: Path) -> None:
    fill(outbox, 30)
    assert outbox.spooled_bytes > 0
    assert os.listdir(tmp_path) == []


def test_when_full_the_oldest_logs_become_markers_and_statuses_stay(outbox: Outbox) -> None:
    lost: list[tuple[int, int]] = []
    outbox.on_dropped = lambda lines, size: lost.append((lines, size))
    outbox.put(status)
    fill(outbox, 200)
    outbox.put(status)
    assert outbox.spooled_bytes <= 40_000

    outbox.connected(0, 0)
    receiver = Receiver()
    receiver.take(outbox.take(1 << 30))

    assert receiver.statuses == [1, 202]
    assert receiver.blocks == 200
    assert receiver.dropped == list(range(len(receiver.dropped)))
    assert lost == [(1, 1_000)] * len(receiver.dropped)
    assert 35 <= len(receiver.whole) <= 50
    assert all(body == payload(number, 1_000) for number, body in receiver.whole.items())
    assert receiver.bytes == 200_000


def test_a_marker_keeps_the_end_and_counts_the_whole_block() -> None:
    block = header(3, 500, first_byte=700, flags=blocks.END | blocks.OPEN | blocks.GAP)
    marker = spool.gap_in_place_of(block)
    assert marker.flags == blocks.END | blocks.OPEN | blocks.GAP | blocks.RAW
    assert (marker.seq, marker.raw_len, marker.dropped_bytes) == (3, 0, 500)
    assert (marker.first_byte, marker.first_line) == (1_200, 4)


def test_a_full_disk_is_like_a_full_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_space)
    outbox = Outbox(str(tmp_path), memory_limit=10_000, files_limit=40_000)
    fill(outbox, 50)
    outbox.connected(0, 0)
    receiver = Receiver()
    receiver.take(outbox.take(1 << 30))
    assert len(receiver.whole) >= 8
    assert len(receiver.whole) + len(receiver.dropped) == 50
    outbox.close()


def test_producers_pause_above_the_limit_and_go_on_below(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path))
    seen: list[Pressure] = []
    outbox.on_pressure = seen.append
    fill(outbox, 30, 100_000)
    assert seen == []  # nobody is connected: the spool takes it
    outbox.connected(0, 0)
    assert seen == [Pressure.PAUSE]
    while outbox.unsent_bytes:
        list(outbox.take(spool.LOW_UNSENT))
        outbox.sent(1)
    assert seen == [Pressure.PAUSE, Pressure.NONE]
    fill(outbox, 12, 100_000)
    assert seen[2:] == [Pressure.PAUSE]
    outbox.disconnected(2)
    assert seen[3:] == [Pressure.NONE]
    outbox.close()


def test_what_was_sent_but_never_acknowledged_pauses_too(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path), memory_limit=1_000_000)
    outbox.connected(0, 0)
    for number in range(12):
        outbox.put_block(header(number, 100_000), payload(number, 100_000))
        list(outbox.take(1 << 30))
    assert outbox.pressure is Pressure.PAUSE
    outbox.ack(8, 1)
    assert outbox.pressure is Pressure.NONE
    outbox.close()


def test_a_pause_without_progress_becomes_drop_until_drained(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path))
    outbox.connected(0, 0)
    fill(outbox, 12, 100_000)
    outbox.check_progress(spool.NO_PROGRESS_S)
    assert outbox.pressure is Pressure.PAUSE
    outbox.check_progress(spool.NO_PROGRESS_S + 1)
    assert outbox.pressure is Pressure.DROP
    list(outbox.take(1 << 30))
    outbox.sent(spool.NO_PROGRESS_S + 2)
    assert outbox.pressure is Pressure.NONE
    outbox.close()


def test_drop_mode_never_pauses(tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path), may_pause=False)
    outbox.connected(0, 0)
    fill(outbox, 12, 100_000)
    assert outbox.pressure is Pressure.DROP
    outbox.close()


@settings(max_examples=60, stateful_step_count=40, deadline=None)
class OutboxMachine(RuleBasedStateMachine):
    """Puts, sends, losses, acknowledgements and reconnects in any order: the receiver misses nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox("/tmp", memory_limit=3_000, files_limit=6_000, segment_size=2_000)
        self.receiver = Receiver()
        self.sizes: list[int] = []
        self.statuses: list[int] = []
        self.is_connected = False

    @rule(size=st.sampled_from([8, 80, 400, 1_600]))
    def print_block(self, size: int) -> None:
        number = len(self.sizes)
        self.outbox.put_block(header(number, size, first_byte=sum(self.sizes)), payload(number, size))
        self.sizes.append(size)

    @rule()
    def say_status(self) -> None:
        self.statuses.append(self.outbox.put(status))

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        self.outbox.connected(self.receiver.seq, 0)
        self.is_connected = True

    @precondition(lambda self: self.is_connected)
    @rule(lose=st.booleans())
    def disconnect(self, lose: bool) -> None:
        self.receiver.take(self.outbox.take(1_000), lose=lose)
        self.outbox.disconnected(0)
        self.is_connected = False

    @precondition(lambda self: self.is_connected)
    @rule(limit=st.integers(1, 5_000))
    def send(self, limit: int) -> None:
        self.receiver.take(self.outbox.take(limit))

    @precondition(lambda self: self.is_connected)
    @rule()
    def acknowledge(self) -> None:
        self.outbox.ack(self.receiver.seq, 0)

    @invariant()
    def room_is_bounded(self) -> None:
        assert self.outbox.spooled_bytes <= 6_000 + 2_000
        assert self.outbox.unsent_bytes <= self.outbox.held_bytes

    def teardown(self) -> None:
        self.outbox.disconnected(0)
        self.outbox.connected(self.receiver.seq, 0)
        self.receiver.take(self.outbox.take(1 << 30))
        assert self.receiver.statuses == self.statuses
        assert self.receiver.blocks == len(self.sizes)
        assert self.receiver.bytes == sum(self.sizes)
        for number, body in self.receiver.whole.items():
            assert body == payload(number, self.sizes[number])
        self.outbox.ack(self.receiver.seq, 0)
        assert (self.outbox.held_bytes, self.outbox.unsent_bytes, self.outbox.spooled_bytes) == (0, 0, 0)
        self.outbox.close()


TestOutboxMachine = OutboxMachine.TestCase


@given(st.integers(1, 50), st.integers(0, 60))
def test_an_acknowledgement_counts_each_frame_once(count: int, up_to: int) -> None:
    outbox = Outbox("/tmp")
    for _ in range(count):
        outbox.put(status)
    outbox.connected(0, 0)
    outbox.ack(up_to, 0)
    outbox.ack(up_to, 0)
    assert outbox.first_seq == min(up_to, count) + 1
    outbox.close()
