"""Who starts runs while things break, in all ways there are, and what was answered to them."""

import base64
import hashlib
import hmac
import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, assert_never

import httpx
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kici.cli.local.repository import Repository as WorkTree
from kici.cli.remote.pack import Packed, pack, pieces
from kici.cli.remote.tree import make_git, survey
from kici.protocol.overlay import seal, upload_key
from tests.faults.plan import Sending
from tests.faults.workload import SCENARIOS, SECRET, SOURCE, remote_workflow
from tests.support.stack import Repository, Stack, eventually

T = TypeVar("T")

Said = Literal["asked", "ended", "unknown"]  # to a cancel

_ANSWER_SECONDS = 15.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was answered with 2xx. `delivery`: its id; "" when the run's own id was the answer.
    `kept`: by the Platform, no orchestrator being there."""

    sending: Sending
    delivery: str = ""
    run_id: str = ""
    kept: bool = False

    @property
    def workflows(self) -> tuple[str, ...]:
        """That it starts."""
        return SCENARIOS[self.sending.scenario] if self.delivery else ()


class _Doubtful(Exception):
    """Whether it was done is not known."""


class _NotNow(Exception):
    """It was not done; again later."""


@dataclass
class Deliveries:
    """Sends, and remembers what was accepted, and what was said to cancels. Called in threads."""

    stack: Stack
    repository: Repository
    marks: Path
    accepted: list[Accepted] = field(default_factory=list[Accepted])
    doubtful: int = 0  # starts that are not idempotent, whose answer was lost: each is a run or none
    cancels: dict[str, Said] = field(default_factory=dict[str, Said])  # by run
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sent: int = 0
    _tree: "_WorkTree | None" = None
    _ended_run: str = ""
    _registration: str = ""

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

    def prepare(self, ended_run: str, folder: Path) -> None:
        """`ended_run`: of `faults`, which reruns repeat. `folder`: for a working tree that is sent."""
        self._ended_run = ended_run
        registered = self.stack.api("GET", "/registrations")["registrations"]
        self._registration = next(one["id"] for one in registered if one["workflowName"] == "faults")
        self._tree = _WorkTree.made(folder, remote_workflow(str(self.marks)))

    def send(self, sending: Sending, *, give_up_seconds: float = 90.0) -> Accepted:
        """Until it is accepted: the same again where that is safe, as a forge re-sends."""
        with self._lock:
            self._sent += 1
            name = f"fault-{self._sent}-{time.time_ns()}"
        until = time.monotonic() + give_up_seconds
        doubts = 0
        once = self._once(sending, name)
        while True:
            try:
                accepted = once()
            except _NotNow as problem:
                if doubts and sending.route == "rerun":
                    # Too soon after the one whose answer was lost, or after somebody else's.
                    accepted = None
                    break
                last = str(problem)
            except (_Doubtful, httpx.HTTPError) as problem:
                doubts += sending.route in {"rerun", "registration"}
                last = repr(problem)
            else:
                break
            if time.monotonic() > until:
                raise AssertionError(f"{sending} is refused: {last}")
            time.sleep(_PAUSE_SECONDS)
        with self._lock:
            self.doubtful += doubts
            if accepted is None:
                return Accepted(sending)
            self.accepted.append(accepted)
            return accepted

    def _once(self, sending: Sending, name: str) -> Callable[[], Accepted]:
        """One try. Raises _NotNow, _Doubtful, and what httpx does."""
        match sending.route:
            case "push" | "direct" | "relay":
                return lambda: self._webhook(sending, name)
            case "rerun":
                return lambda: self._started(sending, f"/runs/{self._ended_run}/rerun")
            case "registration":
                return lambda: self._started(sending, f"/registrations/{self._registration}/run")
            case "remote":
                assert self._tree is not None
                travel = _Travel(self, self._tree, sending, name)
                return travel.once
            case _:
                assert_never(sending.route)

    def _webhook(self, sending: Sending, name: str) -> Accepted:
        stack = self.stack
        if sending.route == "push":
            answer = call(
                f"{stack.orchestrator_url}/api/v1/admin/sources/{self.repository.name}/trigger",
                json.dumps({"deliveryId": name}).encode(),
                {"Authorization": f"Bearer {stack.admin_token}"},
            )
        else:
            base = stack.orchestrator_url if sending.route == "direct" else stack.platform_url
            body = json.dumps({"delivery": name, "padding": "x" * 2000}).encode()
            signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
            answer = call(
                f"{base}/webhook/{stack.org_id}/generic/{SOURCE}",
                body,
                {
                    "X-Signature-256": f"sha256={signature}",
                    "X-Delivery-Id": name,
                    "X-Event-Type": sending.scenario,
                },
            )
        if not answer.is_success:
            raise _NotNow(f"{answer.status_code} {answer.text}")
        kept = sending.route == "relay" and answer.json().get("queued") is True
        return Accepted(sending, delivery=name, kept=kept)

    def _started(self, sending: Sending, path: str) -> Accepted:
        """By hand: nothing tells two tries from two wishes."""
        return Accepted(sending, run_id=self.ask(path, {})["newRunId"])

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to the Platform, below the organisation. Raises _NotNow and _Doubtful."""
        url = f"{self.stack.platform_url}/api/v1/orgs/{self.stack.org_id}{path}"
        try:
            answer = call(url, json.dumps(body).encode(), {"Authorization": f"Bearer {self.stack.token}"})
        except httpx.ConnectError as error:
            raise _NotNow(repr(error)) from error
        if answer.is_success:
            return answer.json()
        if answer.status_code == 429:
            raise _NotNow(answer.text)
        raise _Doubtful(f"{answer.status_code} {answer.text}")

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────

    def cancel(self, accepted: Accepted, after_seconds: float) -> None:
        """Cancel one of its runs, so long after it appeared; again until somebody says yes or no."""
        run_id = accepted.run_id or eventually(
            patient(lambda: self._run_of(accepted.delivery)),
            within_seconds=120,
            what=f"a run of {accepted.delivery}",
        )
        assert run_id is not None
        time.sleep(after_seconds)
        url = f"{self.stack.platform_url}/api/v1/orgs/{self.stack.org_id}/runs/{run_id}/cancel"
        doubtful = False  # an answer that was lost may have been yes

        def answered() -> Said | None:
            nonlocal doubtful
            try:
                answer = call(url, b"{}", {"Authorization": f"Bearer {self.stack.token}"})
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
            self.cancels[run_id] = "unknown"  # until somebody says
        said = eventually(answered, within_seconds=120, what=f"an answer to a cancel of {run_id}")
        assert said is not None
        with self._lock:
            self.cancels[run_id] = said

    def _run_of(self, delivery: str) -> str | None:
        """The id of a run of it, if the list has it already."""
        for run in self.stack.api("GET", "/runs", params={"pageSize": 50})["runs"]:
            if run["deliveryId"] == delivery:
                return run["runId"]
        return None


# ── working trees ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _WorkTree:
    """An author's repository, packed once."""

    sha: str
    lock: str
    packed: Packed

    @classmethod
    def made(cls, folder: Path, workflow: str) -> "_WorkTree":
        clone = folder / "far"
        clone.mkdir()
        author = Repository("far", folder, clone)
        author.git("init", "-q", "-b", "main")
        author.write({"far.py": workflow, "./note.txt": "a note\n"})
        sha = author.commit("Far")
        tree = WorkTree(clone)
        packed = pack(survey(tree), make_git(tree, folder / "far.git"), folder / "far.tar.gz")
        return cls(sha, (clone / ".kici" / "kici.lock.json").read_text(), packed)


class _Travel:
    """One remote run: a place for the tree, the tree, the start. Goes on where it was stopped; starting
    twice is starting once."""

    def __init__(self, deliveries: Deliveries, tree: _WorkTree, sending: Sending, name: str) -> None:
        self._deliveries = deliveries
        self._tree = tree
        self._sending = sending
        self._name = name
        self._body: dict[str, Any] | None = None

    def once(self) -> Accepted:
        if self._body is None:
            self._body = self._upload()
        answer = self._deliveries.ask("/test/trigger", self._body)
        return Accepted(self._sending, run_id=answer["runId"])

    def _upload(self) -> dict[str, Any]:
        tree = self._tree
        begun = self._deliveries.ask(
            "/test/uploads/init",
            {
                "sha": tree.sha,
                "fileCount": tree.packed.file_count,
                "compressedSize": tree.packed.sealed_bytes,
            },
        )
        private = X25519PrivateKey.generate()
        key = upload_key(private, base64.b64decode(begun["publicKey"]))
        sealed = b"".join(seal(key, pieces(tree.packed.path)))
        answer = httpx.put(begun["signedUrl"], content=sealed, timeout=_ANSWER_SECONDS, trust_env=False)
        if not answer.is_success:
            raise _NotNow(f"{answer.status_code} {answer.text}")
        return {
            "fixtureId": self._name,
            "event": {"type": "dispatch", "action": "far"},
            "uploadId": begun["uploadId"],
            "cliPublicKey": base64.b64encode(private.public_key().public_bytes_raw()).decode(),
            "inlineLockFile": tree.lock,
            "workflowName": "far",
            "checkMode": self._sending.scenario,
            "repository": "far",
            "branch": "main",
        }


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────


def call(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(
        url,
        content=body,
        headers={"Content-Type": "application/json", **headers},
        timeout=_ANSWER_SECONDS,
        trust_env=False,
    )


def patient(probe: Callable[[], T | None]) -> Callable[[], T | None]:
    """Somebody who is away has not answered yet."""

    def asked() -> T | None:
        try:
            return probe()
        except (httpx.HTTPError, AssertionError, OSError, subprocess.SubprocessError):
            return None

    return asked
