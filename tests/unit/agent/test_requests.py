"""Requests of jobs: relayed, asked again after a lost connection, and checked as what they are: hostile."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kici.agent.caches import JobCache
from kici.agent.requests import MAX_PARAMS, Relay, RequestFailed
from kici.agent.services import BURST, REFILL_PER_S, JobServices
from kici.agent.transfer import Transfers, http_base
from kici.protocol import secret_outputs
from kici.protocol.agent_v1 import AgentRequest, AgentResponse, Checkout, JobDispatch, decode_from_agent
from kici.protocol.secret_outputs import SecretOutputBroken
from kici.runner.host import UnknownMethodError
from kici.spec.errors import KiciError
from kici.spec.events import Event
from kici.spec.lock import LockJob, SourceLocation


def _dispatch(**changes: Any) -> JobDispatch:
    values: dict[str, Any] = {
        "run_id": "run-1",
        "job_id": "job-1",
        "attempt": 2,
        "job_name": "build",
        "base_job_name": "build",
        "workflow_name": "ci",
        "workflow_file": ".kici/workflows/ci.py",
        "workflow_export": "ci",
        "content_hash": "",
        "compile_schema_version": 1,
        "sdk_version": "0",
        "resolved_hash_files": [],
        "job": LockJob(name="build", source=SourceLocation(file="", line=1, column=1)),
        "matrix": {},
        "checkout": Checkout(repo_url="", sha="", ref=""),
        "event": Event(type="push"),
        "env": {},
        "upstream_outputs": {},
        "upstream_statuses": {},
        "org_id": "org_1",
        "repo_identifier": "acme/widgets",
        "request_id": "r",
        "timestamp": 0,
    }
    return JobDispatch(**{**values, **changes})


def _services(folder: Path, relay: Relay | None = None, **dispatch: Any) -> JobServices:
    transfers = Transfers("ws://127.0.0.1:9/ws", is_loopback=True)
    cache = JobCache(transfers, str(folder / "cache"), give=lambda _path: None, owner=os.geteuid())
    return JobServices(_dispatch(**dispatch), relay or Relay(), cache, on_event=_ignore)


def _ignore(
    event_type: str, *, duration_ms: int | None = None, metadata: dict[str, Any] | None = None
) -> None:
    """The time line is looked at where a whole job runs."""


async def _refused(services: JobServices, method: str, params: dict[str, Any]) -> str:
    with pytest.raises(KiciError) as caught:
        await services.request("job-1", method, params)
    return caught.value.code


class Peer:
    """The other end of a connection, which can be lost."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.asked: list[AgentRequest] = []

    async def read(self) -> list[AgentRequest]:
        await self.relay.wait_unsent()
        new = [decode_from_agent(frame) for frame in self.relay.take()]
        assert all(isinstance(request, AgentRequest) for request in new)
        self.asked += new
        return new


# ── the relay ────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_is_answered() -> None:
    """AG-12: with what the orchestrator said, be it a result or a refusal."""
    relay = Relay()
    peer = Peer(relay)
    async with asyncio.TaskGroup() as tasks:
        good = tasks.create_task(relay.ask("job-1", 2, "inventory.get", {"agentId": "a"}, timeout_s=5))
        (request,) = await peer.read()
        assert (request.job_id, request.attempt, request.method) == ("job-1", 2, "inventory.get")
        relay.answered(AgentResponse(request_id=request.request_id, job_id="job-1", result={"host": 1}))
        assert await good == {"host": 1}
    with pytest.raises(RequestFailed, match="no such host") as caught:
        async with asyncio.timeout(5):
            asking = asyncio.gather(
                relay.ask("job-1", 2, "inventory.get", {"agentId": "b"}, timeout_s=5), peer.read()
            )
            while len(peer.asked) < 2:
                await asyncio.sleep(0)
            relay.answered(
                AgentResponse(
                    request_id=peer.asked[1].request_id,
                    job_id="job-1",
                    error_code="not_found",
                    error="no such host",
                )
            )
            await asking
    assert caught.value.code == "not_found"


async def test_what_is_open_is_asked_again_on_the_next_connection() -> None:
    """AG-12: under the same request id, in the order asked; what was answered is not."""
    relay = Relay()
    peer = Peer(relay)
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(relay.ask("job-1", 2, "a", {}, timeout_s=5))
        second = tasks.create_task(relay.ask("job-1", 2, "b", {}, timeout_s=5))
        before = await peer.read()
        assert [request.method for request in before] == ["a", "b"]
        relay.answered(AgentResponse(request_id=before[0].request_id, job_id="job-1", result=1))
        assert await first == 1
        relay.connected()
        again = await peer.read()
        assert [request.request_id for request in again] == [before[1].request_id]
        relay.answered(AgentResponse(request_id=again[0].request_id, job_id="job-1", result=2))
        relay.answered(AgentResponse(request_id=again[0].request_id, job_id="job-1", result=3))
        assert await second == 2


async def test_only_its_deadline_ends_a_request() -> None:
    """AG-12: not a lost connection; and a late answer hurts nobody."""
    relay = Relay()
    with pytest.raises(RequestFailed, match=r"did not answer within 0\.05 s") as caught:
        await relay.ask("job-1", 2, "event.emit", {}, timeout_s=0.05)
    assert caught.value.code == "timed_out"
    relay.answered(AgentResponse(request_id="gone", job_id="job-1", result=1))
    relay.connected()
    assert list(relay.take()) == []


async def test_a_request_has_a_size() -> None:
    """AG-37."""
    with pytest.raises(RequestFailed) as caught:
        await Relay().ask("job-1", 2, "event.emit", {"payload": "x" * MAX_PARAMS}, timeout_s=5)
    assert caught.value.code == "too_large"


# ── what author code may ask ─────────────────────────────────────────────────────────────────────


async def test_requests_of_the_wrong_shape_do_not_leave_the_agent(tmp_path: Path) -> None:
    """AG-37: each method's params are checked."""
    relay = Relay()
    services = _services(tmp_path, relay)
    for method, params in [
        ("event.emit", {"payload": {}}),
        ("event.emit", {"name": "", "payload": {}}),
        ("event.emit", {"name": "x", "targetRepos": "acme"}),
        ("inventory.query", {"include": "role:web"}),
        ("inventory.get", {}),
        ("cache.restore", {"key": ""}),
        ("cache.restore", {"key": "k", "restoreKeys": ["k"] * 21}),
        ("cache.commit", {"key": "k", "path": "/etc/passwd"}),
        ("secrets.get", {"key": 1}),
        ("secrets.output", {"key": "K", "value": {"a": 1}}),
    ]:
        assert await _refused(services, method, params) == "invalid_input", method
    with pytest.raises(UnknownMethodError):
        await services.request("job-1", "shell.exec", {})
    assert await _refused(services, "oidc.token", {"audience": "x"}) == "capability_missing"
    relay.connected()
    assert list(relay.take()) == []


async def test_a_loop_of_requests_is_slowed_down(tmp_path: Path) -> None:
    """AG-37: rate. The burst passes at once; who goes on waits for the refill."""
    services = _services(tmp_path)
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(int(BURST) + 25):
        await services.request("job-1", "secrets.list", {})
    assert loop.time() - started >= 20 / REFILL_PER_S


async def test_secrets_are_handed_out_by_name(tmp_path: Path) -> None:
    """AG-64: on request only; a wrong name is answered with those there are."""
    services = _services(tmp_path, secrets={"TOKEN": "t0p", "OTHER": "x"})
    assert await services.request("job-1", "secrets.list", {}) == {"names": ["OTHER", "TOKEN"]}
    assert (await services.request("job-1", "secrets.get", {"key": "TOKEN"}))["value"] == "t0p"
    with pytest.raises(RequestFailed, match="available: OTHER, TOKEN") as caught:
        await services.request("job-1", "secrets.get", {"key": "NOPE"})
    assert caught.value.code == "secret_not_found"


async def test_secret_outputs_are_sealed_to_the_run(tmp_path: Path) -> None:
    """AG-52, SE-40: opens with the run's key alone, for that run, job, attempt and name alone."""
    run_key = X25519PrivateKey.generate()
    public = msgspec.json.encode(run_key.public_key().public_bytes_raw()).decode().strip('"')
    services = _services(tmp_path, run_public_key=public)
    await services.request("job-1", "secrets.output", {"key": "TOKEN", "value": "s3cr3t ✓"})
    sealed = services.sealed_outputs()
    assert "s3cr3t" not in str(sealed)
    bound: dict[str, Any] = {"run_id": "run-1", "job_id": "job-1", "attempt": 2, "name": "TOKEN"}
    assert secret_outputs.unseal(run_key, sealed["TOKEN"], **bound) == "s3cr3t ✓"
    changes: list[dict[str, Any]] = [
        {"run_id": "run-2"},
        {"job_id": "job-2"},
        {"attempt": 1},
        {"name": "OTHER"},
    ]
    for changed in changes:
        with pytest.raises(SecretOutputBroken):
            secret_outputs.unseal(run_key, sealed["TOKEN"], **{**bound, **changed})
    with pytest.raises(SecretOutputBroken):
        secret_outputs.unseal(X25519PrivateKey.generate(), sealed["TOKEN"], **bound)


async def test_secret_outputs_have_limits(tmp_path: Path) -> None:
    """AG-52: twenty of 64 KiB; setting one again is no other one. None in check mode (AU-49)."""
    services = _services(tmp_path)
    for number in range(20):
        await services.request("job-1", "secrets.output", {"key": f"K{number}", "value": "v"})
    await services.request("job-1", "secrets.output", {"key": "K0", "value": "x" * 65_536})
    assert await _refused(services, "secrets.output", {"key": "K20", "value": "v"}) == "limit_exceeded"
    assert (
        await _refused(services, "secrets.output", {"key": "K1", "value": "ä" * 32_769}) == "limit_exceeded"
    )
    assert await _refused(services, "secrets.output", {"key": "a b", "value": "v"}) == "invalid_input"
    checking = _services(tmp_path, check_mode="check")
    assert await _refused(checking, "secrets.output", {"key": "K", "value": "v"}) == "invalid_input"


async def test_without_dependants_only_names_are_told(tmp_path: Path) -> None:
    """AG-52: no key, because nobody can ever need the value."""
    services = _services(tmp_path)
    await services.request("job-1", "secrets.output", {"key": "TOKEN", "value": "s3cr3t"})
    assert services.sealed_outputs() == {"TOKEN": ""}


async def test_a_bad_run_key_is_an_error(tmp_path: Path) -> None:
    """AG-52: then the job fails, instead of losing its outputs."""
    services = _services(tmp_path, run_public_key="AAAA")
    await services.request("job-1", "secrets.output", {"key": "TOKEN", "value": "s3cr3t"})
    with pytest.raises(SecretOutputBroken):
        services.sealed_outputs()


# ── cache archives ───────────────────────────────────────────────────────────────────────────────


async def _saving(tmp_path: Path) -> tuple[JobServices, str, Relay]:
    """A job that was told where to write its archive."""
    relay = Relay()
    services = _services(tmp_path, relay)
    peer = Peer(relay)
    async with asyncio.TaskGroup() as tasks:
        asked = tasks.create_task(services.request("job-1", "cache.save", {"key": "k"}))
        (request,) = await peer.read()
        answer = {"skip": False, "entryId": "e", "path": "/blobs/x", "maxBytes": 100}
        relay.answered(AgentResponse(request_id=request.request_id, job_id="job-1", result=answer))
    return services, asked.result()["path"], relay


@pytest.mark.parametrize("what", ["symlink", "hard link", "folder", "fifo", "too large", "nothing"])
async def test_only_what_the_job_wrote_is_uploaded(tmp_path: Path, what: str) -> None:
    """AG-37: the agent must not be led to a file that the job could not read itself."""
    services, path, _relay = await _saving(tmp_path)
    other = tmp_path / "agent-token"
    other.write_text("kat_secret")
    os.unlink(path)
    match what:
        case "symlink":
            os.symlink(other, path)
        case "hard link":
            os.link(other, path)
        case "folder":
            os.mkdir(path)
        case "fifo":
            os.mkfifo(path)
        case "too large":
            Path(path).write_bytes(b"x" * 101)
        case _:
            pass
    code = await _refused(services, "cache.commit", {"key": "k", "path": path})
    assert code in {"invalid_input", "limit_exceeded"}


async def test_an_archive_is_committed_once_and_under_its_own_key(tmp_path: Path) -> None:
    """AG-37."""
    services, path, _relay = await _saving(tmp_path)
    assert await _refused(services, "cache.commit", {"key": "other", "path": path}) == "invalid_input"
    assert await _refused(services, "cache.commit", {"key": "k", "path": path}) == "invalid_input"


def test_the_http_address_follows_from_the_one_dialled() -> None:
    """AG-76: agents need no second address."""
    assert http_base("ws://127.0.0.1:10143/ws") == "http://127.0.0.1:10143"
    assert http_base("wss://ci.example.org/kici/ws") == "https://ci.example.org/kici"
