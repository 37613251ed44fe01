"""Setup jobs: the functions of a job or workflow evaluated, and generators called (AG-67…70, AU-42, AU-43).

One synthetic row 0, `init` or `evaluate`. Everything that author code prints goes to its log, the
import of its module included.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
from msgspec import Struct, structs

from kici.engine.matrix import InvalidMatrix, expand_matrix
from kici.protocol.runner_v1 import InitResult, JobEnded, RuleResult
from kici.runner import rules, synccontext, tracebacks
from kici.runner.activity import Activity, Services
from kici.runner.context import ActivityContext, ConcurrencyFacts
from kici.runner.facts import JobFacts
from kici.runner.loading import job_of, workflow_of
from kici.runner.results import SUCCESS, Result, Stop, StoppedError
from kici.runner.rows import Rows
from kici.runner.upstream import Upstream
from kici.sdk.definitions import DynamicJobs, Job, JobDefinition, MultiJob, Workflow
from kici.sdk.problems import collect
from kici.sdk.shaping import group_names, shape_generated, shape_job
from kici.sdk.values import Scalar
from kici.spec.errors import KiciError
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus, StepStatus

_FUNCTION_MS = 60_000
_GENERATOR_MS = 120_000
_MODULE_MS = 30_000
_MOST_JOBS = 100
_MATRIX, _DYNAMIC = "matrix_expansion", "dynamic_eval"


class EvaluationError(KiciError):
    """A function of the author's failed, or said what cannot be used. The message tells which and why."""

    code = "dynamic_eval"


class _Found(Struct, kw_only=True):
    """What the row came to so far."""

    init: InitResult | None = None
    generated: list[LockJob] | None = None
    category: str | None = None


class SetupRun:
    """One setup job. `stop` may be called at any time on the event loop."""

    def __init__(self, services: Services) -> None:
        self._services = services
        execute = services.execute
        self._facts = JobFacts(execute=execute, job=None, upstream=Upstream((), {}, {}))
        self._rows = Rows(services, self._facts)
        self._found = _Found()

    def stop(self, stop: Stop) -> None:
        self._rows.end(stop)

    async def run(self) -> JobEnded:
        execute = self._services.execute
        is_init = execute.purpose == "init"
        name = "init" if is_init else "evaluate"
        activity = self._rows.open(0, name, name)
        message: str | None = None
        try:
            workflow: Workflow = await activity.call(_load, execute, timeout_ms=_MODULE_MS)
            await (self._evaluate(activity, workflow) if is_init else self._generate(activity, workflow))
            result = SUCCESS
        except StoppedError as error:
            result = self._rows.was_stopped(activity, error.stop)
            loaded = self._found.category is not None
            message = error.stop.reason if loaded else f"importing the workflow {error.stop.reason}"
        except EvaluationError as error:
            message = str(error)
            activity.print(f"\033[31m{message}\033[0m")
            result = Result(status=StepStatus.FAILED, exit_code=1, error_message=message)
        except BaseException as error:
            result = self._rows.failed(activity, error)
            message = (
                f"the workflow cannot be loaded: {tracebacks.short_form(error, execute.workspace)}"
                if self._found.category is None
                else result.error_message
            )
        self._rows.close(activity, result)
        return self._ended(result, message)

    def _ended(self, result: Result, message: str | None) -> JobEnded:
        stop, found = self._rows.stop, self._found
        if stop is not None:
            return JobEnded(status=JobStatus.CANCELLED, error_message=stop.reason)
        if result.status == StepStatus.FAILED:
            evaluated = found.init.rules if found.init is not None else None
            return JobEnded(
                status=JobStatus.FAILED,
                error_message=message,
                failure_category=found.category,
                rules=evaluated or [],
                init=found.init if evaluated else None,
            )
        return JobEnded(status=JobStatus.SUCCESS, init=found.init, generated=found.generated)

    # ── functions ───────────────────────────────────────────────────────────────────────────────

    async def _evaluate(self, activity: Activity, workflow: Workflow) -> None:
        self._found.category = _DYNAMIC
        if not self._services.execute.base_job_name:
            await self._evaluate_workflow(activity, workflow)
            return
        job = job_of(self._services.execute, workflow)
        self._use(job, workflow)
        options, event = job.options, self._facts.event
        found = InitResult()
        if options.env_function is not None:
            value = await self._call(activity, "env", options.env_function, event)
            found = structs.replace(found, env=_as(dict[str, str], value, "env"))
        if any(callable(entry) for entry in options.environments):
            names: list[str] = []
            for entry in options.environments:
                value = (
                    await self._call(activity, "environment", entry, event) if callable(entry) else entry
                )
                names.append(_as(str, value, "environment"))
            found = structs.replace(found, environments=names)
        if callable(options.concurrency_group):
            value = await self._call(activity, "concurrency_group", options.concurrency_group, event)
            found = structs.replace(found, concurrency_group=_as(str, value, "concurrency_group"))
        if options.matrix_function is not None:
            found = structs.replace(
                found, matrix=await self._matrix(activity, job, options.matrix_function)
            )
        self._found.init = found

    async def _evaluate_workflow(self, activity: Activity, workflow: Workflow) -> None:
        found = InitResult()
        judged: list[RuleResult] = []
        if workflow.rules:
            verdict = await rules.judge(workflow.rules, activity, self._facts)
            judged = verdict.results
            self._found.init = found = InitResult(rules=judged)
            if verdict.error is not None:
                raise EvaluationError(verdict.error)
        group = workflow.concurrency.group if workflow.concurrency is not None else None
        if callable(group) and all(rule.passed for rule in judged):
            value = await self._call(activity, "concurrency", group, ConcurrencyFacts(self._facts))
            found = structs.replace(found, concurrency_group=_as(str, value, "concurrency"))
        self._found.init = found

    async def _matrix(
        self, activity: Activity, job: JobDefinition, fn: Callable[..., Any]
    ) -> dict[str, list[Scalar]]:
        self._found.category = _MATRIX
        try:
            context = ActivityContext(activity, self._facts)
            value = await self._call(activity, "matrix", fn, synccontext.adapted(fn, activity, context))
            named: object = (
                cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {"value": value}
            )
            matrix = _as(dict[str, list[Scalar]], msgspec.to_builtins(named), "matrix")
            expand_matrix(shape_job(job, self._services.execute.workspace), matrix)
        except (EvaluationError, InvalidMatrix, TypeError) as error:
            raise EvaluationError(f"Matrix expansion failed: {error}") from error
        self._found.category = _DYNAMIC
        return matrix

    # ── generators ──────────────────────────────────────────────────────────────────────────────

    async def _generate(self, activity: Activity, workflow: Workflow) -> None:
        self._found.category = _DYNAMIC
        execute = self._services.execute
        groups = group_names(workflow)
        if not 0 <= execute.generator_index < len(workflow.generators):
            raise EvaluationError(
                f"workflow {workflow.name!r} has no generator {execute.generator_index}; "
                "run 'kici compile' and commit the lock file"
            )
        generator = workflow.generators[execute.generator_index]
        group = groups[generator]
        self._facts.upstream = self._upstream(generator, groups)
        here = f"{execute.workspace}/"
        with collect() as problems:
            context = ActivityContext(activity, self._facts)
            value = await self._call(
                activity,
                f"generator {group!r}",
                generator.fn,
                synccontext.adapted(generator.fn, activity, context),
                timeout_ms=_GENERATOR_MS,
            )
            jobs = _jobs(value, group)
            shaped = [shape_generated(job, execute.workspace, group=group, groups=groups) for job in jobs]
        errors = [problem.text().replace(here, "") for problem in problems if problem.severity == "error"]
        if errors:
            raise EvaluationError("\n".join([f"generator {group!r} made jobs that cannot run:", *errors]))
        self._found.generated = shaped
        names = ", ".join(job.name for job in shaped) or "none"
        activity.print(f"Generated {len(shaped)} jobs: {names}")

    def _upstream(self, generator: DynamicJobs, groups: Mapping[DynamicJobs, str]) -> Upstream:
        execute = self._services.execute
        return Upstream(
            generator.needs,
            execute.upstream_statuses,
            execute.upstream_outputs,
            execute.upstream_groups,
            groups,
        )

    # ── common ──────────────────────────────────────────────────────────────────────────────────

    def _use(self, job: JobDefinition, workflow: Workflow) -> None:
        execute = self._services.execute
        self._facts.job = job
        self._facts.upstream = Upstream(
            job.options.needs,
            execute.upstream_statuses,
            execute.upstream_outputs,
            execute.upstream_groups,
            group_names(workflow),
        )

    async def _call(
        self,
        activity: Activity,
        what: str,
        fn: Callable[..., Any],
        argument: Any,
        *,
        timeout_ms: int = _FUNCTION_MS,
    ) -> Any:
        """Raises EvaluationError with what the function raised, its traceback in the log."""
        try:
            return await activity.call(fn, argument, timeout_ms=timeout_ms)
        except StoppedError as error:
            if error.stop.kind != "step_timeout":
                raise
            raise EvaluationError(f"{what} {error.stop.reason}") from None
        except BaseException as error:
            workspace = self._services.execute.workspace
            activity.print(f"\033[31m{tracebacks.long_form(error, workspace).rstrip()}\033[0m")
            raise EvaluationError(f"{what} failed: {tracebacks.short_form(error, workspace)}") from None


async def _load(execute: Any) -> Workflow:
    return workflow_of(execute)


def _jobs(value: object, group: str) -> list[JobDefinition]:
    if not isinstance(value, list | tuple):
        raise EvaluationError(f"generator {group!r} returned {type(value).__name__}, not a list of jobs")
    jobs = cast("list[object]", value)
    if len(jobs) > _MOST_JOBS:
        raise EvaluationError(f"generator {group!r} made {len(jobs)} jobs; the limit is {_MOST_JOBS}")
    found: list[JobDefinition] = []
    for number, job in enumerate(jobs, 1):
        if not isinstance(job, Job | MultiJob):
            raise EvaluationError(f"generator {group!r} returned {type(job).__name__} among its jobs")
        made = cast("JobDefinition", job)
        found.append(made if made.name else structs.replace(made, name=f"{group}-{number}"))
    return found


def _as(kind: Any, value: object, what: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise EvaluationError(f"{what} is not usable: {error}") from None
