"""A local source's delivery in our own words (§4 of the orchestrator's requirements, OR-45, OR-46). Pure.

Bodies have the shape that forges send, so that one workflow reads them all: `ref`, `before`, `after`,
`repository`, `sender`; for pull requests `pull_request.head` and `.base`.
"""

from typing import Any, cast

from kici.orchestrator.inbox.happening import HEADS, TAGS, Happening, child, word
from kici.orchestrator.lockfiles.git import is_ref, is_sha
from kici.spec.errors import InvalidInput
from kici.spec.events import Event


def push(payload: dict[str, Any], repo_identifier: str) -> Happening:
    """`push` of a branch, or of a tag, which is an event of its own; the first one is `create`, too, and the last
    one `delete`. Raises InvalidInput."""
    ref, after, before = payload.get("ref"), payload.get("after"), payload.get("before")
    if not isinstance(ref, str) or not is_ref(ref) or not isinstance(after, str) or not is_sha(after):
        raise InvalidInput("a push has a full `ref` (refs/heads/…) and a commit id in `after`")
    kind, name = "push", ref.removeprefix(HEADS)
    if ref.startswith(TAGS):
        kind, name = "tag", ref.removeprefix(TAGS)
    elif not ref.startswith(HEADS):
        return Happening(
            event=_event("push", payload, repo_identifier, raw_event="push"),
            ref=ref,
            note=f"{ref} is neither a branch nor a tag",
        )

    def as_forges_tell(change: str) -> Event:
        named = {**payload, "ref": name, "ref_type": "branch" if kind == "push" else "tag"}
        return _event(change, named, repo_identifier, raw_event=change, target=name)

    if not after.strip("0"):
        return Happening(event=as_forges_tell("delete"), ref=ref)
    created = isinstance(before, str) and not before.strip("0")
    return Happening(
        event=_event(kind, payload, repo_identifier, raw_event="push", target=name),
        also=(as_forges_tell("create"),) if created else (),
        ref=ref,
        branch=name if kind == "push" else None,
        sha=after,
        before=before if kind == "push" and isinstance(before, str) and is_sha(before) else None,
    )


def pull_request(payload: dict[str, Any], repo_identifier: str) -> Happening:
    """Raises InvalidInput."""
    body = child(payload, "pull_request")
    head, base = child(body, "head"), child(body, "base")
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
        ref=f"{HEADS}{source}",
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


def _sender(payload: dict[str, Any]) -> str | None:
    found = word(child(payload, "sender"), "login") or word(child(payload, "pusher"), "name")
    return found[:255] if found else None


def generic(
    document: Any,
    *,
    event_type: str | None,
    source_name: str,
    verified_by: str | None = None,
    path: str | None = None,
) -> Event:
    """A webhook in its sender's own shape. Anything but an object stands under `body`."""
    payload = cast("dict[str, Any]", document) if isinstance(document, dict) else {"body": document}
    return Event(
        type="generic_webhook",
        action=event_type,
        provider="generic",
        source=source_name,
        raw_event=event_type,
        verified_by=verified_by,
        path=path,
        payload=payload,
    )
