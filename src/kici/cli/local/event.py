"""The event that a word of the command line stands for, with the data of the working tree (AU-111, AU-112)."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from kici.cli.local.repository import Repository
from kici.spec.errors import InvalidInput
from kici.spec.events import Event

_PR_WORDS = {"open": "opened", "sync": "synchronize", "close": "closed", "reopen": "reopened"}
_ZERO = "0" * 40
WORDS = "push, pr[:open|sync|close|reopen|…], tag, generic_webhook:SOURCE, webhook_event:NAME"


class Occasion(Struct, frozen=True, kw_only=True):
    """An event and the commit it is about. `sha` is empty without git."""

    event: Event
    ref: str
    sha: str
    repository: str


class UnknownEvent(InvalidInput):
    """The command line names no event that workflows can start on."""


def make_occasion(
    word: str,
    repository: Repository | None,
    *,
    folder_name: str,
    branch: str | None,
    sha: str | None,
    files: Sequence[str],
    payload: dict[str, Any] | None,
) -> Occasion:
    """`branch`, `sha`, `files`, `payload` win over what git says. Raises InvalidInput."""
    kind, _, detail = word.partition(":")
    commit = "" if repository is None else repository.commit(sha or "HEAD")
    name = folder_name if repository is None else repository.name
    match kind:
        case "push":
            event, ref = _push(repository, commit, branch, name)
        case "tag":
            event, ref = _tag(repository, commit, branch, name)
        case "pr":
            event, ref = _pr(repository, commit, branch, name, detail or "opened")
        case "generic_webhook" | "webhook" if detail:
            event = Event(type="generic_webhook", source=detail, provider="generic")
            ref = branch or (repository and repository.branch) or ""
        case "webhook_event" if detail:
            event = Event(type=detail, raw_event=detail, source_repo=name, provider="local")
            ref = branch or (repository and repository.branch) or ""
        case _:
            raise UnknownEvent(f"{word!r} is no event; events: {WORDS}")
    if files:
        event = structs.replace(event, changed_files=list(files))
    if payload is not None:
        action = payload.get("action")
        event = structs.replace(
            event,
            payload=payload,
            action=str(action) if action is not None and event.action is None else event.action,
        )
    return Occasion(event=event, ref=ref, sha=commit, repository=name)


def _push(repository: Repository | None, commit: str, branch: str | None, name: str) -> tuple[Event, str]:
    target = branch or (repository and (repository.branch or repository.default_branch)) or "main"
    before, changed = _pushed(repository, commit)
    event = Event(
        type="push",
        target_branch=target,
        sender_username=_author(repository),
        source_repo=name,
        changed_files=changed,
        provider="local",
        raw_event="push",
        payload={
            "ref": f"refs/heads/{target}",
            "before": before or _ZERO,
            "after": commit or _ZERO,
            **_head_commit(repository, commit),
            **_about(repository, name),
        },
    )
    return event, target


def _tag(repository: Repository | None, commit: str, tag: str | None, name: str) -> tuple[Event, str]:
    if tag is None and repository is not None:
        tag = repository.ask("describe", "--tags", "--abbrev=0", commit) or None
    if tag is None:
        raise InvalidInput("there is no tag here: name one with --branch v1.0.0")
    event = Event(
        type="tag",
        target_branch=tag,
        sender_username=_author(repository),
        source_repo=name,
        provider="local",
        raw_event="push",
        payload={"ref": f"refs/tags/{tag}", "after": commit or _ZERO, **_about(repository, name)},
    )
    return event, tag


def _pr(
    repository: Repository | None, commit: str, branch: str | None, name: str, word: str
) -> tuple[Event, str]:
    action = _PR_WORDS.get(word, word)
    target = branch or (repository.default_branch if repository else "main")
    source = (repository and repository.branch) or "HEAD"
    base = repository and repository.merge_base(target)
    event = Event(
        type="pull_request",
        action=action,
        target_branch=target,
        source_branch=source,
        base_branch=target,
        is_fork_pr=False,
        sender_username=_author(repository),
        source_repo=name,
        changed_files=_with_uncommitted(repository, base, commit) if base else None,
        provider="local",
        raw_event="pull_request",
        payload={
            "action": action,
            "number": 0,
            "pull_request": {
                "number": 0,
                "draft": False,
                "title": repository.ask("log", "-1", "--format=%s", commit) if repository else "",
                "state": "closed" if action == "closed" else "open",
                "head": {"ref": source, "sha": commit or _ZERO, "repo": {"full_name": name}},
                "base": {"ref": target, "repo": {"full_name": name}},
            },
            **_about(repository, name),
        },
    )
    return event, source


def _pushed(repository: Repository | None, commit: str) -> tuple[str | None, list[str] | None]:
    """(what the branch was before, files of the push): commits that the upstream lacks, else the last one."""
    if repository is None:
        return None, None
    base = repository.merge_base("@{upstream}")
    if base is None or base == commit:
        base = repository.ask("rev-parse", "--verify", "--quiet", f"{commit}^") or None
    return base, _with_uncommitted(repository, base, commit)


def _with_uncommitted(repository: Repository | None, base: str | None, commit: str) -> list[str] | None:
    """None, unknown, for a first commit: everything is new then."""
    if repository is None or base is None:
        return None
    changed = set(repository.changed_since(base, commit))
    if commit == repository.head:
        changed |= set(repository.uncommitted())
    return sorted(changed)


def _author(repository: Repository | None) -> str | None:
    return (repository.ask("config", "user.name") if repository else "") or None


def _about(repository: Repository | None, name: str) -> dict[str, Any]:
    default = repository.default_branch if repository else "main"
    return {
        "repository": {"full_name": name, "name": name.rpartition("/")[2], "default_branch": default},
        "sender": {"login": _author(repository) or ""},
    }


def _head_commit(repository: Repository | None, commit: str) -> dict[str, Any]:
    if repository is None:
        return {}
    shown = repository.ask("log", "-1", "--format=%an%x00%ae%x00%B", commit)
    author, email, message = shown.split("\0", 2)
    head = {"id": commit, "message": message.strip(), "author": {"name": author, "email": email}}
    return {"head_commit": head, "commits": [head]}
