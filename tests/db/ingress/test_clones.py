"""Every test starts from an empty, migrated database of its own."""

import pytest

from kici.runtime.database import text
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


@pytest.mark.parametrize("round_number", [1, 2])
async def test_rows_of_one_test_are_not_seen_by_the_next(
    orchestrator_db: Database, round_number: int
) -> None:
    async with orchestrator_db.engine.begin() as tx:
        assert await tx.scalar(text("SELECT count(*) FROM org_settings")) == 0
        await tx.execute(
            text("INSERT INTO org_settings (org_id) VALUES (:org)"), {"org": f"org_{round_number}"}
        )
