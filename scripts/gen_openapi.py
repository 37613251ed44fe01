"""Writes `dashboard/openapi.json` from the Platform's routes. Needs no database.

`--check` writes nothing and fails when the committed file differs.

    python scripts/gen_openapi.py [--check]
"""

import argparse
import sys
from pathlib import Path

from kici.platform.http.routes import openapi_document

OUTPUT = Path(__file__).resolve().parent.parent / "dashboard" / "openapi.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail when the committed file differs")
    arguments = parser.parse_args()
    document = openapi_document()
    if arguments.check:
        if not OUTPUT.exists() or OUTPUT.read_bytes() != document:
            sys.exit(f"{OUTPUT.name} is out of date: run `python scripts/gen_openapi.py`")
        return
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_bytes(document)


if __name__ == "__main__":
    main()
