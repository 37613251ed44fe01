"""From an Execute to the definitions it names, by importing the author's module."""

import os
import sys

from kici.protocol.runner_v1 import Execute
from kici.sdk.definitions import JobDefinition, Workflow, find_job, find_workflow
from kici.sdk.loader import load_workflow_file
from kici.spec.errors import KiciError

_REMEDY = "run 'kici compile' and commit the lock file"


class WorkflowMissingError(KiciError):
    """The tree does not hold what the lock file promises."""

    code = "workflow_missing"


def workflow_of(execute: Execute) -> Workflow:
    """Raises whatever the module raises, or WorkflowMissingError."""
    sys.dont_write_bytecode = True  # the workspace is the author's tree, not ours to litter
    path = os.path.join(execute.workspace, execute.workflow_file)
    module = load_workflow_file(os.path.join(execute.workspace, ".kici"), path)
    workflow = find_workflow(vars(module), execute.export, execute.workflow_name)
    if workflow is None:
        raise WorkflowMissingError(
            f"{execute.workflow_file} binds no workflow {execute.workflow_name!r} to the name "
            f"{execute.export!r}; {_REMEDY}"
        )
    return workflow


def job_of(execute: Execute, workflow: Workflow) -> JobDefinition:
    """The job of the lock file, or the one that a generator made."""
    if execute.job is not None:
        from kici.runner import generated

        return generated.job_of(execute.job)
    job = find_job(workflow, execute.base_job_name)
    if job is None:
        raise WorkflowMissingError(
            f"workflow {execute.workflow_name!r} has no job {execute.base_job_name!r}; {_REMEDY}"
        )
    return job
