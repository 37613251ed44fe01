"""`ctx.kici`, `ctx.emit` and the rest of what the host offers to author code."""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kici.protocol.runner_v1 import AddMask
from kici.runner.activity import Activity
from kici.runner.facts import JobFacts
from kici.runner.invoke import invoke
from kici.runner.values import TOO_BIG, too_big
from kici.sdk.calls import TrackedCall
from kici.sdk.errors import EventRejectedError, LimitExceededError
from kici.sdk.inputs import emitted_name
from kici.sdk.results import Delivery, HostFacts, OidcToken, Provenance
from kici.sdk.values import Duration, Patterns, duration_ms

_EVENT_BYTES = 256 << 10
_SECRET_OUTPUT_BYTES = 64 << 10


class Offers:
    """`ctx.kici`. Its parts are one object each because authors write `ctx.kici.inventory.query(...)`."""

    def __init__(self, activity: Activity, facts: JobFacts) -> None:
        self.inventory = _Inventory(activity)
        self.infrastructure = _Infrastructure(activity)
        self.oidc = _Oidc(activity)
        self.host = _HostControl(activity, facts)


class _Inventory:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def query(self, include: Patterns = (), exclude: Patterns = ()) -> TrackedCall[list[HostFacts]]:
        return self._activity.tracked(
            self._query(_labels(include), _labels(exclude)), "ctx.kici.inventory.query(…)"
        )

    def get(self, id: str, /) -> TrackedCall[HostFacts]:
        return self._activity.tracked(self._get(id), f"ctx.kici.inventory.get({id!r})")

    async def _query(self, include: list[str], exclude: list[str]) -> list[HostFacts]:
        found = await self._activity.services.requests.call(
            "inventory.query", {"include": include, "exclude": exclude}
        )
        return sorted((_host(host) for host in found["hosts"]), key=lambda host: host.agent_id)

    async def _get(self, agent_id: str) -> HostFacts:
        found = await self._activity.services.requests.call("inventory.get", {"agentId": agent_id})
        return _host(found["host"])


class _Infrastructure:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def list(self) -> TrackedCall["list[HostFacts]"]:
        return self._activity.tracked(self._list(), "ctx.kici.infrastructure.list()")

    async def _list(self) -> "list[HostFacts]":
        found = await self._activity.services.requests.call("infrastructure.list")
        return [_host(host) for host in found["hosts"]]


class _Oidc:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def token(self, *, audience: str) -> TrackedCall[OidcToken]:
        return self._activity.tracked(self._token(audience), f"ctx.kici.oidc.token(audience={audience!r})")

    async def _token(self, audience: str) -> OidcToken:
        services = self._activity.services
        found = await services.requests.call("oidc.token", {"audience": audience})
        services.link.send(AddMask(value=found["token"]))
        return OidcToken(token=found["token"], expires_in=found["expiresIn"])


class _HostControl:
    def __init__(self, activity: Activity, facts: JobFacts) -> None:
        self._activity = activity
        self._facts = facts

    def request_reboot(self, *, deadline: Duration | None = None) -> TrackedCall[None]:
        return self._activity.tracked(self._reboot(deadline), "ctx.kici.host.request_reboot()")

    async def _reboot(self, deadline: Duration | None) -> None:
        if self._facts.checks_only:
            self._activity.print("check mode: the host is not restarted")
            return
        params = {} if deadline is None else {"deadlineMs": duration_ms(deadline)}
        await self._activity.services.requests.call("host.reboot", params)


async def emit(
    activity: Activity, facts: JobFacts, event: object, payload: object, target_repos: Sequence[str]
) -> Delivery:
    """EventRejectedError when it is refused. In check mode nothing is sent (AU-49)."""
    name = emitted_name(event)
    body = msgspec.to_builtins(payload if isinstance(event, str) else event)
    if len(msgspec.json.encode(body)) > _EVENT_BYTES:
        raise EventRejectedError(f"the payload of event {name!r} is larger than 256 KiB")
    if (field := too_big(body)) is not None:
        raise EventRejectedError(f"the payload of event {name!r}, field {field!r}: {TOO_BIG}")
    if facts.checks_only:
        activity.print(f"check mode: event {name!r} is not emitted")
        return Delivery(id="")
    sent = await activity.services.requests.call(
        "event.emit",
        {"name": name, "payload": {} if body is None else body, "targetRepos": list(target_repos)},
    )
    return Delivery(id=sent["deliveryId"])


async def set_secret_output(activity: Activity, facts: JobFacts, key: str, value: str) -> None:
    """Masked from here on. The host counts: at most 20 per job."""
    activity.services.link.send(AddMask(value=value))
    if len(value.encode()) > _SECRET_OUTPUT_BYTES:
        raise LimitExceededError(f"secret output {key!r} is larger than 64 KiB")
    if facts.checks_only:
        activity.print(f"check mode: secret output {key!r} is not kept")
        return
    await activity.services.requests.call("secrets.output", {"key": key, "value": value})


async def attest_provenance(
    activity: Activity,
    facts: JobFacts,
    name: str,
    path: str | os.PathLike[str] | None,
    digest: str | None,
    audience: str,
) -> Provenance:
    if (path is None) == (digest is None):
        raise ValueError("give either `path` or `digest`")
    if path is not None:
        digest = await invoke(_digest, os.path.join(facts.execute.workspace, path))
    found = await activity.services.requests.call(
        "provenance.attest", {"name": name, "digest": digest, "audience": audience}
    )
    return Provenance(
        storage_key=found["storageKey"],
        subject_digest=found["subjectDigest"],
        bundle_media_type=found["bundleMediaType"],
    )


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _labels(patterns: Patterns) -> list[str]:
    several = [patterns] if isinstance(patterns, str | re.Pattern) else list(patterns)
    for pattern in several:
        if not isinstance(pattern, str):
            raise TypeError("the inventory is asked for labels and globs; filter by regex in Python")
    return [str(pattern) for pattern in several]


def _host(found: Mapping[str, Any]) -> HostFacts:
    return HostFacts(
        host=str(found.get("host") or found.get("agentId") or ""),
        labels=tuple(found.get("labels") or ()),
        platform=str(found.get("platform") or ""),
        arch=str(found.get("arch") or ""),
        agent_id=str(found.get("agentId") or ""),
        online=bool(found.get("online", True)),
        properties=found.get("properties") or {},
    )
