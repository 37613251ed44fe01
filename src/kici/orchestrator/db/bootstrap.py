"""What a first start finds in the database: one organisation, and the tokens that programs begin with.

`kici up` writes KICI_BOOTSTRAP_FILE once; every start upserts it. Other keys of that file belong to others.
"""

import hashlib
import secrets
from typing import ClassVar

import msgspec
from msgspec import Struct

from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


class BadBootstrap(KiciError):
    code: ClassVar[str] = "bad_bootstrap"


class Bootstrap(Struct, frozen=True, kw_only=True, rename="camel"):
    org_id: str
    org_name: str = ""
    admin_token: str
    agent_token: str


_ORG = text("""
INSERT INTO org_settings (org_id, name) VALUES (:org_id, :name)
ON CONFLICT (org_id) DO UPDATE SET name = EXCLUDED.name WHERE EXCLUDED.name <> ''
""")

_ADMIN = text("""
INSERT INTO admin_tokens (token_sha256, name, role) VALUES (:digest, :name, :role) ON CONFLICT DO NOTHING
""")

_AGENT = text("""
INSERT INTO agent_tokens (id, org_id, token_sha256, display, kind)
VALUES (:id, :org_id, :digest, :display, 'static') ON CONFLICT (token_sha256) DO NOTHING
""")

_CLUSTER = text("""
INSERT INTO cluster_meta (cluster_id, cluster_name) VALUES (:id, :name)
ON CONFLICT (singleton) DO UPDATE SET cluster_name = EXCLUDED.cluster_name
""")


def digest(token: str) -> bytes:
    """Tokens are long and random: a plain hash keeps them."""
    return hashlib.sha256(token.encode()).digest()


def read_bootstrap(path: str) -> Bootstrap:
    """Raises BadBootstrap."""
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Bootstrap)
    except OSError as error:
        raise BadBootstrap(f"KICI_BOOTSTRAP_FILE: cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise BadBootstrap(f"KICI_BOOTSTRAP_FILE: {path}: {error}") from error


async def ensure_org(tx: AsyncConnection, org_id: str, name: str = "") -> None:
    """Also when the Platform names the organisation of a connection."""
    await tx.execute(_ORG, {"org_id": org_id, "name": name})


async def apply_bootstrap(tx: AsyncConnection, bootstrap: Bootstrap) -> None:
    await ensure_org(tx, bootstrap.org_id, bootstrap.org_name)
    await add_admin_token(tx, bootstrap.admin_token, name="bootstrap", role="owner")
    await add_agent_token(tx, bootstrap.org_id, bootstrap.agent_token)


async def add_admin_token(tx: AsyncConnection, token: str, *, name: str, role: str) -> None:
    await tx.execute(_ADMIN, {"digest": digest(token), "name": name, "role": role})


async def add_agent_token(tx: AsyncConnection, org_id: str, token: str) -> str:
    """The token's id."""
    token_id = uuid7()
    await tx.execute(
        _AGENT, {"id": token_id, "org_id": org_id, "digest": digest(token), "display": f"{token[:10]}…"}
    )
    return token_id


async def only_org(tx: AsyncConnection) -> str | None:
    """The organisation of this database: the oldest one."""
    return await tx.scalar(text("SELECT org_id FROM org_settings ORDER BY created_at, org_id LIMIT 1"))


async def prepare(
    engine: AsyncEngine, *, bootstrap_file: str, cluster_name: str, independent: bool
) -> None:
    """Once per start, after the migrations."""
    async with engine.begin() as tx:
        await tx.execute(_CLUSTER, {"id": uuid7(), "name": cluster_name})
        if bootstrap_file:
            await apply_bootstrap(tx, read_bootstrap(bootstrap_file))
        elif independent and await only_org(tx) is None:
            org_id = "org_" + "".join(secrets.choice(_ALPHABET) for _ in range(12))
            await ensure_org(tx, org_id)
            log.info("org.created", org_id=org_id)
