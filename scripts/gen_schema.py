"""Writes src/kici/<tier>/db/schema.sql: what the migrations make, as `pg_dump --schema-only` says it.

Alembic's own comparison does not see a dropped CHECK or a new function; a textual dump does. A test
compares; run this after changing a migration and commit the result.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import postgres  # noqa: E402


def main() -> None:
    with postgres.serve() as server:
        for tier in postgres.TIERS:
            path = ROOT / "src" / "kici" / tier / "db" / "schema.sql"
            path.write_text(server.schema(tier), encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
