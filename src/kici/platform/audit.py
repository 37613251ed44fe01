"""One audit row per mutation, written in the transaction that it describes (PD-74)."""

from typing import Any

import msgspec

from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7

_INSERT = text("""
    INSERT INTO audit_log (id, org_id, actor_kind, actor_id, action, target_type, target_id, details, ip,
                           request_id)
    VALUES (:id, :org_id, :actor_kind, :actor_id, :action, :target_type, :target_id,
            CAST(:details AS jsonb), :ip, :request_id)
""")


async def record(
    tx: AsyncConnection,
    *,
    action: str,
    target: tuple[str, str],
    actor: tuple[str, str] = ("system", "platform"),
    org_id: str | None = None,
    details: dict[str, Any] | None = None,
    ip: str | None = None,
    request_id: str | None = None,
) -> None:
    """`target` and `actor` are (type, id). Never put a secret or a token into `details`."""
    await tx.execute(
        _INSERT,
        {
            "id": uuid7(),
            "org_id": org_id,
            "actor_kind": actor[0],
            "actor_id": actor[1],
            "action": action,
            "target_type": target[0],
            "target_id": target[1],
            "details": msgspec.json.encode(details or {}).decode(),
            "ip": ip,
            "request_id": request_id,
        },
    )
