"""Who may do what: the one table of permissions (PD-52 for the two built-in roles).

A route names its permission in `opt`; the dependency that resolves the org checks it. A route under an
org without a name here does not start.
"""

from typing import Literal

Role = Literal["owner", "member"]
Permission = Literal[
    "org.read",
    "runs.read",
    "runs.write",
    "workflows.read",
    "workflows.write",
    "event_log.read",
    "diagnostics.read",
    "orchestrators.read",
    "api_keys.read",
    "api_keys.write",
]

_MEMBER: frozenset[Permission] = frozenset(
    {
        "org.read",
        "runs.read",
        "runs.write",
        "workflows.read",
        "event_log.read",
        "diagnostics.read",
        "orchestrators.read",
        "api_keys.read",
    }
)
_OWNER: frozenset[Permission] = _MEMBER | frozenset[Permission]({"api_keys.write", "workflows.write"})
ROLES: dict[Role, frozenset[Permission]] = {"owner": _OWNER, "member": _MEMBER}


def allowed(role: Role, permission: Permission) -> bool:
    return permission in ROLES[role]


def denial(permission: Permission) -> str:
    """The body text of PD-55."""
    return f"Insufficient permission: {permission} needed"
