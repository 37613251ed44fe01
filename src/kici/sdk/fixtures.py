"""Named events to try workflows with, kept in `.kici/tests` (AU-121). A fixture is no assertion."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast, overload

from kici.sdk.definitions import Fixture, Trigger, is_coroutine_function
from kici.sdk.errors import DefinitionError
from kici.sdk.events import Event
from kici.sdk.options import Options
from kici.sdk.problems import Problem, nearest, report
from kici.sdk.source import SourceLocation, caller
from kici.sdk.values import Maybe

# A trigger (the event is made from it), an event, or a mapping with keys of `fixture` that includes `event`.
FixtureEvent: TypeAlias = Trigger | Event | Mapping[str, Any]
FixtureFunction: TypeAlias = Callable[[], Maybe[FixtureEvent]]

_KEYS = ("event", "branch", "sha", "repo", "pr", "secrets", "workflow", "inputs", "payload")
_TEXTS = ("branch", "sha", "repo", "workflow")
# What the command line takes for an event, and never for a fixture.
EVENT_WORDS = frozenset(
    [
        "push",
        "pr",
        "pull_request",
        "tag",
        "comment",
        "review",
        "review_comment",
        "release",
        "dispatch",
        "create",
        "delete",
        "status",
        "workflow_run",
        "fork",
        "star",
        "watch",
        "kici_event",
        "generic_webhook",
        "webhook",
        "webhook_event",
        "workflow_complete",
        "job_complete",
        "lifecycle",
        "schedule",
    ]
)
_unnamed = itertools.count(1)


class _WithEvent(Fixture, frozen=True, kw_only=True, eq=False):
    """It has its event, and is no decorator any more."""

    def __call__(self, _fn: object) -> Fixture:
        report(
            "E119",
            f"fixture {self.id!r}: `event` is given, and the function below would make another",
            "leave `event` out over a function: it returns the event; or leave the function out",
            source=self.source,
        )
        return self


@overload
def fixture(
    id: str,
    /,
    *,
    event: Trigger | Event,
    branch: str | None = None,
    sha: str | None = None,
    repo: str | None = None,
    pr: int | None = None,
    secrets: Mapping[str, str] | None = None,
    workflow: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    payload: Mapping[str, Any] | None = None,
) -> Fixture: ...
@overload
def fixture(
    id: str,
    /,
    *,
    branch: str | None = None,
    sha: str | None = None,
    repo: str | None = None,
    pr: int | None = None,
    secrets: Mapping[str, str] | None = None,
    workflow: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    payload: Mapping[str, Any] | None = None,
) -> Callable[[FixtureFunction], Fixture]: ...
def fixture(id: str, /, **options: Any) -> Any:
    """An event by name: its type, first action and first pattern come from the trigger.

    Without `event` it decorates a function that returns one, when the fixture is used.

    >>> push_main = fixture("push-main", event=push(branches="main"), secrets={"db": "test-database"})
    >>> @fixture("draft", workflow="ci")
    ... async def draft() -> PullRequestEvent:
    ...     return PullRequestEvent(target_branch="main", payload={"pull_request": {"draft": True}})
    """
    source = caller()
    given = Options(f"fixture {id!r}", options, _KEYS, source)
    if not isinstance(id, str) or not id or not id.isprintable() or any(letter.isspace() for letter in id):  # pyright: ignore[reportUnnecessaryIsInstance]
        given.report("E501", f"the id {id!r} is empty or has blanks", "write an id such as 'push-main'")
        id = f"unnamed {next(_unnamed)}"  # no two of them are the same
    elif id.partition(":")[0] in EVENT_WORDS:
        given.report(
            "E501",
            f"the id {id!r} is the name of an event, which commands would take it for",
            f"write an id such as 'my-{id.replace(':', '-')}'",
        )
    if "event" in options:
        made = _make(id, options["event"], options, source)
        return _WithEvent(**{name: getattr(made, name) for name in made.__struct_fields__})

    def decorate(fn: FixtureFunction) -> Fixture:
        if not callable(fn):
            given.report("E119", f"it decorates a function, not {type(fn).__name__}")
        return _make(id, fn, options, source)

    return decorate


def _make(id: str, event: Any, options: Mapping[str, Any], source: SourceLocation) -> Fixture:
    given = Options(f"fixture {id!r}", options, _KEYS, source)
    if not callable(event) and not isinstance(event, Trigger | Event):
        given.wrong_type("event", "a trigger such as push(branches='main'), or an event", event)
    values: dict[str, Any] = {
        name: given.text(name) or None for name in _TEXTS if options.get(name) is not None
    }
    number = options.get("pr")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
        given.wrong_type("pr", "a number", number)
        number = None
    for name in ("secrets", "inputs", "payload"):
        value = options.get(name)
        if value is None:
            continue
        if isinstance(value, Mapping):
            values[name] = value
        else:
            given.wrong_type(name, "a mapping", value)
    return Fixture(id=id, event=event, source=source, pr=number, **values)


async def resolve(found: Fixture) -> Fixture:
    """With a trigger or an event in place of its function. Raises DefinitionError E502 when that fails."""
    if isinstance(found.event, Trigger | Event):
        return found
    fn = found.event
    try:
        made: Any = fn()
        if is_coroutine_function(fn) or hasattr(made, "__await__"):
            made = await made
    except Exception as error:
        raise _failed(found, f"raised {type(error).__name__}: {error}", "correct the function") from error
    values: dict[str, Any] = {"event": made}
    if isinstance(made, Mapping) and not isinstance(made, Event):
        values = dict(cast("Mapping[str, Any]", made))
        for name in values:
            if name not in _KEYS:
                guess = nearest(name, _KEYS)
                remedy = f"did you mean {guess!r}?" if guess else f"keys: {', '.join(_KEYS)}"
                raise _failed(found, f"returned the unknown key {name!r}", remedy)
    if not isinstance(values.get("event"), Trigger | Event):
        raise _failed(
            found,
            f"returned {type(made).__name__} without an event",
            "return push(...), an event such as PushEvent(...), or a mapping with `event`",
        )
    options = {name: getattr(found, name) for name in _KEYS if name != "event"} | values
    return _make(found.id, values["event"], options, found.source)


def _failed(found: Fixture, message: str, help: str) -> DefinitionError:
    return DefinitionError(
        Problem(code="E502", message=f"fixture {found.id!r} {message}", help=help, source=found.source)
    )
