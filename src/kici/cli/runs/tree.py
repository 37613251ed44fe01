"""A run as a tree of jobs and steps, for `runs show` and, drawn again and again, for `runs watch`.

Pure: a RunDetailView in camelCase goes in, renderables come out.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from kici.cli.runs.order import in_order
from kici.cli.runs.words import colour, duration, elapsed_ms, lost_attempt, mark

if TYPE_CHECKING:
    from rich.console import RenderableType

Json = Mapping[str, Any]

_UNDER_WAY = frozenset({"running", "recovering", "cancelling"})
_BAD = frozenset({"failed", "timed_out_stale", "drift_dropped"})
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


def head(detail: Json, now: datetime) -> "RenderableType":
    """What ran, where, how it went and why."""
    run = detail["run"]
    word = run["displayStatus"]
    took = run["durationMs"] if run["durationMs"] is not None else elapsed_ms(run["startedAt"], now)
    mode = "" if run["checkMode"] == "apply" else f" [cyan]({run['checkMode']})[/]"
    title = f"[{colour(word)} bold]{word}[/] [bold]{escape(run['workflowName'])}[/]{mode}"
    commit = f"{escape(run['branch'] or run['ref'])} @ {run['sha'][:7]}"
    lines = [
        f"{title} · {escape(run['repoIdentifier'])} · {commit} · {duration(took)}",
        f"[dim]{run['runId']} · {escape(run['triggerReason'])}[/]",
    ]
    if detail["source"] == "projection":
        lines.append("[yellow]The orchestrator is away: this is the Platform's copy.[/]")
    if run["waitingReason"]:
        lines.append(f"[bright_yellow]{escape(run['waitingReason'])}[/]")
    lines += [_rule(rule) for rule in run["rules"]]
    if run["failureReason"]:
        lines.append(f"[red]{escape(run['failureReason'])}[/]")
    return Group(*(Text.from_markup(line) for line in lines))


def rows(detail: Json, now: datetime, *, folded: bool, frame: int = 0) -> Iterator[Text]:
    """Jobs with their steps. `folded`: what went well, and what has not begun, takes one line a job."""
    for base, jobs in _by_base(detail["jobs"]):
        if len(jobs) > 1:
            yield Text.from_markup(f"[bold]{escape(base)}[/] [dim]({len(jobs)} variants)[/]")
        indent = "  " if len(jobs) > 1 else ""
        for job in jobs:
            yield from _job(detail, job, now, indent, folded=folded, frame=frame)


def _by_base(jobs: Sequence[Json]) -> Iterator[tuple[str, list[Json]]]:
    groups: dict[str, list[Json]] = {}
    for job in jobs:
        groups.setdefault(job["baseJobName"], []).append(job)
    yield from groups.items()


def _job(
    detail: Json, job: Json, now: datetime, indent: str, *, folded: bool, frame: int
) -> Iterator[Text]:
    under_way = job["status"] in _UNDER_WAY
    took = elapsed_ms(job["startedAt"], now) if under_way else job["durationMs"]
    now_at = ""
    steps = [step for step in in_order(job["steps"]) if not folded or step["status"] != "skipped"]
    open_steps = under_way or job["status"] in _BAD or not folded
    if under_way and folded:
        current = next((step for step in reversed(steps) if step["status"] == "running"), None)
        now_at = f" [dim]› {escape(current['stepName'])}[/]" if current else ""
    style = "dim" if job["kind"] != "job" else ""
    name = f"[{style}]{escape(job['displayName'])}[/]" if style else escape(job["displayName"])
    yield Text.from_markup(f"{indent}{_sign(job['status'], frame)} {name} [dim]{duration(took)}[/]{now_at}")
    for rule in job["rules"]:
        yield Text.from_markup(f"{indent}    {_rule(rule)}")
    if job["waitingReason"]:
        yield Text.from_markup(f"{indent}    [dim]{escape(job['waitingReason'])}[/]")
    if (lost := lost_attempt(detail, job)) is not None:
        yield Text.from_markup(f"{indent}    [yellow]{escape(lost)}[/]")
    if open_steps:
        for step in steps:
            if folded and under_way and step["status"] == "pending":
                continue
            yield from _step(step, place_of(job, step), now, indent + "    ", frame)
    if job["errorMessage"] and job["status"] in _BAD | {"cancelled", "skipped"}:
        tone = "red" if job["status"] in _BAD else "dim"
        yield Text.from_markup(f"{indent}    [{tone}]{escape(job['errorMessage'])}[/]")


def place_of(job: Json, step: Json) -> str | None:
    """Where the step is written, `file:line`. Hooks, caches and the preparation have indexes of their own."""
    places, index = job["stepPlaces"], step["stepIndex"]
    if not 0 <= index < len(places):
        return None
    place = places[index]
    return place["file"] if place["line"] is None else f"{place['file']}:{place['line']}"


def _step(step: Json, place: str | None, now: datetime, indent: str, frame: int) -> Iterator[Text]:
    took = elapsed_ms(step["startedAt"], now) if step["status"] == "running" else step["durationMs"]
    code = f" exit {step['exitCode']}" if step["exitCode"] else ""
    own_word = step["stepType"].partition(":")[0] in {"hook", "cache"}  # others are named after their type
    kind = f" [dim]{escape(step['stepType'])}[/]" if own_word else ""
    check = f" [cyan]{step['checkOutcome'].replace('_', ' ')}[/]" if step["checkOutcome"] else ""
    yield Text.from_markup(
        f"{indent}{_sign(step['status'], frame)} {escape(step['stepName'])}{kind}{check} "
        f"[dim]{duration(took)}{code}[/]"
    )
    if place is not None and step["status"] == "failed":
        yield Text.from_markup(f"{indent}    [dim]at {escape(place)}[/]")
    for rule in step["rules"]:
        if not rule["passed"] or rule["error"]:
            yield Text.from_markup(f"{indent}    {_rule(rule)}")
    if step["driftSummary"]:
        for line in step["driftSummary"].splitlines()[:20]:
            yield Text.from_markup(f"{indent}    [cyan]{escape(line)}[/]")
    for note in step["annotations"]:
        where = f"{note['file']}:{note['line']}: " if note["file"] else ""
        yield Text.from_markup(f"{indent}    [yellow]{note['level']}[/] {escape(where + note['message'])}")


def _rule(rule: Json) -> str:
    if rule["error"]:
        return f"[red]rule {escape(rule['label'])}: {escape(rule['error'])}[/]"
    return f"[dim]rule {escape(rule['label'])}: {'passed' if rule['passed'] else 'not met'}[/]"


def _sign(status: str, frame: int) -> str:
    sign = _SPINNER[frame % len(_SPINNER)] if status in _UNDER_WAY and frame else mark(status)
    return f"[{colour(status)}]{sign}[/]"


def failing_steps(detail: Json) -> list[tuple[Json, Json]]:
    """(job, step) of each job that failed, the step whose log tells most."""
    found: list[tuple[Json, Json]] = []
    for job in detail["jobs"]:
        if job["status"] in _BAD:
            step = next((s for s in job["steps"] if s["status"] == "failed"), None)
            if step is not None:
                found.append((job, step))
    return found
