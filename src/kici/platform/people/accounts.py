"""A signed-in person, as the database says at this request."""

from dataclasses import dataclass

from kici.platform.permissions import Role


@dataclass(frozen=True, slots=True)
class Account:
    user_id: str
    email: str
    display_name: str
    roles: dict[str, Role]  # org id → role
