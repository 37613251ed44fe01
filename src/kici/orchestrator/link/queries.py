"""The outbox as the link reads it: one statement per exchange, whatever the number of rows."""

from collections.abc import Collection, Sequence

from msgspec import Struct

from kici.runtime.database import AsyncConnection, text


class OutboxRow(Struct, frozen=True):
    seq: int
    payload: str  # JSON of a ProjectionItem without `rev`


# Sequence numbers are drawn before commit, so a lower one may appear after a higher one was sent: what
# is skipped is named row by row, never by "greater than the last". Settled rows are gone only after
# this statement, so they are skipped as well. `floor` keeps the scan off the dead entries that
# yesterday's rows leave in the index while somebody holds an old snapshot.
_EXCHANGE = text("""
    WITH settled AS (DELETE FROM outbox WHERE seq = ANY(CAST(:settled AS bigint[])))
    SELECT seq, document FROM (
        SELECT seq, document, length(document) AS size, sum(length(document)) OVER (ORDER BY seq) AS total
        FROM (SELECT seq, payload::text AS document FROM outbox
              WHERE topic = :topic AND seq > :floor
                  AND seq <> ALL(CAST(:held AS bigint[])) ORDER BY seq LIMIT :rows) waiting
    ) summed WHERE total - size < :bytes ORDER BY seq
""")


async def exchange(
    tx: AsyncConnection,
    topic: str,
    *,
    settled: Sequence[int],
    in_flight: Collection[int],
    floor: int,
    max_rows: int,
    max_bytes: int,
) -> list[OutboxRow]:
    """Remove what was acknowledged, get what comes next above `floor`: at most `max_rows`, and of these none that
    begins behind `max_bytes` of text. Every row not removed is seen again by the next session."""
    asked = {
        "topic": topic,
        "settled": settled,
        "held": [*settled, *in_flight],
        "floor": floor,
        "rows": max_rows,
        "bytes": max_bytes,
    }
    found = await tx.execute(_EXCHANGE, asked)
    return [OutboxRow(seq, payload) for seq, payload in found]
