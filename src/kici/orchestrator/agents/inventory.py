"""`inventory.query`, `inventory.get`, `infrastructure.list`: the hosts that a job may know of, which are those of
its own organisation (AG-13, AG-127)."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kici.engine.patterns import InvalidPattern, PatternSet
from kici.orchestrator.agents.requests import OwnedJob, RequestHandlers, RequestRefused, params_of
from kici.protocol.agent_v1 import AgentRequest
from kici.runtime.database import AsyncEngine, text
from kici.spec.triggers import Pattern

MAX_HOSTS = 10_000
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_GLOB = frozenset("*?[]{}")

_Labels = Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=64)]

_HOSTS = text("""
    SELECT agent_id, hostname, labels, platform, arch, instance_id IS NOT NULL AS online, facts::text
    FROM agents
    WHERE org_id = :org_id AND labels @> CAST(:include AS text[]) AND NOT labels && CAST(:exclude AS text[])
        AND (CAST(:agent_id AS text) IS NULL OR agent_id = CAST(:agent_id AS text))
    ORDER BY agent_id LIMIT :limit
""")


class _Query(Struct, frozen=True, rename="camel"):
    include: _Labels = []
    exclude: _Labels = []


class _Host(Struct, frozen=True, rename="camel"):
    agent_id: str


class Inventory:
    """`handlers` go to the agents' requests. A host: agentId, host, labels, platform, arch, online, properties."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    @property
    def handlers(self) -> RequestHandlers:
        return {
            "inventory.query": self.query,
            "inventory.get": self.get,
            "infrastructure.list": self.list,
        }

    async def query(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        """Labels as they are; globs, and a leading `!` that excludes, as in `runs_on`."""
        wanted = params_of(request, _Query)
        excluded = [
            *wanted.exclude,
            *(label.removeprefix("!") for label in wanted.include if label.startswith("!")),
        ]
        included = [label for label in wanted.include if not label.startswith("!")]
        hosts = await self._hosts(job.org_id, include=included, exclude=excluded)
        return {"hosts": hosts}

    async def get(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        agent_id = params_of(request, _Host).agent_id
        hosts = await self._hosts(job.org_id, agent_id=agent_id)
        if not hosts:
            raise RequestRefused("not_found", f"no agent {agent_id!r} is known")
        return {"host": hosts[0]}

    async def list(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        return {"hosts": await self._hosts(job.org_id)}

    async def _hosts(
        self,
        org_id: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        agent_id: str | None = None,
    ) -> "list[dict[str, Any]]":
        exact_in, globs_in = _split(include)
        exact_out, globs_out = _split(exclude)
        async with self._engine.connect() as tx:
            rows = await tx.execute(
                _HOSTS,
                {
                    "org_id": org_id,
                    "include": exact_in,
                    "exclude": exact_out,
                    "agent_id": agent_id,
                    "limit": MAX_HOSTS,
                },
            )
            return [
                {
                    "agentId": row[0],
                    "host": row[1],
                    "labels": row[2],
                    "platform": row[3],
                    "arch": row[4],
                    "online": row[5],
                    "properties": _properties(row[6]),
                }
                for row in rows
                if all(_any(glob, row[2]) for glob in globs_in)
                and not any(_any(glob, row[2]) for glob in globs_out)
            ]


def _split(labels: Sequence[str]) -> tuple[list[str], list[PatternSet]]:
    """Labels that stand for themselves, in the form they are stored in, and globs."""
    exact = [label.lower() for label in labels if _GLOB.isdisjoint(label)]
    try:
        globs = [
            PatternSet([Pattern(type="glob", pattern=label.lower())])
            for label in labels
            if not _GLOB.isdisjoint(label)
        ]
    except InvalidPattern as error:
        raise RequestRefused("invalid_input", str(error)) from error
    return exact, globs


def _any(glob: PatternSet, labels: Sequence[str]) -> bool:
    return any(glob.matches(label) for label in labels)


def _properties(facts: str) -> dict[str, Any]:
    """What the operator said about the host, and its size."""
    known: dict[str, Any] = _decode(facts)
    sizes = {name: known[name] for name in ("cpuCount", "totalMemoryMb") if name in known}
    return {**sizes, **known.get("properties", {})}
