"""`kici version`."""

from typing import Annotated

import msgspec
import typer

from kici.runtime.buildinfo import build_info

app = typer.Typer(add_completion=False)


@app.command()
def version(
    as_json: Annotated[bool, typer.Option("--json", help="All six build fields.")] = False,
) -> None:
    """Version and build identity of this installation.

    Example: kici version --json
    """
    info = build_info()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(info), indent=2).decode())
    else:
        print(f"kici {info.version}")
