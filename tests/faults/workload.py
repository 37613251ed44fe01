"""What runs while things break, and who sends it."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar, assert_never

import httpx

from tests.faults.plan import Route
from tests.support.stack import Repository, Stack, eventually

T = TypeVar("T")

Said = Literal["asked", "ended", "unknown"]  # to a cancel

SOURCE = "fault-hook"
SECRET = "a secret of the fault suite"

# Two matrix children, a join that reads their outputs, a log that is longer than one block.
WORKFLOW = '''
import os

from kici import Context, generic_webhook, job, push, step, workflow

MARKS = {marks!r}


def note(ctx: Context) -> None:
    """One line per execution of a job: appends are atomic."""
    line = f"{{ctx.run_info.run_id}} {{ctx.run_info.job}} {{ctx.run_info.attempt}}\\n"
    with open(MARKS, "a") as file:
        file.write(line)


@step
async def count(ctx: Context) -> dict[str, int]:
    note(ctx)
    size = int(ctx.matrix["size"])
    await ctx.sh('seq -f "line %.0f" 1 "$size"; sleep 0.2; echo done', size=size)
    return {{"size": size}}


counts = job("count", runs_on="kici:os:linux", matrix={{"size": [300, 5000]}}, steps=[count])


@job(runs_on="kici:os:linux", needs=[counts])
async def total(ctx: Context) -> None:
    note(ctx)
    print("joined")
    await ctx.sh("sleep 0.1; printf 'no newline at the end'")


faults = workflow(
    "faults", on=[push(branches="main"), generic_webhook(source={source!r})], jobs=[counts, total]
)
'''

JOBS = {"count (300)": 300, "count (5000)": 5000, "total": None}


def expected_log(job_name: str) -> bytes:
    size = JOBS[job_name]
    if size is None:
        return b"joined\nno newline at the end"
    return b"".join(b"line %d\n" % number for number in range(1, size + 1)) + b"done\n"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A delivery that was answered with 2xx. `kept`: by the Platform, no orchestrator being there."""

    delivery: str
    route: Route
    kept: bool


@dataclass
class Deliveries:
    """Sends deliveries and remembers which were accepted, and what was said to cancels. Called in threads."""

    stack: Stack
    repository: Repository
    accepted: list[Accepted] = field(default_factory=list[Accepted])
    cancels: dict[str, Said] = field(default_factory=dict[str, Said])  # by delivery
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0

    def add_source(self) -> None:
        """The signed webhook source that both ways in know."""
        self.stack.admin(
            "POST",
            "/sources",
            json={
                "kind": "generic",
                "name": SOURCE,
                "verificationMethod": "hmac_sha256",
                "secret": SECRET,
                "rateLimitRpm": 1_000_000,
                "dedupWindowSeconds": 86_400,
            },
        )

    def send(self, route: Route, *, give_up_seconds: float = 90.0) -> str:
        """One delivery; the same id again until it is accepted, as a forge re-sends."""
        with self._lock:
            self._sent += 1
            delivery = f"fault-{self._sent}-{time.time_ns()}"
        until = time.monotonic() + give_up_seconds
        while True:
            try:
                answer = self._post(route, delivery)
            except httpx.HTTPError as error:
                problem = repr(error)
            else:
                if answer.is_success:
                    kept = route == "relay" and answer.json().get("queued") is True
                    with self._lock:
                        self.accepted.append(Accepted(delivery, route, kept))
                    return delivery
                problem = f"{answer.status_code} {answer.text}"
            if time.monotonic() > until:
                raise AssertionError(f"a delivery by {route} is refused: {problem}")
            time.sleep(0.05)

    def _post(self, route: Route, delivery: str) -> httpx.Response:
        stack = self.stack
        match route:
            case "push":
                return _call(
                    f"{stack.orchestrator_url}/api/v1/admin/sources/{self.repository.name}/trigger",
                    json.dumps({"deliveryId": delivery}).encode(),
                    {"Authorization": f"Bearer {stack.admin_token}"},
                )
            case "direct" | "relay":
                base = stack.orchestrator_url if route == "direct" else stack.platform_url
                body = json.dumps({"delivery": delivery, "padding": "x" * 2000}).encode()
                signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
                return _call(
                    f"{base}/webhook/{stack.org_id}/generic/{SOURCE}",
                    body,
                    {"X-Signature-256": f"sha256={signature}", "X-Delivery-Id": delivery},
                )
            case _:
                assert_never(route)

    def run_of(self, delivery: str) -> str | None:
        """The id of its run, if the list has it already."""
        for run in self.stack.api("GET", "/runs", params={"pageSize": 50})["runs"]:
            if run["deliveryId"] == delivery:
                return run["runId"]
        return None

    def cancel(self, delivery: str, after_seconds: float) -> None:
        """Cancel its run, so long after it appeared; again until somebody says yes or no."""
        run_id = eventually(
            _patient(lambda: self.run_of(delivery)), within_seconds=120, what=f"a run of {delivery}"
        )
        time.sleep(after_seconds)
        state = self.stack.state()
        assert state is not None
        url = f"{self.stack.platform_url}/api/v1/orgs/{state['orgId']}/runs/{run_id}/cancel"

        doubtful = False  # an answer that was lost may have been yes

        def answered() -> Said | None:
            nonlocal doubtful
            try:
                answer = _call(url, b"{}", {"Authorization": f"Bearer {self.stack.token}"})
            except httpx.HTTPError:
                doubtful = True
                return None
            match answer.status_code:
                case 202:
                    return "asked"
                case 409:
                    return "unknown" if doubtful else "ended"
                case _:
                    doubtful = True
                    return None

        with self._lock:
            self.cancels[delivery] = "unknown"  # until somebody says
        said = eventually(answered, within_seconds=120, what=f"an answer to a cancel of {run_id}")
        assert said is not None
        with self._lock:
            self.cancels[delivery] = said


def _call(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(
        url,
        content=body,
        headers={"Content-Type": "application/json", **headers},
        timeout=15,
        trust_env=False,
    )


def _patient(probe: Callable[[], T | None]) -> Callable[[], T | None]:
    """Somebody who is away has not answered yet."""

    def patient() -> T | None:
        try:
            return probe()
        except (httpx.HTTPError, AssertionError, OSError):
            return None

    return patient
