"""The committed schema dumps are what the migrations make."""

from pathlib import Path

import pytest

from tests.support import postgres

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tier", postgres.TIERS)
def test_the_committed_schema_is_what_the_migrations_make(postgres_server: postgres.Server, tier: str):
    committed = (ROOT / "src" / "kici" / tier / "db" / "schema.sql").read_text(encoding="utf-8")
    assert postgres_server.schema(tier) == committed, "run `make gen` and commit"
