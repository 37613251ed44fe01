"""Which packages there are, what they use, and which of them a change concerns."""

from collections.abc import Iterable, Mapping, Sequence

USES: Mapping[str, Sequence[str]] = {
    "libs/text": (),
    "services/api": ("libs/text",),
    "services/web": ("libs/text",),
}


def concerned_by(files: Iterable[str] | None) -> list[str]:
    """All of them when the change is unknown, or is about something that belongs to none."""
    if files is None:
        return list(USES)
    changed: set[str] = set()
    for file in files:
        owner = next((package for package in USES if file.startswith(f"{package}/")), None)
        if owner is None:
            return list(USES)
        changed.add(owner)
    return [package for package, used in USES.items() if package in changed or changed & {*used}] or list(
        USES
    )
