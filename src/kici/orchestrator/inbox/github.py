"""Deliveries in the shape that GitHub sends, in our own words (OR-45, OR-46, AU §5). Pure and total but for
pushes and pull requests without a commit, which cannot be meant.

Events that have no word of ours become `webhook`, under the sender's own name.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from msgspec import structs

from kici.orchestrator.inbox.happening import HEADS, TAGS, Happening, child, word
from kici.orchestrator.lockfiles.git import is_ref, is_sha
from kici.spec.errors import InvalidInput
from kici.spec.events import Event

MAX_NAME = 255


def repository_of(payload: Mapping[str, Any]) -> str | None:
    """`owner/name`, where the delivery belongs to a repository."""
    return word(child(payload, "repository"), "full_name")


def normalise(name: str, payload: dict[str, Any]) -> Happening:
    """`name`: of `X-GitHub-Event`. Raises InvalidInput."""
    return _KNOWN.get(name, _webhook)(name, payload)


def _event(name: str, kind: str, payload: dict[str, Any], target: str | None, **more: Any) -> Event:
    sender = child(payload, "sender")
    user_id = sender.get("id")
    login = word(sender, "login") or word(child(payload, "pusher"), "name")
    fields: dict[str, Any] = {
        "type": kind,
        "action": word(payload, "action"),
        "target_branch": target,
        "sender_username": login[:MAX_NAME] if login else None,
        "sender_user_id": str(user_id) if isinstance(user_id, int) else None,
        "source_repo": repository_of(payload),
        "provider": "github",
        "raw_event": name,
        "payload": payload,
    }
    return Event(**{**fields, **more})


def _default_branch(payload: Mapping[str, Any]) -> str | None:
    return word(child(payload, "repository"), "default_branch")


def _at_default(kind: str) -> Callable[[str, dict[str, Any]], Happening]:
    """Of the repository as a whole: comments, stars, forks, dispatches."""

    def made(name: str, payload: dict[str, Any]) -> Happening:
        return Happening(event=_event(name, kind, payload, _default_branch(payload)))

    return made


_webhook = _at_default("webhook")


def _push(name: str, payload: dict[str, Any]) -> Happening:
    ref, after, before = word(payload, "ref"), word(payload, "after"), word(payload, "before")
    if ref is None or not is_ref(ref) or after is None or not is_sha(after):
        raise InvalidInput("a push has a full `ref` (refs/heads/…) and a commit id in `after`")
    is_tag = ref.startswith(TAGS)
    if not is_tag and not ref.startswith(HEADS):
        return Happening(
            event=_event(name, "push", payload, None),
            ref=ref,
            note=f"{ref} is neither a branch nor a tag",
        )
    short = ref.removeprefix(TAGS if is_tag else HEADS)
    branch = None if is_tag else short
    event = _event(name, "tag" if is_tag else "push", payload, short, action=None)
    if not after.strip("0"):
        # GitHub tells deletions by an event of their own; this one would be the second.
        what = "Tag" if is_tag else "Branch"
        return Happening(event=event, ref=ref, branch=branch, note=f"{what} {short} was deleted")
    return Happening(
        event=_with_files(event),
        ref=ref,
        branch=branch,
        sha=after,
        before=before if not is_tag and before is not None and is_sha(before) else None,
    )


def _with_files(event: Event) -> Event:
    """What the commits list, where they are all there: not for new branches and forced pushes (OR-52)."""
    payload = event.payload
    commits = payload.get("commits")
    whole = (
        isinstance(commits, list) and commits and not payload.get("forced") and not payload.get("created")
    )
    if event.type != "push" or not whole:
        return event
    files: dict[str, None] = {}
    for commit in cast("list[object]", commits):
        for key in ("added", "removed", "modified"):
            listed = cast("dict[str, object]", commit).get(key) if isinstance(commit, dict) else None
            if not isinstance(listed, list):
                return event
            files.update(dict.fromkeys(str(path) for path in cast("list[object]", listed)))
    return structs.replace(event, changed_files=list(files))


def _pull(kind: str) -> Callable[[str, dict[str, Any]], Happening]:
    """Pull requests, their reviews and the comments of those: at the head, into the base."""

    def made(name: str, payload: dict[str, Any]) -> Happening:
        head, base = child(payload, "pull_request", "head"), child(payload, "pull_request", "base")
        sha, source, target = word(head, "sha"), word(head, "ref"), word(base, "ref")
        if sha is None or not is_sha(sha):
            raise InvalidInput(f"{name}: there is no commit id in `pull_request.head.sha`")
        if source is None or not is_ref(source) or target is None or not is_ref(target):
            raise InvalidInput(f"{name}: there are no branches in `pull_request.head.ref` and `.base.ref`")
        theirs = word(child(head, "repo"), "full_name")  # none: the fork was deleted
        ours = word(child(base, "repo"), "full_name") or repository_of(payload)
        before = word(base, "sha")
        return Happening(
            event=_event(
                name,
                kind,
                payload,
                target,
                source_branch=source,
                base_branch=target,
                is_fork_pr=theirs != ours,
            ),
            ref=f"{HEADS}{source}",
            branch=source,
            sha=sha,
            before=before if before is not None and is_sha(before) else None,
            since_fork=True,
        )

    return made


def _release(name: str, payload: dict[str, Any]) -> Happening:
    """At what it was made from: a branch, or a commit."""
    commitish = word(child(payload, "release"), "target_commitish")
    target = commitish or _default_branch(payload)
    event = _event(name, "release", payload, target)
    if commitish is not None and is_sha(commitish) and len(commitish) == 40:
        return Happening(event=event, ref=commitish, sha=commitish)
    return Happening(event=event, branch=commitish if commitish and is_ref(commitish) else None)


def _ref_event(kind: str) -> Callable[[str, dict[str, Any]], Happening]:
    def made(name: str, payload: dict[str, Any]) -> Happening:
        return Happening(event=_event(name, kind, payload, word(payload, "ref"), action=None))

    return made


def _status(name: str, payload: dict[str, Any]) -> Happening:
    branches = payload.get("branches")
    first = (
        word(cast("list[object]", branches)[0], "name") if isinstance(branches, list) and branches else None
    )
    sha = word(payload, "sha")
    return Happening(
        event=_event(name, "status", payload, first or _default_branch(payload), action=None),
        ref=f"{HEADS}{first}" if first else "",
        branch=first,
        sha=sha if sha is not None and is_sha(sha) else None,
    )


def _workflow_run(name: str, payload: dict[str, Any]) -> Happening:
    branch = word(child(payload, "workflow_run"), "head_branch")
    return Happening(event=_event(name, "workflow_run", payload, branch or _default_branch(payload)))


def _fork(name: str, payload: dict[str, Any]) -> Happening:
    return Happening(event=_event(name, "fork", payload, _default_branch(payload), action=None))


_KNOWN: dict[str, Callable[[str, dict[str, Any]], Happening]] = {
    "push": _push,
    "pull_request": _pull("pull_request"),
    "pull_request_review": _pull("review"),
    "pull_request_review_comment": _pull("review_comment"),
    "issue_comment": _at_default("comment"),
    "release": _release,
    "repository_dispatch": _at_default("dispatch"),
    "create": _ref_event("create"),
    "delete": _ref_event("delete"),
    "status": _status,
    "workflow_run": _workflow_run,
    "fork": _fork,
    "star": _at_default("star"),
    "watch": _at_default("watch"),
}
