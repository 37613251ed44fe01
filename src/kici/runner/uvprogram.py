"""Where the program uv is: hosts look for it, runners may live in an environment that has none."""

import os
import shutil
import sys
from collections.abc import Mapping


def find_uv(environ: Mapping[str, str]) -> str | None:
    """uv beside our interpreter, else on PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    return beside if os.access(beside, os.X_OK) else shutil.which("uv", path=environ.get("PATH"))
