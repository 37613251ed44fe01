"""A signed-in person, as the database says at this request."""

from dataclasses import dataclass
from datetime import datetime

from kici.platform.people.views import PatKind, UserView
from kici.platform.permissions import Role


@dataclass(frozen=True, slots=True)
class Account:
    user_id: str
    email: str
    display_name: str
    roles: dict[str, Role]  # org id → role
    session_sha256: bytes | None  # None: signed in by token
    pat: "Pat | None" = None

    @property
    def acting_name(self) -> str:
        """As others read it: an agent's doing is never taken for its owner's own (PD-48)."""
        label = self.pat.agent_label if self.pat is not None else None
        return self.display_name if label is None else f"{self.display_name} ({label})"


@dataclass(frozen=True, slots=True)
class Pat:
    """The token of this request."""

    id: str
    name: str
    kind: PatKind
    agent_label: str | None
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A fresh session: `token` goes into the cookie and nowhere else."""

    token: str
    max_age_seconds: int
    user: UserView
