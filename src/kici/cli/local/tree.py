"""What is left on the screen when a run has ended: its tree, and the last lines of what failed (AU-117)."""

from collections.abc import Callable, Iterator, Sequence

from kici.cli.local.live import took
from kici.cli.local.results import JobReport, RunReport, StepReport
from kici.engine.reasons import as_sentence
from kici.protocol.runner_v1 import RuleResult
from kici.spec.states import JobStatus, StepStatus

Paint = Callable[[str, int], str]
GREY, RED = 90, 31
MARKS = {
    "success": ("✓", 32),
    "failed": ("✗", RED),
    "timed_out": ("✗", RED),
    "timed_out_stale": ("✗", RED),
    "cancelled": ("■", 33),
    "skipped": ("○", GREY),
    "pending": ("○", GREY),
}
_OUTCOMES = {
    "applied": "applied",
    "in_sync": "in sync",
    "would_change": "would change",
    "no_check": "no check",
}
_FAILED = {JobStatus.FAILED, JobStatus.TIMED_OUT_STALE}
_MOST_CHARACTERS = 200


class Tree:
    """Draws reports; `paint` colours a text, or leaves it."""

    def __init__(self, paint: Paint) -> None:
        self._paint = paint

    def lines(self, report: RunReport) -> Iterator[str]:
        told = any(job.error_message == report.error_message for job in report.jobs)
        why = "" if told else self._why(report.error_message)
        status = "timed_out" if report.timeout_reason else report.status
        yield f"{self.mark(status)} {report.workflow}  {report.trigger}{why}"
        yield from self._jobs(report.jobs)
        yield from self._excerpts(report)
        yield from self._summaries(report)
        ended = f"{status.replace('_', ' ')} in {took(report.duration_ms / 1000)}"
        yield self._paint(f"{ended}  (run {_short(report.run_id)})", GREY)

    def mark(self, status: str) -> str:
        mark, color = MARKS.get(status, ("?", RED))
        return self._paint(mark, color)

    def _jobs(self, jobs: Sequence[JobReport]) -> Iterator[str]:
        for number, job in enumerate(jobs):
            last = number == len(jobs) - 1
            setup = job.kind != "job"
            blamed = not setup and any(step.status == StepStatus.FAILED for step in job.steps)
            why = (job.error_message or _refusal(job.rules)) if not blamed else None
            yield (
                f"{'└─' if last else '├─'} {self.mark(job.status)} {job.title or job.name}"
                f"{self._took(job.duration_ms)}{self._why(why)}"
            )
            bar = "   " if last else "│  "
            for at, step in enumerate(job.steps):
                yield f"{bar}{'└─' if at == len(job.steps) - 1 else '├─'} {self._step(step, told=why)}"
            if job.workspace is not None and job.status == JobStatus.FAILED:
                yield f"{bar}{self._paint(f'kept at {job.workspace}', GREY)}"

    def _step(self, step: StepReport, *, told: str | None) -> str:
        """`told`: why, as its job's row says."""
        tries = f" ({step.attempts} attempts)" if step.attempts > 1 else ""
        outcome = f"  {_OUTCOMES[step.check_outcome]}" if step.check_outcome in _OUTCOMES else ""
        why = step.error_message or _refusal(step.rules)
        why = None if why == told else why
        return f"{self.mark(step.status)} {step.name}{tries}{self._took(step.duration_ms)}{outcome}{self._why(why)}"

    def _excerpts(self, report: RunReport) -> Iterator[str]:
        """Of every step that failed its job, else of the job: the last lines, or what is known instead."""
        told: set[str] = set()
        for job in report.jobs:
            if job.status not in _FAILED:
                continue
            steps = [step for step in job.steps if step.status == StepStatus.FAILED]
            for step in steps:
                code = f", exit code {step.exit_code}" if step.exit_code else ""
                why = step.excerpt or as_sentence(step.error_message or "")
                yield from self._excerpt(f"{job.title or job.name} › {step.name}{code}", why)
            told |= {step.error_message for step in steps if step.error_message}
            # What failed with its setup row has been told there.
            if not steps and (job.error_message or "") not in told:
                told.add(job.error_message or "")
                yield from self._excerpt(job.title or job.name, as_sentence(job.error_message or ""))
        if any(job.status in _FAILED for job in report.jobs):
            yield ""

    def _excerpt(self, name: str, text: str) -> Iterator[str]:
        yield ""
        yield self._paint(f"✗ {name}", RED)
        yield from (f"  {line}" for line in text.splitlines())

    def _summaries(self, report: RunReport) -> Iterator[str]:
        for job in report.jobs:
            for step in job.steps:
                for note in step.annotations:
                    where = f" {note.file}" + (f":{note.line}" if note.line else "") if note.file else ""
                    yield f"{note.level}{where}: {note.message}"
                if step.summary:
                    yield self._paint(f"── {job.title or job.name} › {step.name}", GREY)
                    yield step.summary.rstrip()
        for event in report.events:
            starts = f", would start {', '.join(event.would_start)}" if event.would_start else ""
            yield f"{event.job} emitted {event.name}{starts}"

    def _took(self, duration_ms: int | None) -> str:
        return "" if duration_ms is None else self._paint(f"  {took(duration_ms / 1000)}", GREY)

    def _why(self, message: str | None) -> str:
        message = as_sentence(message or "")
        if not message or not message.strip():
            return ""
        first = message.strip().splitlines()[0]
        shown = first if len(first) <= _MOST_CHARACTERS else first[: _MOST_CHARACTERS - 1] + "…"
        return "  " + self._paint(shown, GREY)


def _short(run_id: str) -> str:
    """Ids of this machine are random: eight characters tell them apart. Those of a server begin with the time."""
    return run_id if run_id[14:15] == "7" else run_id[:8]


def _refusal(rules: Sequence[RuleResult]) -> str | None:
    """Why something was skipped, when a rule did it."""
    refused = next((rule.label for rule in rules if not rule.passed), None)
    return f"rule {refused!r} said no" if refused is not None else None
