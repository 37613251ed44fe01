"""`kici up`, `down`, `status`, `reset`."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from kici.cli.client import Client, Refused, Target, Unreachable, find_target
from kici.cli.config import remember_local
from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.cli.up.console import Console
from kici.cli.up.paths import DataDir
from kici.cli.up.state import UpState, read_state
from kici.cli.up.supervisor import Options, StartFailed, Supervisor, is_running, take_lock
from kici.runtime.signals import stop_on_signals
from kici.spec.errors import KiciError

app = typer.Typer(add_completion=False, no_args_is_help=True)

DataDirOption = Annotated[
    str | None,
    typer.Option("--data-dir", help="Where everything is kept.", show_default="~/.local/share/kici"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def up(
    data_dir: DataDirOption = None,
    port_offset: Annotated[int, typer.Option(help="Added to 10142, 10143 and 8080.")] = 0,
    agents: Annotated[int, typer.Option(min=0, max=64, help="How many agents to start.")] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Return when everything is ready.")] = False,
    external_database_url: Annotated[
        str | None, typer.Option(help="Use this PostgreSQL server instead of the embedded one.")
    ] = None,
    no_sample: Annotated[bool, typer.Option("--no-sample", help="Skip the sample repository.")] = False,
    set_env: Annotated[
        list[str] | None,
        typer.Option("--set", help="TIER:KICI_NAME=value for one tier (platform, orchestrator, agent)."),
    ] = None,
) -> None:
    """Start Platform, orchestrator, agents and PostgreSQL on this machine, until Ctrl-C.

    Example: kici up --agents 2 --detach
    """
    with errors_as_exit_codes():
        data = DataDir.of(data_dir)
        extra: dict[str, str] = {}
        for pair in set_env or []:
            name, _, value = pair.partition("=")
            if ":" not in name:
                raise StartFailed(f"--set {pair}: expected TIER:KICI_NAME=value")
            extra[name] = value
        if detach:
            _detached(data)
            return
        options = Options(
            data=data,
            port_offset=port_offset,
            agents=agents,
            external_database_url=external_database_url,
            extra_env=extra,
        )
        lock = take_lock(data)
        try:
            code = asyncio.run(_supervise(options, sample=not no_sample))
        finally:
            os.close(lock)
        raise SystemExit(code)


async def _supervise(options: Options, *, sample: bool) -> int:
    console = Console()
    data = options.data
    console.say(f"Starting KiCI (data in {data.root})")
    supervisor = Supervisor(options, console)
    stop_on_signals(supervisor.stopping)
    try:
        async with asyncio.TaskGroup() as tasks:
            starting = tasks.create_task(supervisor.start(), name="start")
            stopped = tasks.create_task(supervisor.stopping.wait(), name="stopping")
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            stopped.cancel()
    except* StartFailed as group:
        await supervisor.stop()
        supervisor.failure = str(group.exceptions[0])
        supervisor.publish()
        raise group.exceptions[0] from None
    except* BaseException:
        await supervisor.stop()
        raise
    try:
        if supervisor.stopping.is_set():
            return 0
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(supervisor.watch(), name="watch")
            welcoming = tasks.create_task(_welcome(supervisor, console, sample=sample), name="welcome")
            await supervisor.stopping.wait()
            watching.cancel()
            welcoming.cancel()
    finally:
        console.say("\nStopping")
        await supervisor.stop()
    return 0


async def _welcome(supervisor: Supervisor, console: Console, *, sample: bool) -> None:
    """Sign the CLI in, run the sample on a first start, say where to look. A server that just crashed is being
    started again meanwhile, and no reason to stop the others."""
    data = supervisor.data
    remember_local(
        platform_url=supervisor.platform_url,
        org_id=supervisor.bootstrap.org_id,
        token_file=str(data.api_token),
    )
    target = Target(
        supervisor.platform_url,
        supervisor.bootstrap.api_token,
        supervisor.bootstrap.org_id,
        supervisor.orchestrator_url,
        supervisor.bootstrap.admin_token,
    )
    marker = data.sample / ".done"
    async with Client(target) as client:
        if sample and supervisor.options.agents and not marker.exists():
            from kici.cli.up.sample import push_and_follow

            try:
                await push_and_follow(client, console, data)
                marker.touch()
            except KiciError as error:
                console.say(f"  ✗ sample: {error}")
        link = await _sign_in_link(client)
    console.say()
    console.say(f"  Dashboard   {supervisor.platform_url}")
    if link is None:
        console.say("  Sign in     with the link that `kici status` makes")
    else:
        console.say(f"  Sign in     {link}  (once, within the hour; `kici status` makes another)")
    if sample:
        console.say(
            f"  Try it      cd {data.sample / 'hello-kici'} && git commit --allow-empty -m hi && git push"
        )
        console.say("              kici runs list")
    console.say("  Stop        Ctrl-C, or `kici down`")


async def _sign_in_link(client: Client) -> str | None:
    """None when the Platform does not answer for a while."""
    for _ in range(60):
        try:
            return (await client.post("/api/v1/sign-in-links"))["url"]
        except (Unreachable, Refused):
            await asyncio.sleep(0.5)
    return None


def _detached(data: DataDir) -> None:
    """Start ourselves again in the background and wait until that one is ready."""
    if is_running(data):
        os.close(take_lock(data))  # raises with the right words
    data.logs.mkdir(parents=True, exist_ok=True)
    log_path = data.logs / "up.log"
    argv = [argument for argument in sys.argv[1:] if argument != "--detach"]
    before = read_state(data.state)
    with open(log_path, "ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "kici.cli.main", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    console = Console()
    with console.step("kici up"):
        while True:
            state = read_state(data.state)
            if state is not None and state.supervisor_pid == child.pid and state.ready:
                break
            if child.poll() is not None:
                state = read_state(data.state)
                reason = state.failure if state and state != before else None
                raise StartFailed(reason or f"kici up ended with {child.returncode}; see {log_path}")
            time.sleep(0.05)
    console.say(f"  Dashboard   {state.platform_url}   (`kici status`, `kici down`)")


@app.command()
def down(data_dir: DataDirOption = None) -> None:
    """Stop what `kici up` started; running jobs get their grace first.

    Example: kici down
    """
    with errors_as_exit_codes():
        data = DataDir.of(data_dir)
        console = Console()
        if not is_running(data):
            console.say(f"Nothing runs on {data.root}.")
            return
        state = read_state(data.state)
        if state is None:
            raise StartFailed(f"{data.root} is locked, but {data.state} cannot be read")
        with console.step("stop"):
            os.kill(state.supervisor_pid, signal.SIGTERM)
            give_up = time.monotonic() + 90
            while is_running(data):
                if time.monotonic() > give_up:
                    raise StartFailed(f"pid {state.supervisor_pid} did not stop in 90 s")
                time.sleep(0.05)


@app.command()
def reset(
    data_dir: DataDirOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, delete everything.")] = False,
) -> None:
    """Delete the data directory: runs, logs, accounts, the sample. KiCI must be stopped.

    Example: kici reset --yes
    """
    with errors_as_exit_codes():
        data = DataDir.of(data_dir)
        if is_running(data):
            raise StartFailed(f"KiCI runs on {data.root}: stop it first with `kici down`")
        if not data.root.exists():
            Console().say(f"{data.root} does not exist.")
            return
        if not (data.bootstrap.exists() or data.lock.exists()):
            raise StartFailed(f"{data.root} does not look like a KiCI data directory; nothing was deleted")
        if not yes:
            raise StartFailed(f"this deletes {data.root} and all runs in it; say --yes")
        with Console().step(f"delete {data.root}"):
            shutil.rmtree(data.root)


def _rss_bytes(pid: int) -> int | None:
    """Of the program and everything below it."""
    import psutil

    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return None
    total = 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _process_view(state: UpState, *, running: bool) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    for record in state.processes:
        alive = running and record.pid is not None and Path(f"/proc/{record.pid}").exists()
        views.append(
            {
                "name": record.name,
                "pid": record.pid if alive else None,
                "state": record.state if running else "stopped",
                "uptimeSeconds": max(0, time.time_ns() // 1_000_000 - record.started_at_ms) // 1000
                if alive
                else None,
                "rssBytes": _rss_bytes(record.pid) if alive and record.pid is not None else None,
                "restarts": record.restarts,
            }
        )
    return views


async def _sign_in_url(data: DataDir) -> str | None:
    from kici.spec.errors import KiciError

    try:
        async with Client(find_target(data_dir=str(data.root))) as client:
            return (await client.post("/api/v1/sign-in-links"))["url"]
    except KiciError:
        return None


@app.command()
def status(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """What runs here, where, and how much memory it takes. Exit 1 when nothing runs.

    Example: kici status --json
    """
    with errors_as_exit_codes():
        data = DataDir.of(data_dir)
        state = read_state(data.state)
        running = state is not None and is_running(data)
        if state is None:
            if as_json:
                print(msgspec.json.encode({"running": False, "processes": []}).decode())
            else:
                Console().say(f"KiCI has never been started on {data.root}: `kici up`")
            raise SystemExit(FAILED)
        sign_in = asyncio.run(_sign_in_url(data)) if running else None
        view: dict[str, Any] = {
            "running": running,
            "ready": running and state.ready,
            "platformUrl": state.platform_url,
            "orchestratorUrl": state.orchestrator_url,
            "agentUrls": state.agent_urls,
            "databaseUrl": state.database_url,
            "orgId": state.org_id,
            "signInUrl": sign_in,
            "apiTokenFile": state.api_token_file,
            "dataDir": str(data.root),
            "processes": _process_view(state, running=running),
        }
        if as_json:
            print(msgspec.json.format(msgspec.json.encode(view), indent=2).decode())
        else:
            _print_status(view)
        if not running:
            raise SystemExit(FAILED)


def _print_status(view: dict[str, Any]) -> None:
    from rich.console import Console as RichConsole
    from rich.table import Table

    console = RichConsole()
    word = "running" if view["ready"] else ("starting" if view["running"] else "stopped")
    console.print(f"KiCI is [bold]{word}[/] · data in {view['dataDir']}")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("process", "state", "pid", "uptime", "memory", "restarts"):
        table.add_column(column)
    for process in view["processes"]:
        rss = process["rssBytes"]
        uptime = process["uptimeSeconds"]
        table.add_row(
            process["name"],
            process["state"],
            str(process["pid"] or "–"),
            f"{uptime} s" if uptime is not None else "–",
            f"{rss / 1_048_576:.0f} MB" if rss else "–",
            str(process["restarts"]),
        )
    console.print(table)
    if view["running"]:
        console.print(f"Dashboard  {view['platformUrl']}", soft_wrap=True)
        if view["signInUrl"]:
            console.print(f"Sign in    {view['signInUrl']}  (once)", soft_wrap=True)
