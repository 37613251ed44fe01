"""Writes `docs/reference/lock.schema.json`, the JSON Schema of `.kici/kici.lock.json`, from the Structs that
read and write it (AU-98).

`--check` writes nothing and fails when the committed file differs.

    python scripts/gen_lock_schema.py [--check]
"""

import argparse
import sys
from pathlib import Path

import msgspec

from kici.spec import lock

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "reference" / "lock.schema.json"


def document() -> bytes:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "KiCI lock file",
        "description": (
            f"Schema version {lock.SCHEMA_VERSION}. Readers ignore keys they do not know; durations are "
            "integer milliseconds."
        ),
        **msgspec.json.schema(lock.LockFile),
    }
    return msgspec.json.format(msgspec.json.encode(schema), indent=2) + b"\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed file differs")
    arguments = parser.parse_args()
    made = document()
    if arguments.check:
        if not OUTPUT.exists() or OUTPUT.read_bytes() != made:
            sys.exit(f"{OUTPUT.name} is out of date: run `python scripts/gen_lock_schema.py`")
        return
    OUTPUT.write_bytes(made)


if __name__ == "__main__":
    main()
