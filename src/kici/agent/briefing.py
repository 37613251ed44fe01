"""From a dispatch to what the runner is told, what steps see around them, and what the job page shows."""

import sys
from collections.abc import Mapping
from typing import Any

from kici.agent.dependencies import Environment
from kici.agent.facts import HostFacts
from kici.agent.workspace import Workspace
from kici.protocol.agent_v1 import JobDispatch
from kici.protocol.runner_v1 import Execute
from kici.runner.environment import step_environment
from kici.runtime.buildinfo import build_info
from kici.spec.lock import SCHEMA_VERSION, Amount, Resources


def environment_of(
    dispatch: JobDispatch, inherited: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """The steps' whole environment; later wins (AG-63). `own`: of the user that the job runs as."""
    return {**step_environment({**inherited, **own}), **dispatch.env, **dispatch.job.env}


def execute_of(
    dispatch: JobDispatch,
    workspace: Workspace,
    env: dict[str, str],
    *,
    agent_id: str,
    facts: HostFacts,
    labels: list[str],
    default_step_timeout_ms: int,
    max_grace_period_ms: int,
    uv: str | None,
) -> Execute:
    """Everything but the secrets: those are handed out one by one, on request."""
    return Execute(
        run_id=dispatch.run_id,
        job_id=dispatch.job_id,
        attempt=dispatch.attempt,
        workflow_name=dispatch.workflow_name,
        workflow_file=dispatch.workflow_file,
        export=dispatch.workflow_export,
        job_name=dispatch.job_name,
        base_job_name=dispatch.base_job_name,
        workspace=workspace.repository,
        tmp=workspace.tmp,
        matrix=dispatch.matrix,
        event=dispatch.event,
        upstream_outputs=dispatch.upstream_outputs,
        upstream_statuses=dispatch.upstream_statuses,
        run_info={
            "repository": dispatch.repo_identifier,
            "ref": _short_ref(dispatch.checkout.ref),
            "sha": dispatch.checkout.sha,
            "url": dispatch.env.get("KICI_RUN_URL", ""),
            "agentId": agent_id,
            "agentVersion": build_info().version,
            "host": facts.hostname,
            "platform": facts.platform,
            "arch": facts.arch,
        },
        env=env,
        default_step_timeout_ms=dispatch.default_step_timeout_ms or default_step_timeout_ms,
        max_grace_period_ms=max_grace_period_ms,
        labels=labels,
        check_mode=dispatch.check_mode,
        purpose=dispatch.purpose,
        job=dispatch.job if dispatch.job.generated else None,
        generator_index=dispatch.generator_index,
        rules_from=dispatch.rules_from,
        run_outcome=dispatch.run_outcome,
        inputs=dispatch.inputs,
        environments=dispatch.environments,
        is_test_run=dispatch.is_test_run,
        fanout_index=dispatch.fanout_index,
        fanout_total=dispatch.fanout_total,
        locked_env=sorted(dispatch.secrets),
        upstream_groups=dispatch.upstream_groups,
        uv=uv,
    )


def context_of(
    dispatch: JobDispatch,
    workspace: Workspace,
    environment: Environment,
    env: Mapping[str, str],
    *,
    facts: HostFacts,
    labels: list[str],
    inherited: Mapping[str, str],
) -> dict[str, Any]:
    """What the job page shows (AG-87). Only what a step sees itself; never the agent's environment, never a
    secret's value (AG-88)."""
    categories = dict.fromkeys(inherited, "inherited") | dict.fromkeys(dispatch.job.env, "user")
    return {
        "sandboxType": "init" if dispatch.purpose == "init" else "process",
        "runtime": {
            "pythonVersion": ".".join(map(str, sys.version_info[:3])),
            "os": facts.platform,
            "arch": facts.arch,
        },
        "labels": labels,
        "workingDirectory": workspace.repository,
        "gitRef": dispatch.checkout.ref,
        "lockFileVersion": SCHEMA_VERSION,
        "sdkVersion": dispatch.sdk_version,
        "depCacheStatus": environment.status,
        "networkIsolation": False,
        "secretKeys": [{"scope": "run", "key": name} for name in sorted(dispatch.secrets)],
        "envVars": [
            {"name": name, "value": value, "category": categories.get(name, "system")}
            for name, value in sorted(env.items())
        ],
    }


def opening_lines(dispatch: JobDispatch, facts: HostFacts, agent_id: str) -> list[str]:
    """The first lines of the preparation log: where it runs, and what will not be as asked for."""
    own = build_info().sdk_version
    lines = [
        f"Agent {agent_id}: {facts.os_release} {facts.arch}, Python {facts.python_version}, kici {own}"
    ]
    if dispatch.sdk_version != own:
        lines.append(
            f"Warning: the lock file was compiled with kici {dispatch.sdk_version}, this agent has {own}"
        )
    if (limits := unenforced_limits(dispatch.job.resources)) is not None:
        lines.append(f"Warning: this agent runs jobs as plain processes and does not enforce {limits}")
    return lines


def unenforced_limits(resources: Resources | None) -> str | None:
    """`memory 4.0 GiB and 2 cpus`, as one phrase; None when no limit is asked for."""
    limits: Amount | None = resources.limits if resources is not None else None
    if limits is None:
        return None
    parts: list[str] = []
    if limits.memory_bytes is not None:
        parts.append(f"the memory limit of {limits.memory_bytes / (1 << 30):.3g} GiB")
    if limits.cpus is not None:
        parts.append(f"the limit of {limits.cpus:g} CPUs")
    return " and ".join(parts) or None


def _short_ref(ref: str) -> str:
    """The branch or tag alone."""
    return ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
