"""A runner from fork to exit: takes its place in the process tree, loads the workflow, runs the job."""

import asyncio
import os
import platform
import signal
import socket
import sys
import time
import traceback
from collections.abc import MutableMapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn, Protocol

from msgspec import Struct

from kici.protocol.runner_v1 import PROTOCOL_VERSION, Abort, Execute, JobEnded, Ready, Spawn
from kici.runner import drift, linux, processes, tracebacks
from kici.runner.activity import OutsideLog, Services, adopt_environment
from kici.runner.facts import JobFacts
from kici.runner.job import JobRun
from kici.runner.link import HostLink, Watch
from kici.runner.loading import job_of, workflow_of
from kici.runner.memory import oom_kills
from kici.runner.requests import Requests
from kici.runner.results import Stop
from kici.runner.stdio import Stdio, current_scope
from kici.runner.upstream import Upstream
from kici.sdk.shaping import group_names
from kici.spec.states import JobStatus

_DEFAULT_GRACE_MS = 30_000
_SWEEP_WITHIN_S = 5.0
_LOAD_WITHIN_S = 30.0
_SETUP_PURPOSES = frozenset({"init", "dynamic"})


class _Stoppable(Protocol):
    def stop(self, stop: Stop) -> None: ...


class _Runnable(_Stoppable, Protocol):
    async def run(self) -> JobEnded: ...


class _Loading(Struct, frozen=True, kw_only=True):
    """The scope of a workflow module that is being imported: it may be interrupted, and owns no log."""

    env: MutableMapping[str, str]
    writer_fd: int = 1
    text: None = None

    def before_process(self) -> None:
        """It exports nothing."""


def main(request: Spawn, *, protocol_fd: int, output_fd: int, zygote_pid: int) -> NoReturn:
    """Run in the forked process; never returns to the zygote's code."""
    code = 1
    try:
        _settle(request, output_fd, zygote_pid)
        code = _run(HostLink(socket.socket(fileno=protocol_fd)), Stdio())
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
        finally:
            os._exit(code)


@cache
def sdk_version() -> str:
    """The version of the kici that this interpreter loads: the workflow's own when it has one."""
    try:
        return version("kici")
    except PackageNotFoundError:
        return "unknown"


def _settle(request: Spawn, output_fd: int, zygote_pid: int) -> None:
    """Own session, own place in the tree, the requested directory and environment, clean descriptors."""
    os.setsid()
    linux.die_with_parent(zygote_pid, signal.SIGKILL)
    linux.adopt_orphans()
    linux.set_process_name("kici-runner")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.close(null)
    os.close(output_fd)
    adopt_environment(request.env)
    time.tzset()
    os.chdir(request.cwd)


def _run(link: HostLink, stdio: Stdio) -> int:
    link.send(
        Ready(
            protocol_version=PROTOCOL_VERSION,
            sdk_version=sdk_version(),
            python_version=platform.python_version(),
            pid=os.getpid(),
        )
    )
    execute = link.receive()
    if not isinstance(execute, Execute):
        return 1
    loop = asyncio.SelectorEventLoop()
    asyncio.set_event_loop(loop)
    job_ended = loop.create_task(_run_job(execute, link, stdio, loop))
    while True:
        try:
            ended = loop.run_until_complete(job_ended)
            break
        except (SystemExit, KeyboardInterrupt):
            continue  # a task of the author's raised it past us; its step sees the task fail
    stdio.flush()
    processes.kill_children(within_s=_SWEEP_WITHIN_S)
    link.send(ended)
    return 0


async def _run_job(
    execute: Execute, link: HostLink, stdio: Stdio, loop: asyncio.AbstractEventLoop
) -> JobEnded:
    pending_stop: list[Stop] = []
    running: list[_Stoppable] = []
    background: set[int] = set()
    requests = Requests(link, is_local=execute.is_local)

    def on_abort(abort: Abort) -> None:
        stop = Stop(kind="cancel", reason=abort.reason, force=abort.force)
        if running:
            running[0].stop(stop)
        else:
            pending_stop.append(stop)

    def kill_processes(number: signal.Signals) -> None:
        processes.send_signal(processes.descendants_of(os.getpid(), without=background), number)

    while isinstance(early := link.receive(0), Abort):
        on_abort(early)
    watch = Watch(link, loop, on_abort=on_abort, on_reply=requests.answered, kill_processes=kill_processes)
    watch.start()
    adopt_environment(execute.env)
    services = Services(
        execute=execute,
        loop=loop,
        link=link,
        stdio=stdio,
        watch=watch,
        requests=requests,
        outside=OutsideLog(loop, stdio.outside_fd),
        grace_s=_grace_s(execute, None),
        oom_kills=oom_kills(),
        background=background,
        deadlines={},
        abandoned=[],
    )

    async def perform(run: _Runnable) -> JobEnded:
        running.append(run)
        if pending_stop:
            run.stop(pending_stop[-1])
        return await run.run()

    if execute.purpose in _SETUP_PURPOSES:
        from kici.runner.setup import SetupRun

        return await perform(SetupRun(services))
    watch.deadline = time.monotonic() + _LOAD_WITHIN_S
    in_module = current_scope.set(_Loading(env=os.environ))
    try:
        workflow = workflow_of(execute)
        job = None if execute.purpose == "hooks" else job_of(execute, workflow)
    except BaseException as error:
        await asyncio.sleep(0)  # lets an abort arrive that broke into the module
        if pending_stop:
            return JobEnded(status=JobStatus.CANCELLED, error_message=pending_stop[0].reason)
        print(tracebacks.long_form(error, execute.workspace), end="", file=sys.stderr)
        return JobEnded(
            status=JobStatus.FAILED,
            error_message=f"the workflow cannot be loaded: {tracebacks.short_form(error, execute.workspace)}",
        )
    finally:
        current_scope.reset(in_module)
        watch.deadline = None
    if job is None:
        from kici.runner.workflowhooks import WorkflowHooksRun

        return await perform(WorkflowHooksRun(services, workflow))
    services.grace_s = _grace_s(execute, job.options.grace_period_ms)
    facts = JobFacts(
        execute=execute,
        job=job,
        upstream=Upstream(
            job.options.needs,
            execute.upstream_statuses,
            execute.upstream_outputs,
            execute.upstream_groups,
            group_names(workflow) if workflow.generators else None,
        ),
    )
    drift.note_mode(facts)
    return await perform(JobRun(services, facts, job))


def _grace_s(execute: Execute, own_ms: int | None) -> float:
    """Between SIGTERM and SIGKILL (AG-56)."""
    return min(_DEFAULT_GRACE_MS if own_ms is None else own_ms, execute.max_grace_period_ms) / 1_000
