"""The shop's database and the steps that lead to its newest form."""

import sqlite3
from pathlib import Path

MIGRATIONS = (
    "CREATE TABLE teas (name TEXT PRIMARY KEY, grams INTEGER NOT NULL)",
    "CREATE TABLE orders (id INTEGER PRIMARY KEY, tea TEXT NOT NULL REFERENCES teas, grams INTEGER NOT NULL)",
    "INSERT INTO teas VALUES ('sencha', 500), ('assam', 100)",
)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=10)


def version(path: Path) -> int:
    with connect(path) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def migrate(path: Path) -> int:
    """Applies what is missing; returns how many."""
    done = version(path)
    with connect(path) as database:
        for number, statement in enumerate(MIGRATIONS[done:], done + 1):
            database.execute(statement)
            database.execute(f"PRAGMA user_version = {number}")
    return len(MIGRATIONS) - done
