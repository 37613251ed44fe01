"""Fresh identifiers (OR-2): UUIDv7 for rows, UUIDv4 for request ids."""

import uuid

import uuid_utils


def uuid7() -> str:
    """Time-sorted, made in Python so that an id is known before its row is inserted."""
    return str(uuid_utils.uuid7())


def request_id() -> str:
    return str(uuid.uuid4())
