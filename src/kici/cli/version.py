"""`kici version`."""

from pathlib import Path
from typing import Annotated

import typer

from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import emit
from kici.runtime.buildinfo import build_info, build_info_of_wheel

app = typer.Typer(add_completion=False)


@app.command()
def version(
    of: Annotated[
        Path | None,
        typer.Option(metavar="WHEEL", help="Of a downloaded wheel instead of this installation."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All six build fields.")] = False,
) -> None:
    """Version and build identity of this installation, or of a wheel from the index.

    Example: kici version --json
    """
    with errors_as_exit_codes():
        info = build_info() if of is None else build_info_of_wheel(of)
        if as_json:
            emit(info)
        elif of is None:
            print(f"kici {info.version}")
        else:
            print(f"kici {info.version}\nsdkBundleHash {info.sdk_bundle_hash}")
