"""What is known about a run's jobs before any author code runs: pure rules, environment variables,
environments and concurrency groups (AU-34, AU-41, AU-59). Pure."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

from msgspec import Struct, structs

from kici.engine.expressions import ExpressionError, evaluate
from kici.engine.graph import PlannedJob
from kici.engine.matrix import is_dynamic
from kici.engine.rules import UNRULED, Decision, RuleDecision, decide
from kici.engine.scopes import concurrency_scope, event_scope, rule_scope
from kici.spec.events import Event
from kici.spec.lock import LockJob, LockWorkflow


class RunScope(Struct, frozen=True, kw_only=True):
    """What pure functions of a run may look at."""

    event: Event
    ref: str = ""
    sha: str = ""
    repository: str = ""
    inputs: Mapping[str, Any] = {}


class JobDecision(Struct, frozen=True, kw_only=True):
    """`verdict` skip or fail: the job ends before it begins, with `message`. `rules_from`: the first rule that
    its agent has to evaluate. `job`: with what its pure functions came to."""

    verdict: Literal["run", "skip", "fail"]
    job: LockJob
    message: str | None = None
    rules: tuple[RuleDecision, ...] = ()
    rules_from: int = 0
    concurrency_group: str | None = None


class RunDecision(Struct, frozen=True, kw_only=True):
    """`verdict` skip: no job runs; fail: neither, and the run has failed. `jobs`: by index of the plan, only
    those about which there is something to say. With an impure group, `concurrency_group` is not known yet."""

    verdict: Literal["run", "skip", "fail"]
    message: str | None = None
    rules: tuple[RuleDecision, ...] = ()
    concurrency_group: str | None = None
    jobs: Mapping[int, JobDecision] = {}


PLAIN = RunDecision(verdict="run")


def is_plain(workflow: LockWorkflow) -> bool:
    """Nothing of it has to be decided: every run of it is `PLAIN`."""
    return not (workflow.rules or workflow.concurrency) and not any(map(_has_functions, workflow.jobs))


def _has_functions(job: LockJob) -> bool:
    return bool(
        job.rules or job.inline_env is not None or job.concurrency_group is not None or job.environments
    )


def resolve(workflow: LockWorkflow, planned: Sequence[PlannedJob], scope: RunScope) -> RunDecision:
    """Total. `planned` is `graph.plan(workflow)`."""
    rules = UNRULED
    if workflow.rules and all(rule.inline is not None for rule in workflow.rules):
        rules = decide(workflow.rules, rule_scope(scope.event, dispatch_inputs=scope.inputs))
        if rules.verdict != "run":
            return RunDecision(verdict=rules.verdict, message=rules.message, rules=rules.results)
    try:
        group = _workflow_group(workflow, scope)
    except ExpressionError as error:
        return RunDecision(
            verdict="fail", message=f"concurrency group failed: {error}", rules=rules.results
        )
    jobs = {
        index: decide_job(row, scope)
        for index, row in enumerate(planned)
        if row.kind == "job" and _has_functions(row.job)
    }
    for index, row in enumerate(planned):
        if row.kind == "init" and row.target:
            decided = [
                jobs.get(place)
                for place, other in enumerate(planned)
                if other.kind == "job" and other.job.name == row.target
            ]
            if all(each is not None and each.verdict != "run" for each in decided):
                jobs[index] = JobDecision(verdict="skip", job=row.job, message=f"{row.target} does not run")
    return RunDecision(verdict="run", rules=rules.results, concurrency_group=group, jobs=jobs)


def _workflow_group(workflow: LockWorkflow, scope: RunScope) -> str | None:
    concurrency = workflow.concurrency
    if concurrency is None or concurrency.group is None:
        return None
    if isinstance(concurrency.group, str):
        return concurrency.group
    value = evaluate(
        concurrency.group.expression,
        concurrency_scope(
            scope.event,
            workflow=workflow.name,
            ref=scope.ref,
            sha=scope.sha,
            repository=scope.repository,
            dispatch_inputs=scope.inputs,
        ),
    )
    return group_name(value)


def group_name(value: object) -> str:
    """Raises ExpressionError for what cannot name a concurrency group."""
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ExpressionError(f"a concurrency group is a text of 1 to 200 characters, not {value!r:.60}")
    return value


def decide_job(row: PlannedJob, scope: RunScope) -> JobDecision:
    """One job on its own. Total."""
    job = row.job
    try:
        job = _with_values(job, scope)
    except ExpressionError as error:
        return JobDecision(verdict="fail", job=job, message=str(error), rules_from=len(job.rules))
    rules = _decide_rules(row, job, scope)
    return JobDecision(
        verdict=rules.verdict,
        job=job,
        message=rules.message,
        rules=rules.results,
        rules_from=rules.undecided,
        concurrency_group=group_of(job),
    )


def group_of(job: LockJob) -> str | None:
    """The concurrency group of a job whose values are known as far as they can be: by default its first
    environment (AU-59)."""
    if isinstance(job.concurrency_group, str):
        return job.concurrency_group
    if job.concurrency_group is not None or job.dynamic_concurrency_group:
        return None
    return next((value.value for value in job.environments if value.value), None)


def _decide_rules(row: PlannedJob, job: LockJob, scope: RunScope) -> Decision:
    """What a rule may ask about is not known yet where author code makes the variables or the matrix: the
    agent then decides all of them."""
    if not job.rules or job.dynamic_env or is_dynamic(job):
        return UNRULED
    return decide(
        job.rules,
        rule_scope(
            scope.event,
            env=job.env,
            dispatch_inputs=scope.inputs,
            fanout_index=row.fanout_index,
            fanout_total=row.fanout_total,
        ),
    )


def _with_values(job: LockJob, scope: RunScope) -> LockJob:
    """`job` without pure functions. Raises ExpressionError, saying which of them."""
    argument = event_scope(scope.event)
    if job.inline_env is not None:
        with _naming("env"):
            job = structs.replace(
                job, env=env_of(evaluate(job.inline_env.expression, argument)), inline_env=None
            )
    if any(value.inline is not None for value in job.environments):
        with _naming("environment"):
            job = structs.replace(
                job,
                environments=[
                    value
                    if value.inline is None
                    else structs.replace(
                        value, inline=None, value=_text(evaluate(value.inline.expression, argument))
                    )
                    for value in job.environments
                ],
            )
    if job.concurrency_group is not None and not isinstance(job.concurrency_group, str):
        with _naming("concurrency_group"):
            group = group_name(evaluate(job.concurrency_group.expression, argument))
            job = structs.replace(job, concurrency_group=group)
    return job


@contextmanager
def _naming(option: str) -> Generator[None]:
    """Puts the option's name before what went wrong with it."""
    try:
        yield
    except ExpressionError as error:
        raise ExpressionError(f"{option} failed: {error}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ExpressionError(f"the name of an environment is a text, not {value!r:.60}")
    return value


def env_of(value: object) -> dict[str, str]:
    """Variables as an `env` function returned them. Raises ExpressionError."""
    if not isinstance(value, Mapping):
        raise ExpressionError(f"variables are a mapping, not {type(value).__name__}")
    found: dict[str, str] = {}
    for key, word in cast("Mapping[object, object]", value).items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise ExpressionError(f"{key!r:.60} cannot name a variable")
        if not isinstance(word, str | int | float) or isinstance(word, bool):
            raise ExpressionError(f"the variable {key} is {type(word).__name__}, not a text")
        found[key] = str(word)
    return found
