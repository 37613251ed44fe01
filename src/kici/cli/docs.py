"""`kici docs`, `kici docs llm`: the documentation of this very version, also without a network (AU-146).

The pages travel in the wheel. A bundle is a set of them in one text that fits a model's context.
"""

import sys
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from kici.cli.errors import errors_as_exit_codes
from kici.spec.errors import InvalidInput, KiciError

app = typer.Typer(add_completion=False)

MAX_BUNDLE_BYTES = 200_000


class DocsMissing(KiciError):
    code: ClassVar[str] = "docs_missing"


@app.callback(invoke_without_command=True)
def docs(
    context: typer.Context,
    no_open: Annotated[bool, typer.Option("--no-open", help="Only print where they are.")] = False,
) -> None:
    """Open the documentation of this version.

    Example: kici docs --no-open
    """
    if context.invoked_subcommand is not None:
        return
    with errors_as_exit_codes():
        place = (folder() / "README.md").as_uri()
        print(place)
        if not no_open and sys.stdout.isatty():
            import webbrowser

            webbrowser.open(place)


@app.command("llm")
def llm(
    topic: Annotated[str | None, typer.Argument(help="A bundle, or `full`; the index without it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it to a file.")] = None,
) -> None:
    """Documentation as one text for a model: an index, a bundle, or all of it. Needs no network.

    Example: kici docs llm sdk
    """
    with errors_as_exit_codes():
        text = read(topic)
        if out is None:
            print(text)
        else:
            out.write_text(text, "utf-8")
            print(f"{out}: {len(text.encode())} bytes", file=sys.stderr)


def folder() -> Path:
    """In the wheel below the package, in a checkout beside `src`."""
    package = Path(__file__).parents[1]
    for place in (package / "docs", package.parents[1] / "docs"):
        if (place / "llm").is_dir():
            return place
    raise DocsMissing("this installation carries no documentation")


def read(topic: str | None) -> str:
    """`llms.txt`, or a bundle by name. Raises InvalidInput with the names there are."""
    place = folder() / "llm"
    if topic is None:
        return (place / "llms.txt").read_text("utf-8")
    names = sorted(path.stem for path in place.glob("*.md"))
    if topic not in names:
        raise InvalidInput(f"there is no bundle {topic!r}; bundles: {', '.join(names)}")
    return (place / f"{topic}.md").read_text("utf-8")
