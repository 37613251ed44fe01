"""Deliveries as people see them (OR-36, OR-37): what came, what became of it, and why."""

from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import msgspec

from kici.orchestrator.inbox import queries
from kici.protocol.dashboard_v1 import DeliveryList, DeliveryView, PayloadView
from kici.runtime.database import AsyncEngine
from kici.spec.errors import InvalidInput, NotFound

MAX_PAGE = 200
_NEWEST = (datetime(9999, 1, 1, tzinfo=UTC), "ffffffff-ffff-ffff-ffff-ffffffffffff")


class DeliveryNotFound(NotFound):
    code: ClassVar[str] = "delivery_not_found"


class PayloadNotFound(NotFound):
    code: ClassVar[str] = "payload_not_found"


class Deliveries:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def deliveries(self, org_id: str, *, limit: int = 50, before: str | None = None) -> DeliveryList:
        """Newest first; `before` is an earlier answer's `nextBefore`. Raises InvalidInput."""
        size = max(1, min(limit, MAX_PAGE))
        before_at, before_id = _NEWEST if before is None else _cursor(before)
        async with self._engine.connect() as connection:
            rows = await queries.page(
                connection, org_id, limit=size + 1, before_at=before_at, before_id=before_id
            )
        last = rows[size - 1] if len(rows) > size else None
        return DeliveryList(
            deliveries=[_view(row) for row in rows[:size]],
            next_before=None if last is None else f"{last['received_at'].isoformat()}~{last['id']}",
        )

    async def delivery(self, org_id: str, delivery_id: str) -> DeliveryView:
        """The latest with this id. Raises DeliveryNotFound."""
        async with self._engine.connect() as connection:
            row = await queries.one(connection, org_id, delivery_id)
        if row is None:
            raise DeliveryNotFound(f"there is no delivery {delivery_id}")
        return _view(row)

    async def pending(self) -> int:
        async with self._engine.connect() as connection:
            return (await queries.depth(connection))[0]

    async def retry(self, org_id: str, delivery_id: str) -> None:
        """Out of the dead letters, with all attempts ahead (OR-99). Raises DeliveryNotFound."""
        async with self._engine.begin() as tx:
            if not await queries.revive(tx, org_id, delivery_id):
                raise DeliveryNotFound(f"there is no dead delivery {delivery_id}")

    async def payload(self, org_id: str, run_id: str) -> PayloadView:
        """What the webhook that started a run brought. Raises PayloadNotFound."""
        try:
            UUID(run_id)
        except ValueError as error:
            raise PayloadNotFound(f"there is no run {run_id}") from error
        async with self._engine.connect() as connection:
            row = await queries.payload(connection, org_id, run_id)
        if row is None:
            raise PayloadNotFound(f"run {run_id} was not started by a webhook")
        return PayloadView(
            event=row["raw_event"] or row["type"],
            headers=msgspec.json.decode(row["headers"], type=dict[str, str]),
            payload=msgspec.json.decode(row["payload"] or "null"),
            size_bytes=row["size_bytes"],
        )


def _cursor(before: str) -> tuple[datetime, str]:
    at, _, row_id = before.partition("~")
    try:
        moment = datetime.fromisoformat(at)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), str(UUID(row_id))
    except ValueError as error:
        raise InvalidInput(f"{before!r} is not a cursor of this list") from error


def _view(row: dict[str, Any]) -> DeliveryView:
    fields = {name: value for name, value in row.items() if name != "id"}
    fields["decisions"] = queries.decode_decisions(row["decisions"])
    return DeliveryView(**fields)
