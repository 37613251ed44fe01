"""One webhook delivery as it reaches us, and what its sender is told (OR-30…33)."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from kici.protocol.platform_v1 import AckResult

Via = Literal["relay", "direct"]


PATH_HEADER = "x-kici-path"
"""What was called behind a source's own address. Set by whoever took the request, never by its sender."""


def split_path(words: Sequence[str]) -> tuple[str, str, str] | None:
    """(organisation, source, path behind it or "") of `{orgId}/generic/{sourceName}[/…]`, split at `/`."""
    if len(words) < 3 or words[1] != "generic" or not words[0] or not words[2]:
        return None
    behind = "/".join(words[3:]).strip("/")
    return words[0], words[2], f"/{behind}" if behind else ""


class Delivery(Struct, frozen=True, kw_only=True):
    """Bytes that came in over HTTP or over the relay; nothing of it is believed yet.

    The source is named by `routing_key` (relay) or by `org_id` and `source_name` (direct).
    """

    headers: dict[str, str]  # names in lower case
    body: bytes  # exactly as received: signatures are computed over it
    via: Via
    request_id: str
    client_ip: str | None = None
    routing_key: str = ""
    org_id: str = ""
    source_name: str = ""


class Acceptance(Struct, frozen=True, kw_only=True):
    """`result` is for the relay, `status` and the rest for HTTP. `accepted` means: it is on disk.

    `reason` is for people and never holds secret material.
    """

    result: AckResult
    status: int
    delivery_id: str = ""
    duplicate: bool = False
    filtered: bool = False
    reason: str | None = None
    code: str = ""  # of the error body
    retry_after_s: int | None = None
    max_bytes: int | None = None
