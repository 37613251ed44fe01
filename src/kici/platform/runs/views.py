"""What REST takes and says about runs beyond kici.protocol.dashboard_v1."""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from kici.protocol.dashboard_v1 import RunProjection

SortField = Literal["createdAt", "durationMs", "workflowName", "status", "triggerEvent", "ref", "sha"]
Direction = Literal["asc", "desc"]


class RunView(Struct, frozen=True, kw_only=True, rename="camel"):
    run: RunProjection


class CancelBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`force` kills at once and skips hooks."""

    force: bool = False


class RerunBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`failed`: what succeeded stays, the rest runs again."""

    mode: Literal["all", "failed"] = "all"


class CancelBranchBody(Struct, frozen=True, kw_only=True, rename="camel"):
    branch: str


class RunNowBody(Struct, frozen=True, kw_only=True, rename="camel"):
    inputs: dict[str, Any] = {}


class RunQuery(Struct, frozen=True, kw_only=True):
    """One list request. Several values of one filter mean any of them; filters are joined by and.

    A status fits what a run has or what it is shown as: `failed` also finds errors. `since` and `until` are about its creation, and so is "newest".
    """

    statuses: list[str]
    workflows: list[str]
    branches: list[str]
    repositories: list[str]
    trigger_types: list[str]
    sources: list[str]  # routing keys
    sha: str | None  # prefix
    since: datetime | None
    until: datetime | None
    text: str | None
    page: int
    page_size: int
    sort: SortField
    direction: Direction
