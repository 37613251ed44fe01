"""The first schema."""

from pathlib import Path

from alembic import op

from kici.runtime.database import run_script

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_script(op.get_bind(), Path(__file__).with_suffix(".sql").read_text(encoding="utf-8"))
