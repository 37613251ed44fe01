"""Tokens and the table of agents: who may register, and who is connected where (AG-2, 3, 31, 32)."""

import hashlib
from collections.abc import Collection
from typing import ClassVar

import msgspec
from msgspec import Struct

from kici.engine.labels import normalise
from kici.orchestrator.agents.connection import Attempt, Identity
from kici.protocol.agent_v1 import CLOSE_AGENT_REJECTED, CLOSE_INVALID, AgentRegister
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7
from kici.spec.errors import KiciError

_json = msgspec.json.Encoder().encode

RESERVED = "kici:"
FACTS = ("kici:os:", "kici:arch:", "kici:host:", "kici:role:")  # what an agent may say about itself
ROOT_LABEL = "kici:privileged:root"


class AgentRefused(KiciError):
    """The gates say no. `close_code` 4010 is for good, others may be better later."""

    code: ClassVar[str] = "agent_refused"
    status: ClassVar[int] = 403

    def __init__(self, close_code: int, reason: str) -> None:
        super().__init__(reason)
        self.close_code = close_code


class TokenRow(Struct, frozen=True, kw_only=True):
    token_id: str
    org_id: str
    labels: list[str] | None  # None: any


_USE_TOKEN = text("""
    UPDATE agent_tokens SET last_used_at = now()
    WHERE token_sha256 = :digest AND revoked_at IS NULL RETURNING id, org_id, labels
""")
# An id belongs to the token that first used it, until that token is revoked.
_REGISTER = text("""
    INSERT INTO agents AS a (agent_id, org_id, token_id, session_id, instance_id, connection_id, labels, hostname,
        platform, arch, version, facts, connected_at, disconnected_at, last_seen_at)
    VALUES (:agent_id, :org_id, :token_id, :session_id, :instance_id, :connection_id, :labels, :hostname,
        :platform, :arch, :version, CAST(:facts AS jsonb), now(), NULL, now())
    ON CONFLICT (agent_id) DO UPDATE SET
        org_id = EXCLUDED.org_id, token_id = EXCLUDED.token_id, session_id = EXCLUDED.session_id,
        instance_id = EXCLUDED.instance_id, connection_id = EXCLUDED.connection_id, labels = EXCLUDED.labels,
        hostname = EXCLUDED.hostname, platform = EXCLUDED.platform, arch = EXCLUDED.arch,
        version = EXCLUDED.version, facts = EXCLUDED.facts, connected_at = now(), disconnected_at = NULL,
        last_seen_at = now()
    WHERE a.token_id = EXCLUDED.token_id
        OR NOT EXISTS (SELECT FROM agent_tokens t WHERE t.id = a.token_id AND t.revoked_at IS NULL)
    RETURNING a.agent_id
""")
_PART = text("""
    UPDATE agents SET instance_id = NULL, connection_id = NULL, disconnected_at = now(), last_seen_at = now()
    WHERE agent_id = :agent_id AND connection_id = :connection_id RETURNING agent_id
""")
_WRITABLE = text("""
    SELECT id, attempt, run_id FROM execution_jobs
    WHERE agent_id = :agent_id AND agent_session = :session_id AND completed_at IS NULL
""")
_SEEN = text("UPDATE agents SET last_seen_at = now() WHERE connection_id = ANY(:connection_ids)")
_REVOKED = text(
    "SELECT id FROM agent_tokens WHERE id = ANY(CAST(:ids AS uuid[])) AND revoked_at IS NOT NULL"
)


async def use_token(tx: AsyncConnection, token: str) -> TokenRow:
    """Raises AgentRefused when the token is unknown or revoked."""
    digest = hashlib.sha256(token.encode()).digest()
    row = (await tx.execute(_USE_TOKEN, {"digest": digest})).one_or_none()
    if row is None:
        raise AgentRefused(CLOSE_AGENT_REJECTED, "the agent token is unknown or was revoked")
    return TokenRow(token_id=row[0], org_id=row[1], labels=row[2])


def gate(token: TokenRow, register: AgentRegister) -> list[str]:
    """The labels as stored. Raises AgentRefused (AG-28, AG-32). Pure."""
    if not register.agent_id or not register.session_id:
        raise AgentRefused(CLOSE_INVALID, "agentId and sessionId must not be empty")
    labels = normalise(register.labels)
    granted = None if token.labels is None else frozenset(normalise(token.labels))
    for label in labels:
        if label == ROOT_LABEL and register.running_as_uid != 0:
            raise AgentRefused(CLOSE_AGENT_REJECTED, f"{ROOT_LABEL} is for agents that run as root")
        if granted is not None and label in granted:
            continue
        if label.startswith(RESERVED) and not label.startswith(FACTS):
            raise AgentRefused(CLOSE_AGENT_REJECTED, f"the token does not grant the reserved label {label}")
        if granted is not None and not label.startswith(RESERVED):
            raise AgentRefused(CLOSE_AGENT_REJECTED, f"the token does not grant the label {label}")
    return labels


async def enrol(
    tx: AsyncConnection, token: TokenRow, register: AgentRegister, labels: list[str], *, instance_id: str
) -> Identity:
    """The agent is connected here from now on. Raises AgentRefused when another token holds its id."""
    identity = Identity(
        agent_id=register.agent_id,
        session_id=register.session_id,
        org_id=token.org_id,
        token_id=token.token_id,
        connection_id=uuid7(),
        labels=frozenset(labels),
        cpus=register.cpu_count,
        memory_mb=register.total_memory_mb,
    )
    facts = {
        "osRelease": register.os_release,
        "pythonVersion": register.python_version,
        "cpuCount": register.cpu_count,
        "totalMemoryMb": register.total_memory_mb,
        "runningAsUser": register.running_as_user,
        "runningAsUid": register.running_as_uid,
        "properties": register.properties,
    }
    registered = await tx.execute(
        _REGISTER,
        {
            "agent_id": register.agent_id,
            "org_id": token.org_id,
            "token_id": token.token_id,
            "session_id": register.session_id,
            "instance_id": instance_id,
            "connection_id": identity.connection_id,
            "labels": labels,
            "hostname": register.hostname,
            "platform": register.platform,
            "arch": register.arch,
            "version": register.version,
            "facts": _json(facts).decode(),
        },
    )
    if registered.one_or_none() is None:
        raise AgentRefused(CLOSE_INVALID, f"agent id {register.agent_id} is held by another token")
    return identity


async def part(tx: AsyncConnection, identity: Identity) -> bool:
    """The socket is gone; False when a newer one has taken its place."""
    values = {"agent_id": identity.agent_id, "connection_id": identity.connection_id}
    return (await tx.execute(_PART, values)).one_or_none() is not None


async def writable(tx: AsyncConnection, identity: Identity) -> dict[Attempt, str]:
    """Open jobs of this agent process, with their runs: those whose log blocks it may send (AG-10)."""
    rows = await tx.execute(_WRITABLE, {"agent_id": identity.agent_id, "session_id": identity.session_id})
    return {(job_id, attempt): run_id for job_id, attempt, run_id in rows}


async def seen(tx: AsyncConnection, connection_ids: Collection[str]) -> None:
    await tx.execute(_SEEN, {"connection_ids": list(connection_ids)})


async def revoked(tx: AsyncConnection, token_ids: Collection[str]) -> set[str]:
    """Those of `token_ids` that were revoked."""
    return set((await tx.execute(_REVOKED, {"ids": list(token_ids)})).scalars())
