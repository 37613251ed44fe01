"""The deliveries page while the orchestrator is away: event-log rows in the orchestrator's shape."""

from datetime import datetime
from typing import Literal

from kici.protocol.dashboard_v1 import DeliveryList, DeliveryView
from kici.runtime.database import AsyncConnection, text

_CURSOR = "platform:"

_PAGE = text("""
    SELECT request_id, routing_key, source_name, event, delivery_id, status, reason, received_at, settled_at
    FROM event_log
    WHERE org_id = :org_id AND (CAST(:before AS timestamptz) IS NULL OR received_at < :before)
    ORDER BY received_at DESC LIMIT :limit
""")


def is_own_cursor(before: str | None) -> bool:
    """Did the page before come from here?"""
    return before is not None and before.startswith(_CURSOR)


async def listing(tx: AsyncConnection, org_id: str, *, limit: int, before: str | None) -> DeliveryList:
    moment: datetime | None = None
    if before is not None and is_own_cursor(before):
        try:
            moment = datetime.fromisoformat(before.removeprefix(_CURSOR))
        except ValueError:
            moment = None  # a bad cursor is the first page
    rows = (await tx.execute(_PAGE, {"org_id": org_id, "before": moment, "limit": limit})).mappings().all()
    via: Literal["relay"] = "relay"
    views = [
        DeliveryView(
            delivery_id=row["delivery_id"] or row["request_id"],
            routing_key=row["routing_key"],
            source_name=row["source_name"],
            event=row["event"] or "",
            action=None,
            via=via,
            status=row["status"],
            repo_identifier=None,
            ref=None,
            request_id=row["request_id"],
            received_at=row["received_at"],
            processed_at=None,
            matched_count=0,
            error=row["reason"],
            decisions=[],
        )
        for row in rows
    ]
    more = len(rows) == limit
    return DeliveryList(
        deliveries=views, next_before=_CURSOR + rows[-1]["received_at"].isoformat() if more else None
    )
