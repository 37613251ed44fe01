"""`kici admin drain-worker`: let a worker finish what it has, and take nothing new."""

import os
import urllib.parse
from typing import Annotated, Any

import typer

from kici.cli.capabilities import CapabilityMissing
from kici.cli.errors import errors_as_exit_codes
from kici.spec.errors import InvalidInput

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Work on running processes.")


@app.callback()
def admin() -> None:
    """Work on running processes. `kici-admin` has the rest."""


@app.command("drain-worker")
def drain_worker(
    url: Annotated[str, typer.Option(metavar="URL", help="HTTP address of the worker.")],
) -> None:
    """Ask a worker to drain; prints how many jobs it still has.

    Example: kici admin drain-worker --url http://worker-1:10143
    """
    with errors_as_exit_codes():
        if urllib.parse.urlsplit(url).scheme not in {"http", "https"}:
            raise InvalidInput(f"--url {url!r} is no http address")
        import httpx

        from kici.cli.client import NotSignedIn, Refused, Unreachable

        token = os.environ.get("KICI_ADMIN_TOKEN", "")
        try:
            answer = httpx.post(
                f"{url.rstrip('/')}/api/v1/admin/drain",
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise Unreachable(f"cannot reach {url}: {type(error).__name__}") from None
        if answer.status_code in {401, 403}:
            raise NotSignedIn(
                "the worker refused the token: set KICI_ADMIN_TOKEN to one of its admin tokens"
            )
        if answer.status_code in {404, 405}:
            raise CapabilityMissing(
                f"{url} is no worker that can be drained: this version drains agents only (SIGUSR1 to the agent)"
            )
        if answer.status_code >= 400:
            raise Refused(answer.text[:300], answer.status_code)
        body: dict[str, Any] = answer.json()
        print(f"{body['activeJobs']} active jobs")
