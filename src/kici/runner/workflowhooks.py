"""The hooks of a workflow, once all its jobs have ended (AU-33)."""

from kici.protocol.runner_v1 import JobEnded, RunOutcome
from kici.runner.activity import Services
from kici.runner.facts import JobFacts
from kici.runner.hooks import Hooks
from kici.runner.results import SUCCESS, Stop
from kici.runner.rows import Rows
from kici.runner.upstream import Upstream
from kici.sdk.definitions import Workflow
from kici.spec.states import JobStatus


class WorkflowHooksRun:
    """`stop` may be called at any time on the event loop; `cleanup` runs to its end unless it is forced."""

    def __init__(self, services: Services, workflow: Workflow) -> None:
        execute = services.execute
        facts = JobFacts(execute=execute, job=None, upstream=Upstream((), execute.upstream_statuses, {}))
        self._workflow = workflow
        self._outcome = execute.run_outcome or RunOutcome(status="success")
        self._rows = Rows(services, facts)
        self._hooks = Hooks(self._rows)

    def stop(self, stop: Stop) -> None:
        self._rows.end(stop)

    async def run(self) -> JobEnded:
        """The one that the outcome asks for, then `cleanup`."""
        hooks, workflow = self._hooks, self._workflow
        match self._outcome.status:
            case "success":
                await hooks.job_succeeded(workflow, SUCCESS)
            case "cancelled":
                await hooks.job_cancelled(workflow, SUCCESS)
            case _:
                await hooks.job_failed(workflow, SUCCESS)
        await hooks.clean_up(workflow, SUCCESS)
        message = "; ".join(hooks.failures) or None
        if self._rows.stop is not None:
            return JobEnded(status=JobStatus.CANCELLED, error_message=self._rows.stop.reason)
        return JobEnded(
            status=JobStatus.SUCCESS if message is None else JobStatus.FAILED, error_message=message
        )
