"""Opaque tokens: 32 random bytes behind a prefix that says what they are (PD-48, PD-49)."""

import hashlib
import secrets
from typing import Literal

Prefix = Literal["kici_pat_", "kici_ok_", "kici_at_", ""]

PAT: Prefix = "kici_pat_"
ACCESS: Prefix = "kici_at_"  # of a sign-in in progress: exchanged for a PAT, good for nothing else
ORCHESTRATOR_KEY: Prefix = "kici_ok_"
DISPLAY_CHARS = 16


def mint(prefix: Prefix) -> str:
    return prefix + secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """What the database keeps. Tokens have 256 bits of entropy, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()


def display(token: str) -> str:
    return token[:DISPLAY_CHARS]
