"""Where a command finds the workflows."""

import os
import sys
from pathlib import Path

from kici.cli.author import find_kici_dir
from kici.spec.errors import InvalidInput


class NotAtTop(InvalidInput):
    """The `.kici` stands below the top of its git work tree."""


def kici_folder(given: Path | None) -> Path:
    """The real path of the `.kici` that a command works on. Raises NoKiciDir."""
    return Path(os.path.realpath(find_kici_dir(given)))


def not_at_top(folder: Path) -> str | None:
    """What is wrong with the place of `folder`, a `.kici`, and what to do (AU-1). Outside of git nothing is."""
    root = Path(os.path.realpath(folder)).parent
    top = next((place for place in (root, *root.parents) if (place / ".git").exists()), root)
    if top == root:
        return None
    return (
        f".kici is not at the top of its git work tree ({top}), and servers read it only there\n"
        f"  move {root.relative_to(top)}/.kici to {top}, or make {root.relative_to(top)} a repository of its own"
    )


def refuse_below_top(folder: Path) -> None:
    """Raises NotAtTop."""
    wrong = not_at_top(folder)
    if wrong is not None:
        raise NotAtTop(wrong)


def warn_below_top(folder: Path) -> bool:
    """One warning on stderr when the place is wrong; whether it is."""
    wrong = not_at_top(folder)
    if wrong is not None:
        print(f"warning: {wrong}", file=sys.stderr)
    return wrong is not None
