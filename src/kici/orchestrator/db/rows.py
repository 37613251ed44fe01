"""Many rows as one JSON parameter: `json_to_recordset(CAST(:rows AS json)) AS x(…)`."""

import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

_encode = msgspec.json.Encoder().encode
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def encode_rows(rows: Sequence[Struct]) -> str:
    """Field names are column names. A NUL character, which PostgreSQL cannot store, becomes U+FFFD."""
    return without_nul(_encode(rows)).decode()


def without_nul(document: bytes) -> bytes:
    """An encoded JSON document whose strings hold no NUL."""
    if b"\\u0000" not in document:
        return document
    return _NUL.sub(rb"\1\\ufffd", document)
