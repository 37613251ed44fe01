"""Executes the `console run` blocks of documentation pages and writes what they print into the pages.

python scripts/record_docs.py                      every page with such blocks
python scripts/record_docs.py matrix.md caches.md  these
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.process.docs.pages import pages
from tests.process.docs.replay import is_executed, record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="*", help="file names; default: all")
    wanted = parser.parse_args().page
    for page in pages():
        if (wanted and page.name not in wanted) or not is_executed(page):
            continue
        with tempfile.TemporaryDirectory(prefix="kici-docs-") as folder:
            print(f"{'recorded' if record(page, Path(folder)) else 'same':9} {page.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
