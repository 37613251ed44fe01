import tempfile
import unittest
from pathlib import Path

from shop.database import MIGRATIONS, connect, migrate


class MigrationTest(unittest.TestCase):
    def test_a_second_time_changes_nothing(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shop.db"
            self.assertEqual(migrate(path), len(MIGRATIONS))
            self.assertEqual(migrate(path), 0)
            with connect(path) as database:
                self.assertEqual(database.execute("SELECT count(*) FROM teas").fetchone(), (2,))
