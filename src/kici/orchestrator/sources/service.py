"""Making, changing and removing sources (OR-10, OR-16, OR-18, OR-20)."""

import os
import re
from datetime import datetime
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from sqlalchemy.exc import IntegrityError

from kici.engine import jsonpath
from kici.orchestrator.lockfiles.git import git_dir
from kici.orchestrator.sources import verification
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.sealing import Sealer
from kici.orchestrator.sources.source import LOCAL_DEDUP_S, Kind, PayloadFormat, SourceConfig, Subtype
from kici.orchestrator.sources.verification import Verification
from kici.runtime.database import AsyncConnection, AsyncEngine, Wakeups, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import Conflict, InvalidInput, NotFound

log = get_logger(__name__)

MAX_PAYLOAD_CEILING = 25 << 20  # OR-31
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")


class SourceNotFound(NotFound):
    code: ClassVar[str] = "source_not_found"


class SourceExists(Conflict):
    code: ClassVar[str] = "source_exists"


class NewLocal(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind", tag="local"):
    """`path`: absolute, a repository on this machine. `repository`: how it is called, by default the
    last part of the path."""

    name: str
    path: str
    repository: str = ""


class NewGeneric(Struct, frozen=True, kw_only=True, rename="camel", tag_field="kind", tag="generic"):
    """`verificationMethod` has no default (OR-16). `secret` or `secrets` for all methods but
    `ip_allowlist` and `none`. With `payloadFormat` github headers are GitHub's own unless named."""

    name: str
    verification_method: verification.Method
    secret: str = ""
    secrets: list[str] = []
    header_name: str = ""
    allowlist: list[str] = []
    event_type_header: str = "X-Event-Type"
    event_type_path: str = ""
    idempotency_key_header: str = ""
    idempotency_key_path: str = ""
    allowed_events: list[str] = []
    strip_headers: list[str] = []
    payload_format: PayloadFormat = ""
    max_payload_bytes: int = 1_048_576
    rate_limit_rpm: int = 600
    dedup_window_seconds: int = 300


NewSource = NewLocal | NewGeneric


class SourceChange(Struct, frozen=True, kw_only=True, rename="camel"):
    """Only what is present changes. `addSecret` keeps the present ones; `secrets` replaces them (OR-15)."""

    enabled: bool | UnsetType = UNSET
    path: str | UnsetType = UNSET
    repository: str | UnsetType = UNSET
    add_secret: str | UnsetType = UNSET
    secrets: list[str] | UnsetType = UNSET
    allowed_events: list[str] | UnsetType = UNSET
    max_payload_bytes: int | UnsetType = UNSET
    rate_limit_rpm: int | UnsetType = UNSET
    dedup_window_seconds: int | UnsetType = UNSET


class SourceView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    kind: Kind
    subtype: Subtype
    org_id: str
    routing_key: str
    enabled: bool
    verification_method: verification.Method
    webhook_path: str
    config: SourceConfig
    max_payload_bytes: int
    rate_limit_rpm: int
    dedup_window_seconds: int
    created_at: datetime
    updated_at: datetime


class SourceList(Struct, frozen=True, kw_only=True, rename="camel"):
    sources: list[SourceView]


_COLUMNS = """id, name, kind, subtype, org_id, routing_key, enabled, verification_method,
    config::text AS config, max_payload_bytes, rate_limit_rpm, dedup_window_seconds, created_at, updated_at"""

_INSERT = text(f"""
INSERT INTO sources (id, org_id, kind, subtype, name, routing_key, config, verification_method, secrets,
                     max_payload_bytes, rate_limit_rpm, dedup_window_seconds)
VALUES (:id, :org_id, :kind, :subtype, :name, :routing_key, CAST(:config AS jsonb), :method, :secrets,
        :max_payload_bytes, :rate_limit_rpm, :dedup_window_seconds)
RETURNING {_COLUMNS}
""")

_LIST = text(f"""
SELECT {_COLUMNS} FROM sources WHERE org_id = :org_id AND deleted_at IS NULL ORDER BY name
""")

# By name, by id or by routing key: whatever a person has at hand.
_FIND = text(f"""
SELECT {_COLUMNS}, secrets FROM sources
WHERE org_id = :org_id AND deleted_at IS NULL
  AND (name = :handle OR id::text = :handle OR routing_key = :handle)
""")

_LOCK = text(f"{_FIND.text} FOR UPDATE")

_DISABLE_REGISTRATIONS = text("""
WITH disabled AS (
    UPDATE workflow_registrations SET disabled = true, updated_at = now()
    WHERE routing_key = :routing_key AND NOT disabled RETURNING org_id
)
INSERT INTO registry_versions (org_id, version) SELECT DISTINCT org_id, 1 FROM disabled
ON CONFLICT (org_id) DO UPDATE SET version = registry_versions.version + 1, updated_at = now()
""")

_UPDATE = text(f"""
UPDATE sources SET enabled = :enabled, config = CAST(:config AS jsonb), secrets = :secrets,
    max_payload_bytes = :max_payload_bytes, rate_limit_rpm = :rate_limit_rpm,
    dedup_window_seconds = :dedup_window_seconds, updated_at = now()
WHERE id = :id RETURNING {_COLUMNS}
""")


class Sources:
    """Every change is seen by this process before the call returns, by others within milliseconds."""

    def __init__(self, engine: AsyncEngine, sealer: Sealer, index: SourceIndex, wakeups: Wakeups) -> None:
        self._engine = engine
        self._sealer = sealer
        self._index = index
        self._wakeups = wakeups

    async def list(self, org_id: str) -> SourceList:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_LIST, {"org_id": org_id})).mappings()
            return SourceList(sources=[_view(dict(row)) for row in rows])

    async def get(self, org_id: str, handle: str) -> SourceView:
        """Raises SourceNotFound."""
        async with self._engine.connect() as connection:
            return _view(await _find(connection, org_id, handle))

    async def add(self, org_id: str, new: NewSource) -> SourceView:
        """Raises InvalidInput, SourceExists, RepositoryUnreadable."""
        if _NAME.fullmatch(new.name) is None:
            raise InvalidInput(
                f"{new.name!r} is not a source name: letters, digits, dot, dash, underscore, at most 64"
            )
        source_id = uuid7()
        config: SourceConfig
        found: Verification
        match new:
            case NewLocal():
                config = await _local_config(new.path, new.repository)
                found = verification.NoVerification()
                subtype, limits = "local", (MAX_PAYLOAD_CEILING, 0, LOCAL_DEDUP_S)
            case NewGeneric():
                config, found = _generic_config(new)
                subtype = "generic_webhook"
                limits = (new.max_payload_bytes, new.rate_limit_rpm, new.dedup_window_seconds)
        _check_limits(*limits)
        values: dict[str, Any] = {
            "id": source_id,
            "org_id": org_id,
            "kind": new.__struct_config__.tag,
            "subtype": subtype,
            "name": new.name,
            "routing_key": f"generic:{org_id}:{source_id}",
            "config": msgspec.json.encode(config).decode(),
            "method": found.__struct_config__.tag,
            "secrets": self._sealed(source_id, found),
            "max_payload_bytes": limits[0],
            "rate_limit_rpm": limits[1],
            "dedup_window_seconds": limits[2],
        }
        try:
            async with self._engine.begin() as tx:
                row = (await tx.execute(_INSERT, values)).mappings().one()
        except IntegrityError as error:
            raise SourceExists(f"there is a source {new.name!r} already") from error
        await self._changed("source.added", row["name"], row["routing_key"])
        return _view(dict(row))

    def _sealed(self, source_id: str, found: Verification) -> bytes | None:
        if isinstance(found, verification.NoVerification):
            return None
        return self._sealer.seal(source_id, verification.encode(found))

    async def change(self, org_id: str, handle: str, change: SourceChange) -> SourceView:
        """Raises SourceNotFound, InvalidInput, RepositoryUnreadable."""
        async with self._engine.begin() as tx:
            row = await _find(tx, org_id, handle, lock=True)
            config = msgspec.json.decode(row["config"], type=SourceConfig)
            if change.path is not UNSET or change.repository is not UNSET:
                if row["kind"] != "local":
                    raise InvalidInput("only a local source has a path")
                config = await _local_config(
                    config.path if change.path is UNSET else change.path,
                    config.repository if change.repository is UNSET else change.repository,
                )
            if change.allowed_events is not UNSET:
                config = msgspec.structs.replace(config, allowed_events=change.allowed_events)
            limits = (
                row["max_payload_bytes"] if change.max_payload_bytes is UNSET else change.max_payload_bytes,
                row["rate_limit_rpm"] if change.rate_limit_rpm is UNSET else change.rate_limit_rpm,
                row["dedup_window_seconds"]
                if change.dedup_window_seconds is UNSET
                else change.dedup_window_seconds,
            )
            _check_limits(*limits)
            values = {
                "id": row["id"],
                "enabled": row["enabled"] if change.enabled is UNSET else change.enabled,
                "config": msgspec.json.encode(config).decode(),
                "secrets": self._changed_secrets(row, change),
                "max_payload_bytes": limits[0],
                "rate_limit_rpm": limits[1],
                "dedup_window_seconds": limits[2],
            }
            row = (await tx.execute(_UPDATE, values)).mappings().one()
        await self._changed("source.changed", row["name"], row["routing_key"])
        return _view(dict(row))

    def _changed_secrets(self, row: dict[str, Any], change: SourceChange) -> bytes | None:
        if change.secrets is UNSET and change.add_secret is UNSET:
            return row["secrets"]
        if row["secrets"] is None:
            raise InvalidInput(f"source {row['name']!r} is not verified by a secret")
        found = verification.decode(self._sealer.unseal(row["id"], bytes(row["secrets"])))
        if isinstance(found, verification.AllowlistVerification | verification.NoVerification):
            raise InvalidInput(f"source {row['name']!r} is not verified by a secret")
        kept = found.secrets if change.secrets is UNSET else change.secrets
        added = [] if change.add_secret is UNSET else [change.add_secret]
        found = msgspec.structs.replace(found, secrets=[*added, *kept])
        problem = verification.check(found)
        if problem is not None:
            raise InvalidInput(problem)
        return self._sealed(row["id"], found)

    async def remove(self, org_id: str, handle: str, *, hard: bool = False) -> None:
        """Secrets go at once, registrations are disabled, later deliveries get 404 (OR-20). The name is
        free again. `hard` removes the row, too."""
        async with self._engine.begin() as tx:
            row = await _find(tx, org_id, handle, lock=True)
            await tx.execute(_DISABLE_REGISTRATIONS, {"routing_key": row["routing_key"]})
            statement = (
                "DELETE FROM sources WHERE id = :id"
                if hard
                else "UPDATE sources SET deleted_at = now(), secrets = NULL, enabled = false WHERE id = :id"
            )
            await tx.execute(text(statement), {"id": row["id"]})
        await self._changed("source.removed", row["name"], row["routing_key"])

    async def _changed(
        self, what: Literal["source.added", "source.changed", "source.removed"], name: str, key: str
    ) -> None:
        log.info(what, source=name, routing_key=key)
        await self._index.load()
        self._wakeups.wake("sources")
        self._wakeups.wake("registry")


async def _find(tx: AsyncConnection, org_id: str, handle: str, *, lock: bool = False) -> dict[str, Any]:
    row = (
        (await tx.execute(_LOCK if lock else _FIND, {"org_id": org_id, "handle": handle}))
        .mappings()
        .first()
    )
    if row is None:
        raise SourceNotFound(f"there is no source {handle!r}")
    return dict(row)


def _view(row: dict[str, Any]) -> SourceView:
    fields = {name: value for name, value in row.items() if name != "secrets"}
    fields["config"] = msgspec.json.decode(row["config"], type=SourceConfig)
    return SourceView(**fields, webhook_path=f"/webhook/{row['org_id']}/generic/{row['name']}")


async def _local_config(path: str, repository: str) -> SourceConfig:
    normal, name = _named_path(path)
    await git_dir(normal)
    return SourceConfig(path=normal, repository=repository or name)


def _named_path(path: str) -> tuple[str, str]:
    """The normal form of an absolute path, and what a repository there is called."""
    if not os.path.isabs(path):
        raise InvalidInput(f"{path!r}: the path of a local source is absolute")
    normal = os.path.normpath(path)
    return normal, os.path.basename(normal.removesuffix("/.git")).removesuffix(".git")


def _check_limits(max_payload_bytes: int, rate_limit_rpm: int, dedup_window_seconds: int) -> None:
    if not 1 <= max_payload_bytes <= MAX_PAYLOAD_CEILING:
        raise InvalidInput(f"maxPayloadBytes is 1 to {MAX_PAYLOAD_CEILING}")
    if not 0 <= rate_limit_rpm <= 1_000_000_000:
        raise InvalidInput("rateLimitRpm is 0 (no limit) or more")
    if not 1 <= dedup_window_seconds <= 30 * 86_400:
        raise InvalidInput("dedupWindowSeconds is 1 second to 30 days")


def _as_github(new: NewGeneric) -> NewGeneric:
    plain = NewGeneric(name="", verification_method="none")
    signed = new.verification_method == "hmac_sha256"
    return msgspec.structs.replace(
        new,
        header_name=new.header_name or ("X-Hub-Signature-256" if signed else ""),
        event_type_header=(
            "X-GitHub-Event" if new.event_type_header == plain.event_type_header else new.event_type_header
        ),
        idempotency_key_header=new.idempotency_key_header or "X-GitHub-Delivery",
    )


def _generic_config(new: NewGeneric) -> tuple[SourceConfig, Verification]:
    if new.payload_format == "github":
        new = _as_github(new)
    secrets = [secret for secret in (new.secret, *new.secrets) if secret]
    found: Verification
    match new.verification_method:
        case "hmac_sha256":
            found = verification.HmacVerification(
                secrets=secrets, header_name=new.header_name or verification.HMAC_HEADER
            )
        case "bearer_token":
            found = verification.BearerVerification(
                secrets=secrets, header_name=new.header_name or "authorization"
            )
        case "api_key":
            found = verification.ApiKeyVerification(secrets=secrets, header_name=new.header_name)
        case "ip_allowlist":
            found = verification.AllowlistVerification(allowlist=new.allowlist)
        case "none":
            found = verification.NoVerification()
    problem = verification.check(found)
    if problem is not None:
        raise InvalidInput(f"verification {new.verification_method}: {problem}")
    for header in (new.event_type_header, new.idempotency_key_header, new.header_name, *new.strip_headers):
        if header and _HEADER.fullmatch(header) is None:
            raise InvalidInput(f"{header!r} is not the name of a header")
    for path in (new.event_type_path, new.idempotency_key_path):
        if path:
            jsonpath.find(path, {})
    return (
        SourceConfig(
            event_type_header=new.event_type_header,
            event_type_path=new.event_type_path,
            idempotency_key_header=new.idempotency_key_header,
            idempotency_key_path=new.idempotency_key_path,
            allowed_events=new.allowed_events,
            strip_headers=new.strip_headers,
            payload_format=new.payload_format,
        ),
        found,
    )
