"""How an event of each kind looks: what git knows, what a trigger wants, what the command line says.

`kici.cli.events` is the door; it finds the trigger for a word.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

from msgspec import Struct, structs

from kici.cli import samples
from kici.cli.local.repository import Repository
from kici.cli.printable import printable, printable_struct
from kici.spec import triggers
from kici.spec.errors import InvalidInput
from kici.spec.events import Event

ZERO = "0" * 40
_SCHEDULED_AT = "2000-01-01T00:00:00Z"  # a moment that nobody mistakes for a real one
_NO_ID = "00000000-0000-0000-0000-000000000000"


class Occasion(Struct, frozen=True, kw_only=True):
    """An event and the commit it is about. `sha` is empty without git."""

    event: Event
    ref: str  # the branch or tag alone
    sha: str
    repository: str

    @property
    def full_ref(self) -> str:
        """As servers name it: refs/heads/…, refs/tags/…"""
        return f"refs/{'tags' if self.event.type == 'tag' else 'heads'}/{self.ref}"

    @property
    def branch(self) -> str:
        """Empty for a tag."""
        return "" if self.event.type == "tag" else self.ref


class Given(Struct, frozen=True, kw_only=True):
    """What the command line or a fixture says; it wins over git and over the trigger.

    `payload` is the event's body, of a `kici_event` what was emitted. `inputs` as written, not yet typed.
    """

    branch: str | None = None
    sha: str | None = None
    repo: str | None = None
    pr: int = 0
    files: Sequence[str] = ()
    payload: dict[str, Any] | None = None
    inputs: dict[str, Any] = {}


def _first(values: Sequence[str], usual: str) -> str:
    """`usual` where any will do, or where it is among those that will."""
    return usual if not values or usual in values else values[0]


class Maker:
    """Builds one event. `exact`: it must match its trigger, so that git's words give way."""

    def __init__(
        self, repository: Repository | None, folder_name: str, given: Given, *, exact: bool
    ) -> None:
        self._git = repository
        self._given = printable_struct(given)
        self._exact = exact
        self._commit = "" if repository is None else repository.commit(given.sha or "HEAD")
        self._name = printable(given.repo or (folder_name if repository is None else repository.name))
        self._default = "main" if repository is None else repository.default_branch

    def occasion(self, trigger: triggers.Trigger, detail: str, *, body_action: bool = False) -> Occasion:
        if self._exact:
            repos: list[triggers.Pattern] = getattr(trigger, "repos", [])
            if repos and self._given.repo is None:
                self._name = samples.matching(repos, self._name) or self._name
        event, ref = MAKERS[type(trigger)](self, trigger, detail)
        files = list(self._given.files) or self._files_for(trigger, event)
        event = structs.replace(
            event,
            sender_username=event.sender_username or self._author,
            source_repo=event.source_repo or self._name,
            provider=event.provider or "local",
            changed_files=files,
        )
        if self._given.payload is not None:
            event = _with_body(
                event, self._given.payload, action=body_action, branch=self._given.branch is None
            )
        return printable_struct(Occasion(event=event, ref=ref, sha=self._commit, repository=self._name))

    def _files_for(self, trigger: triggers.Trigger, event: Event) -> list[str] | None:
        """What changed; made to fit the trigger's paths when it has to."""
        paths: list[triggers.Pattern] = getattr(trigger, "paths", [])
        files = event.changed_files
        if not self._exact or not paths or files is None:
            return files
        one = samples.matching(paths, *files)
        return files if one is None or one in files else [*files, one]

    # ── what git knows ──────────────────────────────────────────────────────────────────────────

    @property
    def _author(self) -> str | None:
        return (self._git.author if self._git else "") or None

    @property
    def _here(self) -> str:
        """The branch that is checked out."""
        return (self._git and self._git.branch) or self._default

    def _branch(self, patterns: Sequence[triggers.Pattern], usual: str) -> str:
        if self._given.branch is not None:
            return self._given.branch
        if not self._exact or not patterns:
            return usual
        return samples.matching(patterns, usual, self._default) or usual

    def _about(self) -> dict[str, Any]:
        return {
            "repository": {
                "full_name": self._name,
                "name": self._name.rpartition("/")[2],
                "default_branch": self._default,
            },
            "sender": {"login": self._author or ""},
        }

    def _pull_request(self, source: str, target: str, state: str = "open") -> dict[str, Any]:
        return {
            "number": self._given.pr,
            "draft": False,
            "title": self._git.subject(self._commit) if self._git else "",
            "state": state,
            "head": {"ref": source, "sha": self._commit or ZERO, "repo": {"full_name": self._name}},
            "base": {"ref": target, "repo": {"full_name": self._name}},
        }

    # ── one function per kind of trigger ────────────────────────────────────────────────────────

    def push(self, trigger: triggers.PushTrigger, _detail: str) -> tuple[Event, str]:
        target = self._branch(trigger.branches, self._here)
        before, changed = self._pushed()
        event = Event(
            type="push",
            target_branch=target,
            changed_files=changed,
            raw_event="push",
            payload={
                "ref": f"refs/heads/{target}",
                "before": before or ZERO,
                "after": self._commit or ZERO,
                **self._head_commit(),
                **self._about(),
            },
        )
        return event, target

    def tag(self, trigger: triggers.TagTrigger, _detail: str) -> tuple[Event, str]:
        newest = self._git.newest_tag(self._commit) if self._git else ""
        if self._exact or (self._given.branch is None and not newest):
            name = self._given.branch or (
                samples.matching(trigger.patterns, newest) if trigger.patterns else newest
            )
        else:
            name = self._given.branch or newest
        if not name and self._exact:
            name = "v1.0.0"
        if not name:
            raise InvalidInput("there is no tag here: name one with --branch v1.0.0")
        body = {"ref": f"refs/tags/{name}", "after": self._commit or ZERO, **self._about()}
        return Event(type="tag", target_branch=name, raw_event="push", payload=body), name

    def pr(self, trigger: triggers.PrTrigger, detail: str) -> tuple[Event, str]:
        action = detail or (_first(trigger.events, "opened"))
        target = self._branch(trigger.target, self._default)
        source = self._here if self._git and self._git.branch else "HEAD"
        if self._exact and trigger.source:
            source = samples.matching(trigger.source, source) or source
        base = self._git and self._git.merge_base(target)
        state = "closed" if action == "closed" else "open"
        event = Event(
            type="pull_request",
            action=action,
            target_branch=target,
            source_branch=source,
            base_branch=target,
            is_fork_pr=False,
            changed_files=self._changed_since(base) if base else None,
            raw_event="pull_request",
            payload={
                "action": action,
                "number": self._given.pr,
                "pull_request": self._pull_request(source, target, state),
                **self._about(),
            },
        )
        return event, source

    def comment(self, trigger: triggers.CommentTrigger, detail: str) -> tuple[Event, str]:
        action = detail or _first(trigger.actions, "created")
        issue: dict[str, Any] = {"number": self._given.pr or 1, "title": ""}
        if "issue" not in trigger.source and "pr" in trigger.source:
            issue["pull_request"] = {}
        body = samples.text_for(trigger.body_match) if trigger.body_match else ""
        comment = {"id": 1, "body": body, "user": {"login": self._author or ""}}
        return self._spoken("comment", action, self._default, comment=comment, issue=issue)

    def review(self, trigger: triggers.ReviewTrigger, detail: str) -> tuple[Event, str]:
        action = detail or _first(trigger.actions, "submitted")
        review = {"id": 1, "state": _first(trigger.states, "approved"), "body": ""}
        target = self._given.branch or self._default
        request = self._pull_request(self._here, target)
        return self._spoken("review", action, target, review=review, pull_request=request)

    def review_comment(self, trigger: triggers.ReviewCommentTrigger, detail: str) -> tuple[Event, str]:
        action = detail or _first(trigger.actions, "created")
        comment = {"id": 1, "body": "", "user": {"login": self._author or ""}}
        target = self._given.branch or self._default
        request = self._pull_request(self._here, target)
        return self._spoken("review_comment", action, target, comment=comment, pull_request=request)

    def release(self, trigger: triggers.ReleaseTrigger, detail: str) -> tuple[Event, str]:
        action = detail or _first(trigger.actions, "published")
        tag = (self._git.newest_tag(self._commit) if self._git else "") or "v1.0.0"
        target = self._given.branch or self._default
        release = {
            "id": 1,
            "tag_name": tag,
            "name": tag,
            "draft": False,
            "prerelease": action == "prereleased",
            "target_commitish": target,
        }
        return self._spoken("release", action, target, release=release)

    def dispatch(self, trigger: triggers.DispatchTrigger, detail: str) -> tuple[Event, str]:
        action = detail or (trigger.types[0] if trigger.types else None)
        return self._spoken("dispatch", action, self._default, client_payload=dict(self._given.inputs))

    def created(
        self, trigger: triggers.CreateTrigger | triggers.DeleteTrigger, detail: str
    ) -> tuple[Event, str]:
        kind = "create" if isinstance(trigger, triggers.CreateTrigger) else "delete"
        ref_type = detail or _first(trigger.ref_types, "branch")
        usual = self._here if ref_type == "branch" else "v1.0.0"
        name = self._given.branch or samples.matching(trigger.patterns, usual) or usual
        body = {"ref": name, "ref_type": ref_type, **self._about()}
        return Event(type=kind, target_branch=name, raw_event=kind, payload=body), self._here

    def status(self, trigger: triggers.StatusTrigger, _detail: str) -> tuple[Event, str]:
        branch = self._given.branch or self._here
        body = {
            "state": _first(trigger.states, "success"),
            "sha": self._commit or ZERO,
            "context": samples.matching(trigger.contexts, "ci") or "ci",
            "branches": [{"name": branch}],
            **self._about(),
        }
        return Event(type="status", target_branch=branch, raw_event="status", payload=body), branch

    def workflow_run(self, trigger: triggers.WorkflowRunTrigger, detail: str) -> tuple[Event, str]:
        action = detail or _first(trigger.actions, "completed")
        branch = self._given.branch or self._here
        run = {
            "head_branch": branch,
            "name": _first(trigger.workflows, "ci"),
            "status": "completed" if action == "completed" else action,
            "conclusion": _first(trigger.conclusions, "success") if action == "completed" else None,
        }
        return self._spoken("workflow_run", action, branch, workflow_run=run)

    def fork(self, _trigger: triggers.ForkTrigger, _detail: str) -> tuple[Event, str]:
        body = {"forkee": {"full_name": f"fork/{self._name.rpartition('/')[2]}"}, **self._about()}
        return Event(type="fork", target_branch=self._default, raw_event="fork", payload=body), self._here

    def star(self, trigger: triggers.StarTrigger | triggers.WatchTrigger, detail: str) -> tuple[Event, str]:
        starred = isinstance(trigger, triggers.StarTrigger)
        action = detail or _first(trigger.actions, "created" if starred else "started")
        return self._spoken("star" if starred else "watch", action, self._default)

    def webhook(self, trigger: triggers.WebhookTrigger, detail: str) -> tuple[Event, str]:
        name = detail or trigger.events[0]
        action = trigger.actions[0] if trigger.actions else None
        body = {**({"action": action} if action else {}), **self._about()}
        event = Event(
            type="webhook", action=action, target_branch=self._default, raw_event=name, payload=body
        )
        return event, self._here

    def generic(self, trigger: triggers.GenericWebhookTrigger, _detail: str) -> tuple[Event, str]:
        behind, auth = trigger.path.strip("/"), trigger.auth
        event = Event(
            type="generic_webhook",
            source=trigger.source,
            path=f"/{behind}" if behind else None,
            verified_by=f"{auth.kind}:{auth.header}" if auth is not None else None,
            action=trigger.events[0] if trigger.events else None,
            provider="generic",
            payload=samples.body_for(trigger.match),
        )
        return event, self._given.branch or self._here

    def kici_event(self, trigger: triggers.KiciEventTrigger, _detail: str) -> tuple[Event, str]:
        return self._internal(
            "kici_event", trigger.source, eventName=trigger.name, payload=samples.body_for(trigger.match)
        )

    def workflow_complete(
        self, trigger: triggers.WorkflowCompleteTrigger, detail: str
    ) -> tuple[Event, str]:
        status = detail or _first(trigger.status, "success")
        return self._internal(
            "workflow_complete",
            trigger.source,
            workflowName=trigger.name or "ci",
            runId=_NO_ID,
            status=status,
            conclusion=status,
            duration=0,
            jobResults=[],
        )

    def job_complete(self, trigger: triggers.JobCompleteTrigger, detail: str) -> tuple[Event, str]:
        return self._internal(
            "job_complete",
            trigger.source,
            workflowName=trigger.workflow or "ci",
            jobName=trigger.job or "build",
            runId=_NO_ID,
            jobId=_NO_ID,
            status=detail or _first(trigger.status, "success"),
            duration=0,
            stepResults=[],
        )

    def lifecycle(self, trigger: triggers.LifecycleTrigger, detail: str) -> tuple[Event, str]:
        name = detail or (trigger.events[0] if trigger.events else "workflow_complete")
        failed = name == "job_failed"
        return self._internal(
            "lifecycle",
            trigger.sources,
            lifecycleEvent=name,
            workflowName="ci",
            runId=_NO_ID,
            status="failed" if failed else "success",
        )

    def schedule(self, trigger: triggers.ScheduleTrigger, detail: str) -> tuple[Event, str]:
        return self._internal(
            "schedule",
            (),
            cronExpression=trigger.cron,
            timezone=trigger.timezone,
            scheduledAt=_SCHEDULED_AT,
            workflowName=detail,
            registrationId="",
            repoIdentifier=self._name,
            routingKey="local",
            commitSha=self._commit or None,
        )

    def _internal(self, kind: str, sources: Sequence[triggers.Pattern], **body: Any) -> tuple[Event, str]:
        source = (samples.matching(sources, self._name) if sources else None) or self._name
        event = Event(
            type=kind,
            source_repo=source,
            raw_event=kind,
            payload={**body, "sourceRepo": source, "sourceRoutingKey": "local"},
        )
        return event, self._given.branch or self._here

    def _spoken(self, kind: str, action: str | None, branch: str, **body: Any) -> tuple[Event, str]:
        event = Event(
            type=kind,
            action=action,
            target_branch=branch,
            raw_event=kind,
            payload={"action": action, **body, **self._about()},
        )
        return event, self._given.branch or self._here

    # ── commits and files ───────────────────────────────────────────────────────────────────────

    def _pushed(self) -> tuple[str | None, list[str] | None]:
        """(what the branch was before, files of the push): commits that the upstream lacks, else the
        last one."""
        if self._git is None:
            return None, None
        base = self._git.merge_base("@{upstream}")
        if base is None or base == self._commit:
            base = self._git.parent(self._commit)
        return base, self._changed_since(base)

    def _changed_since(self, base: str | None) -> list[str] | None:
        """None, unknown, for a first commit: everything is new then."""
        if self._git is None or base is None:
            return None
        changed = set(self._git.changed_since(base, self._commit))
        if self._commit == self._git.head:
            changed |= set(self._git.uncommitted())
        return sorted(changed)

    def _head_commit(self) -> dict[str, Any]:
        if self._git is None:
            return {}
        head = self._git.described(self._commit)
        return {"head_commit": head, "commits": [head]}


def _with_body(event: Event, body: dict[str, Any], *, action: bool, branch: bool) -> Event:
    """The event with a body of the author's, and what that body says about itself."""
    if event.type == "kici_event":
        return structs.replace(event, payload={**event.payload, "payload": body})
    changes: dict[str, Any] = {"payload": body}
    if isinstance(body.get("action"), str) and (action or event.action is None):
        changes["action"] = body["action"]
    request: Any = body.get("pull_request")
    if branch and event.type == "pull_request" and isinstance(request, dict):
        for side, names in (("head", ["source_branch"]), ("base", ["target_branch", "base_branch"])):
            ref: Any = cast("dict[str, Any]", cast("dict[str, Any]", request).get(side) or {}).get("ref")
            changes |= {name: ref for name in names if isinstance(ref, str)}
    ref = body.get("ref")
    if branch and event.type == "push" and isinstance(ref, str):
        changes["target_branch"] = ref.removeprefix("refs/heads/")
    return structs.replace(event, **changes)


_Make = Callable[[Maker, Any, str], tuple[Event, str]]
MAKERS: dict[type[Any], _Make] = {
    triggers.PushTrigger: Maker.push,
    triggers.TagTrigger: Maker.tag,
    triggers.PrTrigger: Maker.pr,
    triggers.CommentTrigger: Maker.comment,
    triggers.ReviewTrigger: Maker.review,
    triggers.ReviewCommentTrigger: Maker.review_comment,
    triggers.ReleaseTrigger: Maker.release,
    triggers.DispatchTrigger: Maker.dispatch,
    triggers.CreateTrigger: Maker.created,
    triggers.DeleteTrigger: Maker.created,
    triggers.StatusTrigger: Maker.status,
    triggers.WorkflowRunTrigger: Maker.workflow_run,
    triggers.ForkTrigger: Maker.fork,
    triggers.StarTrigger: Maker.star,
    triggers.WatchTrigger: Maker.star,
    triggers.WebhookTrigger: Maker.webhook,
    triggers.GenericWebhookTrigger: Maker.generic,
    triggers.KiciEventTrigger: Maker.kici_event,
    triggers.WorkflowCompleteTrigger: Maker.workflow_complete,
    triggers.JobCompleteTrigger: Maker.job_complete,
    triggers.LifecycleTrigger: Maker.lifecycle,
    triggers.ScheduleTrigger: Maker.schedule,
}
