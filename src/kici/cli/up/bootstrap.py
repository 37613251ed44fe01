"""Secrets and ids of one installation, made once and read by the servers at every start.

`bootstrap.json` (0600) lets the Platform and the orchestrator upsert the first organisation, keys and
tokens by themselves, so that a first start needs no round trips between them.
"""

import os
import secrets
from pathlib import Path

import msgspec
from msgspec import Struct

from kici.cli.up.paths import DataDir


class Bootstrap(Struct, frozen=True, kw_only=True, rename="camel"):
    org_id: str
    org_alias: str
    org_name: str
    orchestrator_key: str
    admin_token: str
    agent_token: str
    api_token: str
    platform_secret_key: str
    orchestrator_secret_key: str
    user_email: str
    setup_token: str


_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


def _short(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_ALPHABET) for _ in range(12))


def _token(prefix: str) -> str:
    return prefix + secrets.token_hex(32)


def write_private(path: Path, content: str) -> None:
    """Mode 0600 from the first byte on, replaced atomically."""
    scratch = path.with_name(path.name + ".tmp")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    os.replace(scratch, path)


def load_or_make(data: DataDir) -> Bootstrap:
    try:
        known = msgspec.json.decode(data.bootstrap.read_bytes(), type=Bootstrap)
    except FileNotFoundError:
        known = Bootstrap(
            org_id=_short("org_"),
            org_alias=_short("oal_"),
            org_name="Local",
            orchestrator_key=_token("kici_ok_"),
            admin_token=_token("kici_admin_"),
            agent_token=_token("kat_"),
            api_token=_token("kici_pat_"),
            platform_secret_key=secrets.token_hex(32),
            orchestrator_secret_key=secrets.token_hex(32),
            user_email="operator@localhost",
            setup_token=secrets.token_urlsafe(24),
        )
        write_private(data.bootstrap, msgspec.json.format(msgspec.json.encode(known)).decode())
    write_private(data.api_token, known.api_token)
    write_private(data.admin_token, known.admin_token)
    write_private(data.agent_token, known.agent_token)
    return known
