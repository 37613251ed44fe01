"""What a workflow asks for that this server does not do yet. It says so instead of leaving it out. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from kici.engine.triggers import trigger_type
from kici.spec.lock import LockJob, LockWorkflow


def missing(workflow: LockWorkflow) -> list[str]:
    """The options, each with the jobs that use it: `environment (job deploy)`. Empty: it can run."""
    return _listed(_uses(workflow))


def missing_of(jobs: Sequence[LockJob]) -> list[str]:
    """The same of jobs that a generator made."""
    return _listed(use for job in jobs for use in _uses_of(job))


def _listed(uses: Iterable[tuple[str, str]]) -> list[str]:
    users: dict[str, list[str]] = {}
    for option, user in uses:
        names = users.setdefault(option, [])
        if user not in names:
            names.append(user)
    return [f"{option} ({', '.join(names)})" for option, names in users.items()]


def refusal(workflow: LockWorkflow) -> str | None:
    """A sentence for people, or None."""
    options = missing(workflow)
    if not options:
        return None
    return f"This version of the server cannot run workflows that use {'; '.join(options)}"


def _uses(workflow: LockWorkflow) -> Iterator[tuple[str, str]]:
    if workflow.approval is not None:
        yield "approval", "workflow"
    if workflow.registries:
        yield "registries", "workflow"
    if workflow.install_env:
        yield "install_env", "workflow"
    for trigger in workflow.triggers:
        if getattr(trigger, "repos", None):  # not every kind of trigger has it
            yield "repos", f"trigger {trigger_type(trigger)}"
    for job in workflow.jobs:
        yield from _uses_of(job)


def _uses_of(job: LockJob) -> Iterator[tuple[str, str]]:
    user = f"job {job.name}"
    if job.environments:
        yield "environment", user
    if job.approval is not None or any(step.approval is not None for step in job.steps):
        yield "approval", user
    if job.container is not None:
        yield "container", user
    if job.runs_on_all is not None:
        yield "runs_on_all", user
    if any(step.restarts_host for step in job.steps):
        yield "restart_host", user
