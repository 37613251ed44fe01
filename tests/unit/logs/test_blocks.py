"""The record format, byte for byte: what agents wrote once must be readable for ever."""

import struct
import zlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.protocol.blocks import (
    END,
    GAP,
    MAX_RAW,
    OPEN,
    RAW,
    BlockHeader,
    CorruptBlock,
    decode_block,
    encode_block,
)

HEADER = BlockHeader(
    job_id="0198c0de-0000-7000-8000-00000000000b",
    attempt=2,
    step_index=-1,
    seq=3,
    first_line=70_000,
    line_count=2,
    first_byte=5_000_000_000,
    raw_len=12,
    first_ts_ms=1_760_000_000_123,
    last_ts_ms=1_760_000_000_223,
    flags=OPEN | RAW,
)
PAYLOAD = b"one\ntwo\nthre"
GOLDEN = b"".join(
    (
        bytes.fromhex("0000004f 0000000c 1d4dda62"),  # lengths of header and payload, crc32 of both
        bytes.fromhex("9d"),  # thirteen fields
        bytes.fromhex("d924") + b"0198c0de-0000-7000-8000-00000000000b",  # job_id
        bytes.fromhex("02 ff 03"),  # attempt, step_index, seq
        bytes.fromhex("ce00011170 02"),  # first_line, line_count
        bytes.fromhex("cf000000012a05f200 0c"),  # first_byte, raw_len
        bytes.fromhex("cf00000199c82cc07b cf00000199c82cc0df"),  # first_ts_ms, last_ts_ms
        bytes.fromhex("09 00 00"),  # flags, dropped_lines, dropped_bytes
        PAYLOAD,
    )
)


def test_a_record_is_these_bytes() -> None:
    assert encode_block(HEADER, PAYLOAD) == GOLDEN
    header, payload, end = decode_block(GOLDEN)
    assert (header, bytes(payload), end) == (HEADER, PAYLOAD, len(GOLDEN))


def test_flag_bits_and_the_size_limit_are_fixed() -> None:
    assert (OPEN, END, GAP, RAW, MAX_RAW) == (1, 2, 4, 8, 1048576)


def test_a_record_cut_anywhere_is_refused() -> None:
    for size in range(len(GOLDEN)):
        with pytest.raises(CorruptBlock):
            decode_block(GOLDEN[:size])


def test_a_changed_byte_anywhere_is_refused() -> None:
    for at in range(len(GOLDEN)):
        damaged = bytearray(GOLDEN)
        damaged[at] ^= 0x20
        with pytest.raises(CorruptBlock):
            decode_block(bytes(damaged))


def test_fields_appended_by_a_later_version_are_passed_over() -> None:
    fields = [*msgspec.structs.astuple(HEADER), "later", 7]
    head = msgspec.msgpack.encode(fields)
    crc = zlib.crc32(head + PAYLOAD)
    record = struct.pack(">III", len(head), len(PAYLOAD), crc) + head + PAYLOAD
    assert decode_block(record)[0] == HEADER


def test_fields_that_an_older_version_did_not_write_have_their_defaults() -> None:
    head = msgspec.msgpack.encode(msgspec.structs.astuple(HEADER)[:10])
    record = struct.pack(">III", len(head), 0, zlib.crc32(head)) + head
    header, payload, _ = decode_block(record)
    assert (header.flags, header.dropped_lines, header.dropped_bytes, bytes(payload)) == (0, 0, 0, b"")


numbers = st.integers(0, 2**63 - 1)


@given(
    header=st.builds(
        BlockHeader,
        job_id=st.text(max_size=64),
        attempt=numbers,
        step_index=st.integers(-1, 2**31),
        seq=numbers,
        first_line=numbers,
        line_count=numbers,
        first_byte=numbers,
        raw_len=numbers,
        first_ts_ms=numbers,
        last_ts_ms=numbers,
        flags=st.integers(0, 15),
        dropped_lines=numbers,
        dropped_bytes=numbers,
    ),
    payload=st.binary(max_size=300),
    around=st.tuples(st.binary(max_size=20), st.binary(max_size=20)),
)
def test_what_is_encoded_is_decoded_wherever_it_stands(
    header: BlockHeader, payload: bytes, around: tuple[bytes, bytes]
) -> None:
    record = encode_block(header, payload)
    before, after = around
    found, data, end = decode_block(before + record + after, len(before))
    assert (found, bytes(data), end) == (header, payload, len(before) + len(record))
