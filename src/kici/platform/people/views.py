"""What REST says about people and their credentials. Responses have no defaults; requests may."""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from kici.platform.permissions import Role


class AuthConfigView(Struct, frozen=True, kw_only=True, rename="camel"):
    methods: list[Literal["password"]]
    setup_required: bool  # nobody has an account yet: use the setup link
    version: str


class LoginBody(Struct, frozen=True, kw_only=True, rename="camel"):
    email: str
    password: str


class SetupBody(Struct, frozen=True, kw_only=True, rename="camel"):
    token: str
    email: str
    password: str
    display_name: str


class OrgMembershipView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    alias: str
    role: Role


class UserView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    email: str
    display_name: str
    has_password: bool
    orgs: list[OrgMembershipView]


class UpdateUserBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`currentPassword` is needed to change a password that exists."""

    display_name: str | None = None
    password: str | None = None
    current_password: str | None = None


class SignInLinkView(Struct, frozen=True, kw_only=True, rename="camel"):
    url: str
    expires_at: datetime


PatKind = Literal["user", "agent"]


class PatView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    display: str  # first characters of the token
    kind: PatKind
    agent_label: str | None
    created_at: datetime
    expires_at: datetime | None
    expires_soon: bool  # within a week: make another one (AU-141)
    last_used_at: datetime | None


class PatList(Struct, frozen=True, kw_only=True, rename="camel"):
    pats: list[PatView]


class CreatePatBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """An agent's token needs a label: it stands on every audit row (PD-48)."""

    name: str
    kind: PatKind = "user"
    agent_label: str | None = None
    expires_in_days: int = 120


class CredentialView(Struct, frozen=True, kw_only=True, rename="camel"):
    """What this very request was made with."""

    kind: Literal["session", "user", "agent"]
    id: str | None  # of the token
    name: str | None
    agent_label: str | None
    expires_at: datetime | None
    expires_soon: bool


class PatCreated(Struct, frozen=True, kw_only=True, rename="camel"):
    """The only time that the token is shown."""

    id: str
    name: str
    token: str
    expires_at: datetime | None
