"""A signed-in person, as the database says at this request."""

from dataclasses import dataclass

from kici.platform.people.views import UserView
from kici.platform.permissions import Role


@dataclass(frozen=True, slots=True)
class Account:
    user_id: str
    email: str
    display_name: str
    roles: dict[str, Role]  # org id → role
    session_sha256: bytes | None  # None: signed in by token


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A fresh session: `token` goes into the cookie and nowhere else."""

    token: str
    max_age_seconds: int
    user: UserView
