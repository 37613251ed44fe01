"""`kici types`: secret names as `Literal` types, one per environment, for editors and type checkers."""

import asyncio
import keyword
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kici.cli.author import find_kici_dir
from kici.cli.capabilities import CapabilityMissing, collection
from kici.cli.client import Client, Unreachable, find_target
from kici.cli.errors import errors_as_exit_codes

app = typer.Typer(add_completion=False)

_REFRESH_LIMIT_S = 5
STUB = Path("types") / "kici_secrets.pyi"


@app.command("types")
def types_command(
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
) -> None:
    """Write .kici/types/kici_secrets.pyi: which secrets each environment has. Names only.

    Example: kici types
    """
    with errors_as_exit_codes():
        folder = find_kici_dir(kici_dir)
        names = asyncio.run(fetch(data_dir))
        path = write(folder, names)
        print(f"✓ {path.relative_to(folder.parent)}: {len(names)} environments")


def refresh(kici_dir: Path) -> None:
    """What `kici compile` does for people who are signed in (AU-135): a server without secrets is no failure.

    Raises KiciError, also when the server takes longer than a compilation should.
    """

    async def soon() -> dict[str, list[str]]:
        async with asyncio.timeout(_REFRESH_LIMIT_S):
            return await fetch(None)

    try:
        names = asyncio.run(soon())
    except CapabilityMissing:
        return
    except TimeoutError:
        raise Unreachable(f"the server did not answer within {_REFRESH_LIMIT_S} s") from None
    write(kici_dir, names)


def write(kici_dir: Path, names: Mapping[str, Iterable[str]]) -> Path:
    path = kici_dir / STUB
    path.parent.mkdir(parents=True, exist_ok=True)
    text = stub(names)
    if not path.is_file() or path.read_text("utf-8") != text:
        scratch = path.with_suffix(".tmp")
        scratch.write_text(text, "utf-8")
        os.replace(scratch, path)
    return path


async def fetch(data_dir: str | None) -> dict[str, list[str]]:
    """Environment → names of its secrets. Raises CapabilityMissing."""
    async with Client(find_target(data_dir=data_dir)) as client:
        listed: dict[str, Any] = await collection(
            client, "/environments", "environments and secrets", includeSecrets=True
        )
    return {entry["name"]: sorted(entry["secretNames"]) for entry in listed["environments"]}


def stub(names: Mapping[str, Iterable[str]]) -> str:
    """Pure: the same names give the same bytes."""
    lines = [
        "# Made by `kici types`; the names of secrets, never their values.",
        "from typing import Literal",
        "",
    ]
    seen: set[str] = set()
    for environment in sorted(names):
        alias = _alias(environment)
        while alias in seen:
            alias += "_"
        seen.add(alias)
        lines.append(f"{alias} = {_literal(names[environment])}  # {environment}")
    environments = _literal(names)
    lines.append(f"Environment = {environments}")
    return "\n".join(lines) + "\n"


def _literal(names: Iterable[str]) -> str:
    quoted = ", ".join(repr(name) for name in sorted(names))
    return f"Literal[{quoted}]" if quoted else "Literal['']"


def _alias(environment: str) -> str:
    """`prod-eu` → `ProdEu`."""
    words = "".join(character if character.isalnum() else " " for character in environment).split()
    alias = "".join(word[:1].upper() + word[1:] for word in words) or "Unnamed"
    return f"_{alias}" if alias[0].isdigit() or keyword.iskeyword(alias) else alias
