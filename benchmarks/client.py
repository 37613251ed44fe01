"""A client that costs the machine next to nothing: one kept connection, nothing but the standard library."""

import http.client
import json
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

from tests.support.stack import Repository, Stack

_TIMEOUT_S = 60


class Client:
    """One server of the stack. `with Client(url, token) as client: client.get("/…")`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        self._connection.request(method, path, body, self._headers | (headers or {}))
        response = self._connection.getresponse()
        return response.status, response.read()

    def get(self, path: str, **params: Any) -> Any:
        status, body = self.request("GET", f"{path}?{urlencode(params)}" if params else path)
        assert status == 200, f"{path}: {status} {body[:300]!r}"
        return json.loads(body)


class Pushes:
    """Announces a repository's head as its push hook does: a webhook at the orchestrator."""

    def __init__(self, stack: Stack, repository: Repository) -> None:
        self.path = f"/webhook/{stack.org_id}/generic/{repository.name}"
        sha = repository.git("rev-parse", "HEAD")
        described = {
            "id": sha,
            "message": "Change",
            "author": {"name": "Test", "email": "test@example.org"},
        }
        body = {
            "ref": "refs/heads/main",
            "before": "0" * 40,
            "after": sha,
            "created": True,
            "deleted": False,
            "repository": {
                "name": repository.name,
                "full_name": repository.name,
                "default_branch": "main",
            },
            "pusher": {"name": "test"},
            "sender": {"login": "test"},
            "head_commit": described,
        }
        self.body = json.dumps(body).encode()

    def headers(self, delivery: str) -> dict[str, str]:
        return {"Content-Type": "application/json", "X-Event-Type": "push", "X-Delivery-Id": delivery}

    def announce(self, orchestrator: Client, delivery: str) -> None:
        """Returns when the delivery is accepted."""
        status, answer = orchestrator.request("POST", self.path, self.body, self.headers(delivery))
        assert status == 202, f"{status} {answer[:300]!r}"
