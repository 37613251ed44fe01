"""One `kici run remote`: compile, find the events, pack, upload, trigger, follow, tell (AU-123)."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Coroutine, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kici.cli import config as stored
from kici.cli.account import chosen_org
from kici.cli.client import Client, Target
from kici.cli.events import is_word, make_occasion, occasion_for
from kici.cli.fixtures import Trial, fixtures_of, named, trial_of
from kici.cli.local.compiling import compiled
from kici.cli.local.repository import NoRepository, Repository
from kici.cli.local.results import RunReport
from kici.cli.local.screen import Screen
from kici.cli.local.secrets import read_secrets
from kici.cli.local.selection import known_workflow
from kici.cli.occasions import Given
from kici.cli.remote import history
from kici.cli.remote.base import find_base
from kici.cli.remote.difference import Base, difference
from kici.cli.remote.follow import Detached, Followed, Interruption, follow
from kici.cli.remote.pack import WARN_BYTES, Packed, megabytes, pack, pack_difference, summary
from kici.cli.remote.report import FixtureReport, RemoteReport, run_report
from kici.cli.remote.transfer import (
    BadRequest,
    Destination,
    Progress,
    Rejected,
    Uploaded,
    sealed_values,
    trigger,
    upload,
)
from kici.cli.remote.tree import make_git, survey
from kici.compiler.exchange import ShapedFixture
from kici.compiler.lockfile import encode
from kici.protocol.remote_v1 import (
    MAX_LOCK_BYTES,
    CheckMode,
    RemoteEventBody,
    RemoteRun,
    RemoteTriggerBody,
    RemoteTriggered,
)
from kici.spec import lock
from kici.spec.errors import InvalidInput, KiciError


class Wishes(Struct, frozen=True, kw_only=True):
    """The command line."""

    folder: Path  # .kici
    event: str | None
    workflow: str | None
    every: bool = False  # --all fixtures
    pick: bool = False
    parallel: bool = False
    wait: bool = True
    org: str | None = None
    cluster: str | None = None
    env: list[str] = []
    contexts: list[str] = []
    inputs: dict[str, str] = {}
    full: bool = False
    targets: list[str] = []
    target_allow_empty: bool = False
    approve_all: bool = False
    check_mode: CheckMode = "apply"
    progress: bool = False


class NothingGiven(InvalidInput):
    """No event and no fixture: the message lists what there is."""


def prepare(wishes: Wishes) -> tuple[Repository, lock.LockFile, list[ShapedFixture]]:
    """Compile before anything leaves this machine. Blocking. Raises CompileFailed, NoRepository."""
    chosen = {} if wishes.every else {"chosen": fixtures_of(wishes.event)}
    document, fixtures = compiled(wishes.folder, **chosen)
    try:
        repository = Repository(wishes.folder.parent)
    except NoRepository as error:
        reason = str(error).partition(":")[0]
        raise NoRepository(f"{reason}: a remote run needs one; run `git init` and commit") from None
    return repository, document, fixtures


def trials(
    wishes: Wishes, repository: Repository, document: lock.LockFile, fixtures: Sequence[ShapedFixture]
) -> list[Trial]:
    """One for each fixture that is meant, else one for the event. Raises InvalidInput."""
    folder_name, given = wishes.folder.parent.name, Given(inputs=wishes.inputs)

    def of(chosen: Sequence[ShapedFixture]) -> list[Trial]:
        return [
            trial_of(fixture, given, repository, folder_name=folder_name, workflow=wishes.workflow)
            for fixture in chosen
        ]

    if wishes.every:
        if not fixtures:
            raise NothingGiven("--all: there are no fixtures in .kici/tests")
        return of(fixtures)
    if wishes.event is not None and not is_word(wishes.event):
        return of(named(fixtures, wishes.event))
    workflows = known_workflow(document, wishes.workflow)
    triggers = [(workflow.name, trigger) for workflow in workflows for trigger in workflow.triggers]
    if wishes.event is not None:
        occasion = make_occasion(
            wishes.event, repository, folder_name=folder_name, triggers=triggers, given=given
        )
    elif wishes.pick:
        from kici.cli.local.picking import pick

        name, chosen = pick(triggers)
        occasion = occasion_for(chosen, repository, folder_name=folder_name, workflow=name, given=given)
    elif wishes.workflow is not None and triggers:
        name, chosen = triggers[0]
        occasion = occasion_for(chosen, repository, folder_name=folder_name, workflow=name, given=given)
    elif wishes.workflow is not None:
        occasion = make_occasion("push", repository, folder_name=folder_name, given=given)
    else:
        known = "".join(f"\n  {fixture.id}" for fixture in fixtures) or " none in .kici/tests"
        raise NothingGiven(
            "what shall run? Name an event (push, pr, …), a workflow with --workflow, or a fixture:" + known
        )
    return [Trial(occasion=occasion, given=given, workflow=wishes.workflow)]


def pack_tree(repository: Repository, base: Base | None, scratch: Path, screen: Screen) -> Packed:
    """Survey and pack, and say what travels. Blocking. Raises TreeTooLarge, InvalidInput."""
    tree = survey(repository)
    for line in tree.left_out:
        screen.notice(f"warning: {line}")
    place = scratch / "tree.tar.gz"
    found = None if base is None else difference(repository, tree, base, scratch / "objects.pack")
    if found is not None:
        tree = found.tree
        packed = pack_difference(found, place)
    else:
        packed = pack(tree, make_git(repository, scratch / "git"), place)
    screen.notice(summary(tree, packed))
    if packed.size_bytes >= WARN_BYTES:
        screen.notice(
            f"warning: {megabytes(packed.size_bytes)} is much to send each time; .kiciignore leaves files out"
        )
    return packed


class Sent(Struct, frozen=True, kw_only=True):
    """A working tree that the server has; `over` a commit, if it is a difference."""

    uploaded: Uploaded
    over: Base | None


class Session:
    """The client is open; everything here goes to one Platform, org and cluster. First `send`, then `run`."""

    _sent: Sent

    def __init__(
        self,
        wishes: Wishes,
        client: Client,
        to: Destination,
        repository: Repository,
        document: lock.LockFile,
        scratch: Path,
        screen: Screen,
        interruption: Interruption,
    ) -> None:
        self._wishes = wishes
        self._scratch = scratch
        self._sending = asyncio.Lock()
        self._client = client
        self._to = to
        self._repository = repository
        self._lock = encode(document).decode()
        if len(self._lock.encode()) > MAX_LOCK_BYTES:
            raise InvalidInput(f"the lock file has more than {MAX_LOCK_BYTES >> 20} MB")
        self._screen = screen
        self._interruption = interruption
        self.followed: list[FixtureReport] = []  # as they began

    def say(self, text: str) -> None:
        self._screen.notice(text)

    async def send(self) -> None:
        """Of the working tree the difference, if the server has the rest and nobody asked for all. Raises
        Interrupted."""
        base = None if self._wishes.full else await find_base(self._client, self._to, self._repository)
        self._sent = await self._send(base)

    async def _send(self, base: Base | None) -> Sent:
        packed = await asyncio.to_thread(pack_tree, self._repository, base, self._scratch, self._screen)
        with _shown_progress(packed, wanted=self._wishes.progress) as progress:
            sending = upload(self._client, self._to, self._repository.head, packed, progress)
            uploaded = await _unless_interrupted(sending, self._interruption)
        return Sent(uploaded=uploaded, over=packed.over)

    async def run(self, trial: Trial) -> FixtureReport:
        """Never raises for what the server refuses: that is the report (AU-128)."""
        event = trial.occasion.event.type
        name = trial.fixture or self._wishes.event or event
        if trial.fixture is not None:
            self._screen.notice(f"Fixture {trial.fixture}: {event}")
        try:
            answer = await self._trigger(trial, name)
        except (Rejected, BadRequest) as refused:
            self._screen.notice(f"✗ {name}: {refused}")
            return FixtureReport(
                fixture=name, event=event, status="rejected", reason=refused.reason, message=str(refused)
            )
        accepted = FixtureReport(
            fixture=name,
            event=event,
            status="accepted",
            run_ids=[run.run_id for run in answer.runs],
            urls=[self._url(run) for run in answer.runs],
        )
        for run, url in zip(answer.runs, accepted.urls, strict=True):
            self._screen.notice(f"{run.workflow_name}: {url}")
        self._remember(answer.runs, name, trial)
        if not self._wishes.wait:
            return accepted
        self.followed.append(accepted)
        reports = await self._follow(answer.runs)
        self._remember(answer.runs, name, trial, reports)
        return msgspec.structs.replace(accepted, runs=reports)

    async def _trigger(self, trial: Trial, name: str) -> RemoteTriggered:
        sent = self._sent
        try:
            return await trigger(self._client, self._to, self._body(trial, name, sent))
        except Rejected as rejected:
            if rejected.reason != "base_unknown" or sent.over is None:
                raise
        async with self._sending:  # whichever fixture learns it first
            if self._sent is sent:
                self.say(f"The server no longer has {sent.over.shown}; sending everything")
                self._sent = await self._send(None)
        return await trigger(self._client, self._to, self._body(trial, name, self._sent))

    def _body(self, trial: Trial, name: str, sent: Sent) -> RemoteTriggerBody:
        occasion, wishes, uploaded = trial.occasion, self._wishes, sent.uploaded
        event = occasion.event
        secrets = read_secrets(wishes.folder, contexts=wishes.contexts, given=wishes.env)
        values = {key: secret.value for key, secret in secrets.of(()).items()}
        sealed, sealed_key = sealed_values(uploaded, values)
        return RemoteTriggerBody(
            fixture_id=name,
            event=RemoteEventBody(
                type=event.type,
                action=event.action,
                target_branch=event.target_branch,
                source_branch=event.source_branch,
                base_branch=event.base_branch,
                is_fork_pr=event.is_fork_pr,
                sender_username=event.sender_username,
                changed_files=event.changed_files,
                source=event.source,
                raw_event=event.raw_event,
                payload=event.payload,
            ),
            upload_id=uploaded.upload_id,
            cli_public_key=uploaded.public_key,
            inline_lock_file=self._lock,
            full_repo=sent.over is None,
            base=None if sent.over is None else sent.over.commit,
            source=None if sent.over is None else sent.over.source,
            workflow_name=trial.workflow,
            secrets=trial.environments,
            check_mode=wishes.check_mode,
            target=wishes.targets,
            target_allow_empty=wishes.target_allow_empty,
            approve_all=wishes.approve_all,
            dispatch_inputs=trial.given.inputs,
            repository=occasion.repository,
            branch=self._repository.branch,
            commit_message=self._repository.subject(self._repository.head),
            encrypted_secrets=sealed,
            encrypted_secrets_key=sealed_key,
        )

    async def _follow(self, started: Sequence[RemoteRun]) -> list[RunReport]:
        followed = [
            Followed(
                self._client,
                self._to.org_id,
                run.run_id,
                self._screen,
                prefix=f"{run.workflow_name}/" if len(started) > 1 else "",
            )
            for run in started
        ]
        try:
            await follow(followed, self._screen, self._interruption)
        except Detached:
            for run in followed:
                if not run.ended:
                    self._screen.notice(f"Detached; the run goes on: {run.run_id}")
            raise
        reports: list[RunReport] = []
        for run in followed:
            assert run.detail is not None
            report = run_report(run.detail)
            self._screen.tree(report)
            reports.append(report)
        return reports

    def _url(self, run: RemoteRun) -> str:
        return f"{self._client.target.platform_url}/orgs/{self._to.org_id}/runs/{run.run_id}"

    def _remember(
        self, runs: Sequence[RemoteRun], name: str, trial: Trial, reports: Sequence[RunReport] = ()
    ) -> None:
        statuses = {report.run_id: str(report.status) for report in reports}
        known = {entry.run_id: entry.started_at_ms for entry in history.entries()}
        now = time.time_ns() // 1_000_000
        try:
            history.remember(
                [
                    history.Started(
                        run_id=run.run_id,
                        workflow=run.workflow_name,
                        fixture=name,
                        repository=trial.occasion.repository,
                        branch=self._repository.branch or "",
                        started_at_ms=known.get(run.run_id, now),
                        platform_url=self._client.target.platform_url,
                        url=self._url(run),
                        status=statuses.get(run.run_id, "started"),
                    )
                    for run in runs
                ]
            )
        except OSError as error:
            self._screen.notice(f"warning: the history cannot be written: {error.strerror}")


async def run_remote(
    wishes: Wishes,
    target: Target,
    prepared: tuple[Repository, lock.LockFile, list[ShapedFixture]],
    screen: Screen,
) -> RemoteReport:
    """Raises KiciErrors of what stands in the way before anything is triggered."""
    repository, document, fixtures = prepared
    wanted = trials(wishes, repository, document, fixtures)
    with (
        tempfile.TemporaryDirectory(prefix="kici-remote-") as scratch,
        Interruption(screen) as interruption,
    ):
        async with Client(target) as client:
            org_id = await chosen_org(client, wishes.org)
            default = stored.load().default_clusters.get(org_id)
            to = Destination(org_id=org_id, cluster=wishes.cluster, default_cluster=default)
            session = Session(wishes, client, to, repository, document, Path(scratch), screen, interruption)
            await session.send()
            try:
                reports = await _all(session, wanted, parallel=wishes.parallel)
            except Detached:
                return RemoteReport(ok=False, fixtures=session.followed, interrupted=True, detached=True)
            finally:
                screen.close()
    return RemoteReport(
        ok=all(report.good for report in reports), fixtures=reports, interrupted=interruption.count > 0
    )


class Interrupted(Exception):
    """Ctrl-C before anything was started: there is nothing to cancel."""


async def _unless_interrupted(
    sending: Coroutine[Any, Any, Uploaded], interruption: Interruption
) -> Uploaded:
    """Raises Interrupted."""
    try:
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(sending, name="upload")
            ctrl_c = tasks.create_task(interruption.first.wait(), name="ctrl-c")
            await asyncio.wait({work, ctrl_c}, return_when=asyncio.FIRST_COMPLETED)
            ctrl_c.cancel()
            work.cancel()
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
    if work.cancelled():
        raise Interrupted
    return work.result()


async def _all(session: Session, wanted: Sequence[Trial], *, parallel: bool) -> list[FixtureReport]:
    """In order, up to the first that is not good; or all at once."""
    if parallel:
        return list(await asyncio.gather(*(_one(session, trial) for trial in wanted)))
    reports: list[FixtureReport] = []
    for trial in wanted:
        reports.append(await _one(session, trial))
        if not reports[-1].good:
            break
    return reports


async def _one(session: Session, trial: Trial) -> FixtureReport:
    try:
        return await session.run(trial)
    except KiciError as error:
        if trial.fixture is None:
            raise
        session.say(f"✗ {trial.fixture}: {error}")
        return FixtureReport(
            fixture=trial.fixture,
            event=trial.occasion.event.type,
            status="error",
            reason=error.code,
            message=str(error),
        )


@contextmanager
def _shown_progress(packed: Packed, *, wanted: bool) -> Generator[Progress]:
    """A bar on stderr, on a terminal."""
    if not wanted or not sys.stderr.isatty() or os.environ.get("CI", "").lower() in {"1", "true"}:
        yield lambda _sent: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    with Progress(
        TextColumn("Uploading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("upload", total=packed.sealed_bytes)
        yield lambda sent: bar.update(task, completed=sent)
