"""What author code may ask for on this machine: `kici.runner.host.RunnerServices` of a local run (AU-115)."""

import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta, Struct

from kici.cli.local.cache import LocalCache
from kici.cli.local.results import EmittedEvent
from kici.cli.local.secrets import Secret, missing
from kici.engine.patterns import InvalidPattern, PatternSet
from kici.engine.triggers import match_workflow
from kici.runner.host import UnknownMethodError
from kici.spec.errors import KiciError
from kici.spec.events import Event
from kici.spec.lock import LockFile
from kici.spec.triggers import Pattern

MAX_SECRET_OUTPUTS = 20
MAX_SECRET_BYTES = 64 << 10
MAX_EVENT_BYTES = 256 << 10
MAX_EVENTS_PER_MINUTE = 100
_NOT_HERE = {
    "oidc.token": "an identity token",
    "provenance.attest": "provenance",
    "host.reboot": "a restart of the machine",
}
_Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class RequestRefused(KiciError):
    """`code` decides which exception the author gets."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # type: ignore[misc]


class _Key(Struct, frozen=True):
    key: _Text


class _Output(Struct, frozen=True):
    key: _Text
    value: str


class _Emit(Struct, frozen=True, rename="camel"):
    name: _Text
    payload: Any = None
    target_repos: list[_Text] = []


class _Restore(Struct, frozen=True, rename="camel"):
    key: _Text
    restore_keys: list[_Text] = []


class _Commit(Struct, frozen=True):
    key: _Text
    path: str


class _Query(Struct, frozen=True):
    include: list[str] = []
    exclude: list[str] = []


class _Host(Struct, frozen=True, rename="camel"):
    agent_id: str


class _Nothing(Struct, frozen=True):
    pass


class ApprovalAsked(Struct, frozen=True, kw_only=True, rename="camel"):
    """One approval to be given: of a step, or (`step_name` empty) of a job or workflow."""

    step_index: int = -1
    step_name: str = ""
    clauses: list[dict[str, str]] = []
    reason: str = ""
    timeout_ms: int | None = None
    drift: str | None = None


Approve = Callable[[str, ApprovalAsked], Awaitable[tuple[str, str]]]


class Emitter(Struct, frozen=True, kw_only=True):
    """Where `ctx.emit` of one run goes: nowhere but the report."""

    repository: str
    document: LockFile
    events: list[EmittedEvent]
    recent: "deque[float]"

    def emit(self, job: str, wanted: _Emit) -> EmittedEvent:
        """Raises RequestRefused."""
        size = len(msgspec.json.encode(wanted.payload))
        if size > MAX_EVENT_BYTES:
            raise RequestRefused(
                "event_rejected", f"the payload is {size} bytes; {MAX_EVENT_BYTES} are allowed"
            )
        now = time.monotonic()
        while self.recent and self.recent[0] < now - 60:
            self.recent.popleft()
        if len(self.recent) >= MAX_EVENTS_PER_MINUTE:
            raise RequestRefused(
                "event_rejected", f"more than {MAX_EVENTS_PER_MINUTE} events of this workflow in a minute"
            )
        self.recent.append(now)
        event = Event(
            type="kici_event",
            source_repo=self.repository,
            raw_event="kici_event",
            provider="local",
            payload={
                "eventName": wanted.name,
                "payload": wanted.payload,
                "sourceRepo": self.repository,
                "sourceRoutingKey": "local",
            },
        )
        here = not wanted.target_repos or self.repository in wanted.target_repos
        emitted = EmittedEvent(
            job=job,
            name=wanted.name,
            delivery_id=str(uuid4()),
            payload=wanted.payload,
            target_repos=list(wanted.target_repos),
            would_start=[
                workflow.name
                for workflow in self.document.workflows
                if here and match_workflow(workflow.triggers, event).matched
            ],
        )
        self.events.append(emitted)
        return emitted


class JobServices:
    """Answers one job. Secret outputs it made are in `secret_outputs`."""

    def __init__(
        self,
        name: str,
        *,
        secrets: dict[str, Secret],
        cache: LocalCache,
        emitter: Emitter,
        approve: Approve,
        say: Callable[[str], None],
        check_mode: str,
    ) -> None:
        self.secret_outputs: dict[str, str] = {}
        self._name = name
        self._secrets = secrets
        self._cache = cache
        self._emitter = emitter
        self._approve = approve
        self._say = say
        self._check_mode = check_mode

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any:
        """Raises KiciError: RequestRefused, UnknownMethodError."""
        match method:
            case "secrets.get":
                return self._secret(_checked(method, params, _Key).key)
            case "secrets.list":
                return {"names": sorted(self._secrets)}
            case "secrets.output":
                return self._keep(_checked(method, params, _Output))
            case "event.emit":
                return self._emit(_checked(method, params, _Emit))
            case "cache.restore":
                return self._restore(_checked(method, params, _Restore))
            case "cache.save":
                return self._save(_checked(method, params, _Key).key)
            case "cache.commit":
                wanted = _checked(method, params, _Commit)
                self._cache.commit(wanted.key, wanted.path)
                return {}
            case "approval.request":
                asked = _checked(method, params, ApprovalAsked)
                outcome, reason = await self._approve(self._name, asked)
                return {"outcome": outcome, "reason": reason}
            case "inventory.query":
                query = _checked(method, params, _Query)
                host = this_host()
                return {"hosts": [host] if _labels_fit(host["labels"], query) else []}
            case "inventory.get":
                wanted_id = _checked(method, params, _Host).agent_id
                if wanted_id != this_host()["agentId"]:
                    raise RequestRefused(
                        "not_found", f"only this host is known to a local run, {this_host()['agentId']!r}"
                    )
                return {"host": this_host()}
            case "infrastructure.list":
                _checked(method, params, _Nothing)
                return {"hosts": [this_host()]}
            case _ if method in _NOT_HERE:
                raise RequestRefused(
                    "not_available_locally", f"a local run cannot give {_NOT_HERE[method]}"
                )
            case _:
                raise UnknownMethodError(method)

    def _secret(self, key: str) -> dict[str, Any]:
        found = self._secrets.get(key)
        if found is None:
            raise RequestRefused("secret_not_found", missing(key, self._secrets))
        return {"value": found.value, "backend": found.backend, "scope": found.scope}

    def _keep(self, wanted: _Output) -> dict[str, Any]:
        size = len(wanted.value.encode(errors="surrogatepass"))
        if self._check_mode != "apply":
            raise RequestRefused("invalid_input", "no secret outputs in check mode")
        if size > MAX_SECRET_BYTES:
            raise RequestRefused(
                "limit_exceeded",
                f"secret output {wanted.key!r} has {size} bytes; {MAX_SECRET_BYTES} are allowed",
            )
        if wanted.key not in self.secret_outputs and len(self.secret_outputs) >= MAX_SECRET_OUTPUTS:
            raise RequestRefused("limit_exceeded", f"a job may have {MAX_SECRET_OUTPUTS} secret outputs")
        self.secret_outputs[wanted.key] = wanted.value
        return {}

    def _emit(self, wanted: _Emit) -> dict[str, Any]:
        emitted = self._emitter.emit(self._name, wanted)
        where = f" to {', '.join(emitted.target_repos)}" if emitted.target_repos else ""
        starts = f"; it would start {', '.join(emitted.would_start)}" if emitted.would_start else ""
        self._say(f"emit {emitted.name}{where}: a local run sends no events{starts}")
        return {"deliveryId": emitted.delivery_id}

    def _restore(self, wanted: _Restore) -> dict[str, Any]:
        found = self._cache.restore(wanted.key, wanted.restore_keys)
        if found is None:
            return {"hit": False, "matchedKey": None, "path": None}
        key, path = found
        return {"hit": True, "matchedKey": key, "path": str(path)}

    def _save(self, key: str) -> dict[str, Any]:
        path = self._cache.begin(key)
        return {"skip": path is None, "path": None if path is None else str(path)}


def _checked(method: str, params: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise RequestRefused("invalid_input", f"{method}: {error}") from None


def this_host() -> dict[str, Any]:
    """The only host of a local run, in the shape of the inventory."""
    name = socket.gethostname()
    machine = os.uname()
    system = machine.sysname.lower()
    arch = {"x86_64": "x64", "aarch64": "arm64"}.get(machine.machine, machine.machine)
    return {
        "agentId": name,
        "host": name,
        "labels": [f"kici:os:{system}", f"kici:arch:{arch}", f"kici:host:{name.lower()}"],
        "platform": system,
        "arch": arch,
        "online": True,
        "properties": {"cpuCount": os.cpu_count() or 1},
    }


def _labels_fit(labels: Sequence[str], query: _Query) -> bool:
    try:
        wanted = [PatternSet([Pattern(type="glob", pattern=text)]) for text in query.include]
        unwanted = [PatternSet([Pattern(type="glob", pattern=text)]) for text in query.exclude]
    except InvalidPattern as error:
        raise RequestRefused("invalid_input", str(error)) from None
    return all(any(one.matches(label) for label in labels) for one in wanted) and not any(
        one.matches(label) for one in unwanted for label in labels
    )
