"""How `kici-admin` finds the orchestrator and speaks to it (OR-242).

Order: `--data-dir` of a `kici up`; KICI_ADMIN_URL with KICI_ADMIN_TOKEN or KICI_ADMIN_TOKEN_FILE; the default
data directory of `kici up`.
"""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import msgspec
import typer

from kici.cli.up.paths import DataDir
from kici.cli.up.state import read_state
from kici.spec.errors import KiciError

if TYPE_CHECKING:
    import httpx  # a command that only prints its help does without

FAILED, USAGE, UNREACHABLE, DENIED = 1, 2, 3, 4
DEFAULT_URL = "http://localhost:10143"

DataDirOption = Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


class AdminFailed(KiciError):
    """`exit_code` as OR-242 says."""

    code: ClassVar[str] = "admin_failed"

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@contextmanager
def errors_as_exit_codes() -> Generator[None]:
    try:
        yield
    except AdminFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _target(data_dir: str | None) -> tuple[str, str]:
    if data_dir is None:
        token = os.environ.get("KICI_ADMIN_TOKEN")
        path = os.environ.get("KICI_ADMIN_TOKEN_FILE")
        if token is None and path is not None:
            token = _read(Path(path))
        if token is not None:
            return os.environ.get("KICI_ADMIN_URL", DEFAULT_URL).rstrip("/"), token
    data = DataDir.of(data_dir)
    state = read_state(data.state)
    if state is None:
        raise AdminFailed(
            "no orchestrator is known: start one with `kici up`, or set KICI_ADMIN_URL and KICI_ADMIN_TOKEN",
            UNREACHABLE,
        )
    return state.orchestrator_url, _read(data.admin_token)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AdminFailed(f"cannot read the admin token {path}: {error.strerror}", DENIED) from error


def call(data_dir: str | None, method: str, path: str, *, body: object = None, **params: Any) -> Any:
    """One request; its JSON. Raises AdminFailed with the server's own words."""
    import httpx

    url, token = _target(data_dir)
    try:
        response = httpx.request(
            method,
            f"{url}/api/v1/admin{path}",
            content=msgspec.json.encode(body) if body is not None else None,
            params={name: value for name, value in params.items() if value is not None} or None,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=30,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise AdminFailed(
            f"cannot reach the orchestrator at {url}: {type(error).__name__}", UNREACHABLE
        ) from error
    if response.status_code >= 400:
        raise AdminFailed(_message(response), _exit_code(response.status_code))
    return response.json() if response.content else None


def _message(response: "httpx.Response") -> str:
    try:
        view = response.json()
        details = view.get("details")
        more = f": {msgspec.json.encode(details).decode()}" if details else ""
        return f"{view['error']} ({view['code']}, trace {view['traceId']}){more}"
    except (ValueError, KeyError, AttributeError):
        return f"HTTP {response.status_code}: {response.text[:300]}"


def _exit_code(status: int) -> int:
    if status in {401, 403}:
        return DENIED
    if status in {502, 503, 504}:
        return UNREACHABLE
    return USAGE if status in {400, 422} else FAILED


def emit(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(columns: list[str], rows: list[list[Any]], *, empty: str) -> None:
    """Plain when piped: one row a line, two spaces between columns."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not rows:
        console.print(empty)
        return
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        made.add_column(column, no_wrap=not console.is_terminal, overflow="fold")
    for row in rows:
        made.add_row(*("–" if cell is None or cell == "" else str(cell) for cell in row))
    if not console.is_terminal:
        console = Console(highlight=False, width=400)
    console.print(made)
