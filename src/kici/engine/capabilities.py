"""What a workflow asks for that this server does not do yet. It says so instead of leaving it out. Pure."""

from collections.abc import Iterator

from kici.spec.lock import LockWorkflow


def missing(workflow: LockWorkflow) -> list[str]:
    """The options, each with the jobs that use it: `environment (job deploy)`. Empty: it can run."""
    users: dict[str, list[str]] = {}
    for option, user in _uses(workflow):
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
    for job in workflow.jobs:
        user = f"job {job.name}"
        if job.environments:
            yield "environment", user
        if job.approval is not None:
            yield "approval", user
        if job.container is not None:
            yield "container", user
        if job.runs_on_all is not None:
            yield "runs_on_all", user
        for step in job.steps:
            if step.approval is not None:
                yield "approval", user
