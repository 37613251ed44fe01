"""Where a command finds the workflows."""

import os
from pathlib import Path

from kici.cli.author import find_kici_dir


def kici_folder(given: Path | None) -> Path:
    """The real path of the `.kici` that a command works on. Raises NoKiciDir."""
    return Path(os.path.realpath(find_kici_dir(given)))
