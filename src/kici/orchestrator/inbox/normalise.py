"""A local source's delivery in our own words (§4 of the orchestrator's requirements, OR-45, OR-46). Pure.

Bodies have the shape that forges send, so that one workflow reads them all: `ref`, `before`, `after`,
`repository`, `sender`; for pull requests `pull_request.head` and `.base`.
"""

from typing import Any, cast

from msgspec import Struct

from kici.orchestrator.lockfiles.git import is_ref, is_sha
from kici.spec.errors import InvalidInput
from kici.spec.events import Event

_HEADS = "refs/heads/"
_TAGS = "refs/tags/"


class Happening(Struct, frozen=True, kw_only=True):
    """`event` without changed files, which cost a question to git and are asked only when needed.

    `sha` None: there is nothing to check out, for the reason in `note`. `before` and `since_fork` are what
    changed files are worked out from.
    """

    event: Event
    ref: str
    branch: str | None = None
    sha: str | None = None
    before: str | None = None
    since_fork: bool = False
    note: str | None = None


def push(payload: dict[str, Any], repo_identifier: str) -> Happening:
    """`push` of a branch, or of a tag, which is an event of its own. Raises InvalidInput."""
    ref, after, before = payload.get("ref"), payload.get("after"), payload.get("before")
    if not isinstance(ref, str) or not is_ref(ref) or not isinstance(after, str) or not is_sha(after):
        raise InvalidInput("a push has a full `ref` (refs/heads/…) and a commit id in `after`")
    kind, name = "push", ref.removeprefix(_HEADS)
    if ref.startswith(_TAGS):
        kind, name = "tag", ref.removeprefix(_TAGS)
    elif not ref.startswith(_HEADS):
        return Happening(
            event=_event("push", payload, repo_identifier, raw_event="push"),
            ref=ref,
            note=f"{ref} is neither a branch nor a tag",
        )
    if not after.strip("0"):
        return Happening(
            event=_event("delete", payload, repo_identifier, raw_event="delete", target=name),
            ref=ref,
            branch=name if kind == "push" else None,
            note=f"{'Branch' if kind == 'push' else 'Tag'} {name} was deleted",
        )
    return Happening(
        event=_event(kind, payload, repo_identifier, raw_event="push", target=name),
        ref=ref,
        branch=name if kind == "push" else None,
        sha=after,
        before=before if kind == "push" and isinstance(before, str) and is_sha(before) else None,
    )


def pull_request(payload: dict[str, Any], repo_identifier: str) -> Happening:
    """Raises InvalidInput."""
    body = _object(payload, "pull_request")
    head, base = _object(body, "head"), _object(body, "base")
    sha, source, target, action = head.get("sha"), head.get("ref"), base.get("ref"), payload.get("action")
    if not isinstance(sha, str) or not is_sha(sha):
        raise InvalidInput("a pull request has a commit id in `pull_request.head.sha`")
    if (
        not isinstance(source, str)
        or not is_ref(source)
        or not isinstance(target, str)
        or not is_ref(target)
    ):
        raise InvalidInput("a pull request has branches in `pull_request.head.ref` and `.base.ref`")
    before = base.get("sha")
    return Happening(
        event=Event(
            type="pull_request",
            action=action if isinstance(action, str) else None,
            target_branch=target,
            source_branch=source,
            base_branch=target,
            is_fork_pr=False,
            sender_username=_sender(payload),
            source_repo=repo_identifier,
            provider="local",
            raw_event="pull_request",
            payload=payload,
        ),
        ref=f"{_HEADS}{source}",
        branch=source,
        sha=sha,
        before=before if isinstance(before, str) and is_sha(before) else None,
        since_fork=True,
    )


def _event(
    kind: str, payload: dict[str, Any], repo_identifier: str, *, raw_event: str, target: str | None = None
) -> Event:
    return Event(
        type=kind,
        target_branch=target,
        sender_username=_sender(payload),
        source_repo=repo_identifier,
        provider="local",
        raw_event=raw_event,
        payload=payload,
    )


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _sender(payload: dict[str, Any]) -> str | None:
    for found in (_object(payload, "sender").get("login"), _object(payload, "pusher").get("name")):
        if isinstance(found, str) and found:
            return found[:255]
    return None


def generic(document: Any, *, event_type: str | None, source_name: str) -> Event:
    """A webhook in its sender's own shape. Anything but an object stands under `body`."""
    payload = cast("dict[str, Any]", document) if isinstance(document, dict) else {"body": document}
    return Event(
        type="generic_webhook",
        action=event_type,
        provider="generic",
        source=source_name,
        raw_event=event_type,
        payload=payload,
    )
