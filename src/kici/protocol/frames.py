"""Binary WebSocket frames: one kind byte, then a fixed or self-describing head, then bytes.

| kind | link | layout after the kind byte |
|---|---|---|
| LOG_BLOCK (1) | agent → orchestrator | u64 BE stream `seq` of the reliable session, then one block record |
| WATCHED_BLOCK (2) | orchestrator → Platform | u32 BE watch id, then one block record, unchanged |
| RELAY (3) | Platform → orchestrator | u32 BE head length, JSON `WebhookRelay`, body bytes as received |
| RPC_BYTES (4) | orchestrator → Platform | u32 BE head length, JSON `RpcBytes`, bytes |
"""

import struct

LOG_BLOCK = 1
WATCHED_BLOCK = 2
RELAY = 3
RPC_BYTES = 4

_U32 = struct.Struct(">BI")
_U64 = struct.Struct(">BQ")


def pack_log_block(seq: int, record: bytes) -> bytes:
    return _U64.pack(LOG_BLOCK, seq) + record


def unpack_log_block(frame: bytes) -> tuple[int, memoryview]:
    return _U64.unpack_from(frame)[1], memoryview(frame)[_U64.size :]


def pack_watched_block(watch_id: int, record: bytes | memoryview) -> bytes:
    return b"".join((_U32.pack(WATCHED_BLOCK, watch_id), record))


def unpack_watched_block(frame: bytes) -> tuple[int, memoryview]:
    return _U32.unpack_from(frame)[1], memoryview(frame)[_U32.size :]


def pack_headed(kind: int, head: bytes, body: bytes | memoryview) -> bytes:
    """RELAY and RPC_BYTES."""
    return b"".join((_U32.pack(kind, len(head)), head, body))


def unpack_headed(frame: bytes) -> tuple[memoryview, memoryview]:
    size = _U32.unpack_from(frame)[1]
    view = memoryview(frame)
    return view[_U32.size : _U32.size + size], view[_U32.size + size :]
