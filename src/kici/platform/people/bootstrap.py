"""What `kici up` decides once: the org, its orchestrator key, the local operator (PD-3).

The file is read at every start and says the same each time; what is there already stays as it is.
"""

from typing import ClassVar

import msgspec
from msgspec import Struct

from kici.platform import audit
from kici.platform.orgs import queries as org_queries
from kici.platform.people import queries, tokens
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

OPERATOR_NAME = "Local operator"


class BadBootstrap(KiciError):
    code: ClassVar[str] = "bad_bootstrap"


class Bootstrap(Struct, frozen=True, kw_only=True, rename="camel"):
    """The part of bootstrap.json that the Platform reads."""

    org_id: str
    org_alias: str
    org_name: str
    orchestrator_key: str
    api_token: str
    user_email: str
    setup_token: str | None = None


def read(path: str) -> Bootstrap:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Bootstrap)
    except OSError as error:
        raise BadBootstrap(f"KICI_BOOTSTRAP_FILE: cannot read {path}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise BadBootstrap(f"KICI_BOOTSTRAP_FILE: {path}: {error}") from error


async def apply(engine: AsyncEngine, clock: Clock, wanted: Bootstrap) -> None:
    """One transaction; a second run changes nothing."""
    now = to_datetime(clock.now_ms())
    email = wanted.user_email.strip().lower()
    async with engine.begin() as tx:
        fresh = await org_queries.insert_org(
            tx, org_id=wanted.org_id, alias=wanted.org_alias, name=wanted.org_name
        )
        user = await queries.find_user(tx, email)
        user_id = user["id"] if user is not None else uuid7()
        if user is None:
            await queries.insert_user(
                tx, user_id=user_id, email=email, display_name=OPERATOR_NAME, password_hash=None
            )
        await org_queries.add_member(tx, org_id=wanted.org_id, user_id=user_id, role="owner")
        await org_queries.insert_key(
            tx,
            key_id=uuid7(),
            org_id=wanted.org_id,
            name="kici up",
            token=tokens.digest(wanted.orchestrator_key),
            display=tokens.display(wanted.orchestrator_key),
            now=now,
        )
        await queries.insert_pat(
            tx,
            pat_id=uuid7(),
            user_id=user_id,
            name="kici up",
            token=tokens.digest(wanted.api_token),
            display=tokens.display(wanted.api_token),
            now=now,
            expires_at=None,
        )
        if fresh:
            await audit.record(tx, action="org.create", target=("org", wanted.org_id), org_id=wanted.org_id)
    if fresh:
        log.info("bootstrap.applied", org_id=wanted.org_id)
