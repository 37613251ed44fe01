"""The Platform's REST API as the commands use it, and how a command finds it.

Order: `--platform-url`/`--token`; `KICI_PLATFORM_URL`/`KICI_TOKEN`; `--data-dir` of a `kici up`; the signed-in
configuration (`~/.kici/config`); the default data directory of `kici up`.
"""

import asyncio
import dataclasses
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from kici.cli.config import load, warn_of_expiry
from kici.cli.up.paths import DataDir
from kici.cli.up.state import read_state
from kici.spec.durations import in_words
from kici.spec.errors import InvalidInput, KiciError

TERMINAL = frozenset({"success", "failed", "cancelled", "skipped"})


class NotSignedIn(KiciError):
    """Exit code 4."""

    code: ClassVar[str] = "not_signed_in"


class Unreachable(KiciError):
    """Exit code 5."""

    code: ClassVar[str] = "unreachable"


class Refused(KiciError):
    """The server answered with an error; `status_code` is HTTP's, `reason` and `details` are the server's."""

    code: ClassVar[str] = "refused"

    def __init__(self, message: str, status_code: int, *, reason: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.reason = reason
        self.details = details


@dataclass(frozen=True, slots=True)
class Target:
    platform_url: str
    token: str
    org_id: str
    orchestrator_url: str = ""
    admin_token: str = ""


def _from_data_dir(data: DataDir) -> Target | None:
    state = read_state(data.state)
    if state is None:
        return None
    try:
        token = data.api_token.read_text().strip()
        admin = data.admin_token.read_text().strip()
    except OSError:
        return None
    return Target(state.platform_url, token, state.org_id, state.orchestrator_url, admin)


def find_target(
    *, data_dir: str | None = None, platform_url: str | None = None, token: str | None = None
) -> Target:
    """Raises NotSignedIn with what to do."""
    url = (platform_url or os.environ.get("KICI_PLATFORM_URL") or "").rstrip("/")
    if url and not url.startswith(("http://", "https://")):
        raise InvalidInput(f"the Platform's address is http://… or https://…, not {url!r}")
    secret = token or os.environ.get("KICI_TOKEN") or ""
    org_id = os.environ.get("KICI_ORG", "")
    if url and secret:
        return Target(url, secret, org_id)
    if data_dir is not None:
        found = _from_data_dir(DataDir.of(data_dir))
        if found is None:
            raise NotSignedIn(f"no running kici keeps its data in {data_dir}: start it with `kici up`")
        return found
    config = load()
    if config.platform_url and url in {"", config.platform_url}:
        stored = secret or config.secret()
        if stored:
            if not secret:
                warn_of_expiry(config)
            return Target(config.platform_url, stored, org_id or config.org_id)
    if url:
        raise NotSignedIn(f"not signed in at {url}: run `kici login --platform-endpoint {url}`")
    found = _from_data_dir(DataDir.of(None))
    if found is None:
        raise NotSignedIn(
            "not signed in: start a local KiCI with `kici up`, sign in with"
            " `kici login --platform-endpoint URL`, or set KICI_PLATFORM_URL and KICI_TOKEN"
        )
    return found if not secret else dataclasses.replace(found, token=secret)


class Client:
    """`async with Client(target)`. Errors become KiciErrors that say what to do next."""

    def __init__(self, target: Target) -> None:
        self.target = target
        import httpx  # a third of a command's start; `--help` needs none of it

        self._http = httpx.AsyncClient(timeout=30, trust_env=False)
        self._org_id = target.org_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._http.aclose()

    async def _call(
        self, method: str, url: str, token: str, body: object = None, params: dict[str, Any] | None = None
    ) -> Any:
        import httpx

        try:
            response = await self._http.request(
                method,
                url,
                json=body,
                params=params,
                headers={"Authorization": f"Bearer {token}"},
            )
        except httpx.HTTPError as error:
            raise Unreachable(
                f"cannot reach {url}: {type(error).__name__}. Is it running? `kici status`"
            ) from error
        if response.status_code >= 400:
            reason, details = "", None
            try:
                view = response.json()
                reason, details = view["code"], view["details"]
                message = f"{view['error']} ({reason}, trace {view['traceId']})"
            except (ValueError, KeyError, TypeError):
                message = response.text[:300]
            if response.status_code == 401:
                raise NotSignedIn(f"{message}: {self._sign_in()}")
            if response.status_code == 403:
                raise NotSignedIn(message)
            if response.status_code == 404 and message.startswith("no such run "):
                message += "; `kici runs list` shows the newest"
            if response.status_code in {502, 503, 504}:
                raise Unreachable(message)
            raise Refused(message, response.status_code, reason=reason, details=details)
        return response.json() if response.content else None

    def _sign_in(self) -> str:
        if self.target.token == os.environ.get("KICI_TOKEN"):
            return "it came from KICI_TOKEN"
        return f"run `kici login --platform-endpoint {self.target.platform_url}`"

    async def org_id(self) -> str:
        if not self._org_id:
            user = await self.get("/api/v1/user")
            if not user["orgs"]:
                raise NotSignedIn("this account belongs to no organisation")
            if len(user["orgs"]) > 1:
                names = ", ".join(sorted(org["name"] for org in user["orgs"]))
                raise InvalidInput(
                    f"you are in several organizations ({names}): choose with `kici org use NAME`"
                )
            self._org_id = user["orgs"][0]["id"]
        return self._org_id

    async def get(self, path: str, **params: Any) -> Any:
        return await self._call(
            "GET", self.target.platform_url + path, self.target.token, params=params or None
        )

    async def post(self, path: str, body: object = None, **params: Any) -> Any:
        return await self._call(
            "POST", self.target.platform_url + path, self.target.token, body or {}, params or None
        )

    async def delete(self, path: str) -> None:
        await self._call("DELETE", self.target.platform_url + path, self.target.token)

    async def admin(self, method: str, path: str, body: object = None) -> Any:
        """The orchestrator's admin API, for a local installation."""
        return await self._call(
            method, f"{self.target.orchestrator_url}/api/v1/admin{path}", self.target.admin_token, body
        )

    async def org(self, path: str) -> str:
        return f"/api/v1/orgs/{await self.org_id()}{path}"

    async def runs(self, **filters: Any) -> list[dict[str, Any]]:
        answer = await self.get(await self.org("/runs"), **filters)
        return answer["runs"]

    async def detail(self, run_id: str) -> dict[str, Any]:
        return await self.get(await self.org(f"/runs/{run_id}/detail"))

    async def cancel(self, run_id: str, *, force: bool) -> dict[str, Any]:
        return await self.post(await self.org(f"/runs/{run_id}/cancel"), {"force": force})

    async def log_page(
        self,
        run_id: str,
        job_id: str,
        step_index: int,
        *,
        offset: int = 0,
        limit: int = 5000,
        tail: int | None = None,
    ) -> dict[str, Any]:
        path = await self.org(f"/runs/{run_id}/jobs/{job_id}/steps/{step_index}/logs")
        params: dict[str, Any] = {"offset": offset, "limit": limit}
        if tail is not None:
            params["tail"] = tail
        return await self.get(path, **params)

    async def wait_for_run(self, run_id: str, *, patience_seconds: float) -> dict[str, Any]:
        """Until the run ended. Raises Unreachable when it does not in time."""
        path = await self.org(f"/runs/{run_id}")
        pause = 0.05
        try:
            async with asyncio.timeout(patience_seconds):
                while True:
                    run = (await self.get(path))["run"]
                    if run["status"] in TERMINAL:
                        return run
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.3, 1.0)
        except TimeoutError:
            raise Unreachable(
                f"run {run_id} has not ended after {in_words(patience_seconds * 1000)}; see `kici runs show {run_id}`"
            ) from None

    async def log_tail(self, run_id: str, *, lines: int) -> list[str]:
        """The last lines of each job's last step, for a first look."""
        shown: list[str] = []
        for job in (await self.detail(run_id))["jobs"]:
            steps = [step for step in job["steps"] if step["stepIndex"] >= 0]
            if steps:
                page = await self.log_page(run_id, job["jobId"], steps[-1]["stepIndex"], tail=lines)
                shown += [f"{job['jobName']} │ {line}" for line in page["lines"]]
        return shown[-lines:]

    async def all_lines(self, run_id: str, job_id: str, step_index: int) -> AsyncGenerator[list[str]]:
        """Page by page, so that a large log needs little memory."""
        offset = 0
        while True:
            page = await self.log_page(run_id, job_id, step_index, offset=offset, limit=20_000)
            if page["lines"]:
                yield page["lines"]
            offset += len(page["lines"])
            if not page["lines"] or offset >= page["totalLines"]:
                return
