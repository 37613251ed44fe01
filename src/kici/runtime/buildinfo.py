"""Which build is this? Six identity fields of seed 004, same on `/health`, in one start-up line and in
`kici version --json` (AG-94, OP-34, AU-103).

A bundle hash is SHA-256 over the sorted (path, SHA-256 of the file) pairs of the package's sources. The
three bundles are the author's library (`sdk`, with compiler and runner), what all tiers share
(`spec` and `protocol`), and the decisions (`engine`).
"""

import hashlib
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import msgspec
from msgspec import Struct

import kici

UNKNOWN = "unknown"
_BUNDLES = {
    "sdk": ("sdk", "compiler", "runner"),
    "shared": ("spec", "protocol"),
    "engine": ("engine",),
}


class BuildInfo(Struct, frozen=True, kw_only=True, rename="camel"):
    version: str
    build_commit: str
    build_date: str
    sdk_version: str
    sdk_bundle_hash: str
    shared_version: str
    shared_bundle_hash: str
    engine_version: str
    engine_bundle_hash: str


def _bundle_hash(rooms: tuple[str, ...]) -> str:
    root = os.path.dirname(os.path.abspath(kici.__file__))
    total = hashlib.sha256()
    try:
        for room in sorted(rooms):
            for folder, folders, names in sorted(os.walk(os.path.join(root, room))):
                folders.sort()
                for name in sorted(names):
                    if name.endswith(".py"):
                        path = os.path.join(folder, name)
                        with open(path, "rb") as file:
                            digest = hashlib.file_digest(file, "sha256").hexdigest()
                        relative = os.path.relpath(path, root).replace(os.sep, "/")
                        total.update(f"{relative}\0{digest}\n".encode())
    except OSError:
        return UNKNOWN
    return total.hexdigest()


@cache
def build_info() -> BuildInfo:
    try:
        number = version("kici")
    except PackageNotFoundError:
        number = UNKNOWN
    hashes = {name: _bundle_hash(rooms) for name, rooms in _BUNDLES.items()}
    return BuildInfo(
        version=number,
        build_commit=UNKNOWN,
        build_date=UNKNOWN,
        sdk_version=number,
        sdk_bundle_hash=hashes["sdk"],
        shared_version=number,
        shared_bundle_hash=hashes["shared"],
        engine_version=number,
        engine_bundle_hash=hashes["engine"],
    )


def build_fields() -> dict[str, str]:
    """The fields by their wire names."""
    return msgspec.to_builtins(build_info())
