"""Which build is this? Six identity fields of seed 004, same on `/health`, in one start-up line and in
`kici version --json` (AG-94, OP-34, AU-103).

A bundle hash is SHA-256 over the sorted (path, SHA-256 of the file) pairs of the package's sources. The
three bundles are the author's library (`sdk`, with compiler and runner), what all tiers share
(`spec` and `protocol`), and the decisions (`engine`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from msgspec import Struct

import kici
from kici.spec.errors import InvalidInput

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


def _bundle_hash(files: Mapping[str, Callable[[], bytes]], rooms: tuple[str, ...]) -> str:
    """`files`: path below the package → its bytes."""
    total = hashlib.sha256()
    try:
        for path in sorted(files):
            if path.endswith(".py") and path.split("/", 1)[0] in rooms:
                digest = hashlib.sha256(files[path]()).hexdigest()
                total.update(f"{path}\0{digest}\n".encode())
    except OSError:
        return UNKNOWN
    return total.hexdigest()


def _installed_files() -> dict[str, Callable[[], bytes]]:
    root = Path(os.path.dirname(os.path.abspath(kici.__file__)))
    return {
        path.relative_to(root).as_posix(): path.read_bytes
        for rooms in _BUNDLES.values()
        for room in rooms
        for path in (root / room).rglob("*.py")
    }


def _info(number: str, files: Mapping[str, Callable[[], bytes]]) -> BuildInfo:
    hashes = {name: _bundle_hash(files, rooms) for name, rooms in _BUNDLES.items()}
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


@cache
def build_info() -> BuildInfo:
    try:
        number = version("kici")
    except PackageNotFoundError:
        number = UNKNOWN
    return _info(number, _installed_files())


def build_info_of_wheel(wheel: Path) -> BuildInfo:
    """The fields of a wheel that lies on disk: what an installation of it would say. Raises InvalidInput."""
    import zipfile

    try:
        with zipfile.ZipFile(wheel) as archive:
            files: dict[str, Callable[[], bytes]] = {
                name.removeprefix("kici/"): partial(archive.read, name)
                for name in archive.namelist()
                if name.startswith("kici/")
            }
            if not files:
                raise InvalidInput(f"{wheel} is no wheel of kici")
            name = wheel.name.split("-")
            return _info(name[1] if len(name) > 2 else UNKNOWN, files)
    except (OSError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{wheel} cannot be read as a wheel: {error}") from None


def build_fields() -> dict[str, str]:
    """The fields by their wire names."""
    return msgspec.to_builtins(build_info())
