"""Fixtures of `.kici/tests` on the command line: found by id or glob, made into events (AU-121)."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct, structs

from kici.cli.events import HELP, Named, is_word, make_occasion, occasion_for
from kici.cli.local.repository import Repository
from kici.cli.occasions import Given, Occasion
from kici.cli.printable import printable_struct
from kici.compiler.exchange import ShapedFixture
from kici.spec.errors import InvalidInput
from kici.spec.lock import LockWorkflow


class UnknownFixture(InvalidInput):
    """Neither an event nor a fixture has the name."""


class Trial(Struct, frozen=True, kw_only=True):
    """One event to run workflows on. `environments`: of jobs → contexts of local secrets."""

    occasion: Occasion
    given: Given
    workflow: str | None = None
    fixture: str | None = None
    environments: dict[str, str] = {}


def fixtures_of(text: str | None) -> str | None:
    """The id or glob that `text` is; None where it is an event, or nothing."""
    return None if text is None or is_word(text) else text


def trials_for(
    text: str | None,
    given: Given,
    repository: Repository | None,
    *,
    folder_name: str,
    workflows: Sequence[LockWorkflow],
    workflow: str | None,
    fixtures: Sequence[ShapedFixture],
    pick: bool = False,
) -> list[Trial]:
    """What a command is to be tried with: one event, or one per fixture that `text` names.

    Without `text` the first trigger of `workflow` makes the event, else it is a push. Raises InvalidInput.
    """
    if text is not None and not is_word(text):
        return [
            trial_of(fixture, given, repository, folder_name=folder_name, workflow=workflow)
            for fixture in named(fixtures, text)
        ]
    triggers = [(each.name, trigger) for each in workflows for trigger in each.triggers]
    picked: Named | None = None
    if pick:
        from kici.cli.local.picking import pick as ask

        picked = ask(triggers)
    elif text is None and workflow is not None and triggers:
        picked = triggers[0]
    if picked is None:
        occasion = make_occasion(
            text or "push", repository, folder_name=folder_name, triggers=triggers, given=given
        )
    else:
        name, trigger = picked
        occasion = occasion_for(trigger, repository, folder_name=folder_name, workflow=name, given=given)
    return [Trial(occasion=occasion, given=given, workflow=workflow)]


def named(fixtures: Sequence[ShapedFixture], text: str) -> list[ShapedFixture]:
    """The fixture with this id, or all that the glob matches, in order of their files. Raises UnknownFixture."""
    found = [fixture for fixture in fixtures if fixture.id == text]
    found = found or [fixture for fixture in fixtures if fnmatchcase(fixture.id, text)]
    if not found:
        known = ", ".join(fixture.id for fixture in fixtures) or "there are none in .kici/tests"
        raise UnknownFixture(f"{text!r} is no event and no fixture\n  events: {HELP}\n  fixtures: {known}")
    return found


def trial_of(
    fixture: ShapedFixture,
    given: Given,
    repository: Repository | None,
    *,
    folder_name: str,
    workflow: str | None,
) -> Trial:
    """What the fixture says, and over it what the command line says. Raises InvalidInput."""
    both = Given(
        branch=given.branch or fixture.branch,
        sha=given.sha or fixture.sha,
        repo=given.repo or fixture.repo,
        pr=given.pr or fixture.pr or 0,
        files=given.files,
        payload=given.payload if given.payload is not None else fixture.payload,
        inputs={**fixture.inputs, **given.inputs},
    )
    wanted = workflow or fixture.workflow
    if fixture.trigger is not None:
        occasion = occasion_for(
            fixture.trigger, repository, folder_name=folder_name, workflow=wanted or "", given=both
        )
    else:
        assert fixture.event is not None
        occasion = _as_written(fixture, both, repository, folder_name)
    return Trial(
        occasion=occasion,
        given=both,
        workflow=wanted,
        fixture=fixture.id,
        environments=fixture.secrets,
    )


def _as_written(
    fixture: ShapedFixture, given: Given, repository: Repository | None, folder_name: str
) -> Occasion:
    """An event that the author made, with what is given beside it."""
    event = fixture.event
    assert event is not None
    name = given.repo or event.source_repo or (repository.name if repository else folder_name)
    changes: dict[str, Any] = {"source_repo": name}
    if given.branch is not None:
        changes["target_branch"] = given.branch
    if given.files:
        changes["changed_files"] = list(given.files)
    if given.payload is not None:
        changes["payload"] = given.payload
    commit = "" if repository is None else repository.commit(given.sha or "HEAD")
    event = structs.replace(event, **changes)
    ref = event.source_branch or event.target_branch or (repository and repository.branch) or ""
    return printable_struct(Occasion(event=event, ref=ref, sha=commit, repository=name))
