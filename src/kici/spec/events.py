"""The normalised event: one shape for every source, matched against triggers (OR-45)."""

from typing import Any

from msgspec import Struct


class Event(Struct, frozen=True, kw_only=True, rename="camel"):
    """What happened, in words that triggers understand. Absent is None.

    `changed_files` None means *unknown*, which path filters let pass; an empty list is a known
    empty list, which they do not (OR-52). `payload` is the body as received.

    >>> if ctx.event.type == "push" and ctx.event.target_branch == "main":
    ...     await ctx.sh("make publish")
    """

    type: str  # push | pull_request | tag | generic_webhook | webhook | ...
    action: str | None = None
    target_branch: str | None = None  # for tags: the tag name
    source_branch: str | None = None
    base_branch: str | None = None
    is_fork_pr: bool | None = None
    sender_username: str | None = None
    sender_user_id: str | None = None
    source_repo: str | None = None
    changed_files: list[str] | None = None
    provider: str | None = None  # local | generic | github
    source: str | None = None  # name of the generic source the event came through
    raw_event: str | None = None  # the provider's own event name
    verified_by: str | None = None  # what a generic source checked: `hmac:<header>`, `api_key:<header>`
    path: str | None = (
        None  # behind the address of a generic source: `/staging`, None at the address itself
    )
    payload: dict[str, Any] = {}
