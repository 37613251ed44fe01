"""`kici doctor`: does this machine have what authors need, and do SDK, lock file and server agree (AU-103)?"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from msgspec import Struct

from kici.cli.client import Client, find_target
from kici.cli.errors import FAILED, errors_as_exit_codes
from kici.cli.local.places import not_at_top
from kici.cli.local.repository import WHY_GIT
from kici.cli.output import console, emit
from kici.runtime.buildinfo import UNKNOWN, build_info
from kici.spec import lock
from kici.spec.errors import KiciError

app = typer.Typer(add_completion=False)


class Finding(Struct, frozen=True, kw_only=True, rename="camel"):
    """`help` says what to do about a warning or a failure."""

    check: str
    verdict: Literal["ok", "warn", "fail"]
    found: str
    help: str = ""


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


@app.command()
def doctor(
    orchestrator: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare builds with this cluster's; default: any.")
    ] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Check this machine, this repository and the server, and say what to do. Exit 1 when something fails.

    Example: kici doctor
    """
    with errors_as_exit_codes():
        findings = [*_machine(), *_repository(Path.cwd()), *asyncio.run(_server(orchestrator, data_dir))]
        if as_json:
            emit({"findings": findings})
        else:
            screen = console()
            for finding in findings:
                screen.print(
                    f"[{_COLOURS[finding.verdict]}]{_MARKS[finding.verdict]}[/] {finding.check}: {finding.found}",
                    soft_wrap=True,
                )
                if finding.help:
                    screen.print(f"    {finding.help}", soft_wrap=True)
        if any(finding.verdict == "fail" for finding in findings):
            raise SystemExit(FAILED)


def _machine() -> Iterator[Finding]:
    version = ".".join(str(part) for part in sys.version_info[:3])
    yield Finding(check="Python", verdict="ok" if sys.version_info >= (3, 11) else "fail", found=version)
    for tool, why, needed in (
        ("git", WHY_GIT, True),
        ("bash", "ctx.sh runs scripts with it", True),
        ("uv", "it installs the dependencies of .kici; pip does too, slower", False),
    ):
        path = shutil.which(tool)
        yield Finding(
            check=tool,
            verdict="ok" if path else "fail" if needed else "warn",
            found=_version_of(path) if path else "not found",
            help="" if path else f"install it: {why}",
        )
    engine = shutil.which("podman") or shutil.which("docker")
    yield Finding(
        check="containers",
        verdict="ok" if engine else "warn",
        found=_version_of(engine) if engine else "neither podman nor docker",
        help="" if engine else "only jobs with `container` need one",
    )
    info = build_info()
    broken = UNKNOWN in (info.sdk_bundle_hash, info.engine_bundle_hash)
    yield Finding(
        check="kici",
        verdict="fail" if broken else "ok",
        found=f"{info.version}, SDK bundle {info.sdk_bundle_hash[:12]}",
        help="its own files cannot be read: install it again" if broken else "",
    )


def _version_of(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return f"{path} does not start"
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else path


def _repository(start: Path) -> Iterator[Finding]:
    from kici.compiler.pipeline import find_kici_dir

    folder = find_kici_dir(start)
    if folder is None:
        yield Finding(
            check="workflows", verdict="warn", found="no .kici here", help="`kici init` makes one"
        )
        return
    wrong = not_at_top(folder)
    if wrong is not None:
        found, _, help = wrong.partition("\n")
        yield Finding(check="workflows", verdict="fail", found=found, help=help.strip())
    path = folder.parent / lock.LOCK_PATH
    try:
        document = msgspec.json.decode(path.read_bytes(), type=lock.LockFile)
    except FileNotFoundError:
        yield Finding(
            check="lock file", verdict="warn", found="missing", help="run `kici compile`, commit it"
        )
        return
    except IsADirectoryError:
        yield Finding(
            check="lock file", verdict="fail", found="it is a folder", help="remove it, run `kici compile`"
        )
        return
    except msgspec.MsgspecError as error:
        yield Finding(
            check="lock file", verdict="fail", found=str(error), help="run `kici compile`, commit it"
        )
        return
    done = subprocess.run(
        [sys.executable, "-m", "kici.cli.main", "compile", "--check", "--no-sync"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=folder.parent,
    )
    lines = done.stderr.strip().splitlines()
    yield Finding(
        check="lock file",
        verdict="ok" if done.returncode == 0 else "fail",
        found=f"{len(document.workflows)} workflows, up to date"
        if done.returncode == 0
        else (lines[0] if lines else "compile --check failed"),
        help="" if done.returncode == 0 else "`kici compile --check` says more",
    )
    mine, theirs = build_info().sdk_bundle_hash, document.compiler.sdk_bundle_hash
    yield Finding(
        check="SDK of the lock file",
        verdict="ok" if mine == theirs else "warn",
        found=f"{document.compiler.sdk_version}, bundle {theirs[:12]}",
        help="" if mine == theirs else "another SDK compiled it; that alone changes no contentHash",
    )


async def _server(name: str | None, data_dir: str | None) -> list[Finding]:
    """The three signals of AU-103: author's machine, orchestrator, agents."""
    try:
        async with Client(find_target(data_dir=data_dir)) as client:
            user = await client.get("/api/v1/user")
            listed = (await client.get(await client.org("/orchestrators")))["orchestrators"]
            summary = await client.get(await client.org("/diagnostics"))
            platform = await client.get("/health")
    except KiciError as error:
        return [Finding(check="server", verdict="warn", found=str(error), help="local work needs none")]
    findings = [
        Finding(check="server", verdict="ok", found=f"{client.target.platform_url} as {user['email']}")
    ]
    mine = build_info()
    for side, version in (
        ("Platform", platform["version"]),
        *(
            (f"orchestrator {entry['clusterName']}", entry["version"])
            for entry in listed
            if entry["connected"] and (name is None or name in {entry["clusterName"], entry["instanceId"]})
        ),
        *(
            (f"agent {agent['agentId']}", agent["version"])
            for agent in summary["agents"]
            if agent["connected"]
        ),
    ):
        same = version == mine.version
        findings.append(
            Finding(
                check=side,
                verdict="ok" if same else "warn",
                found=f"kici {version}",
                help="" if same else f"this machine has {mine.version}: upgrade the older side",
            )
        )
    hashes = {"sdkBundleHash": mine.sdk_bundle_hash, "engineBundleHash": mine.engine_bundle_hash}
    odd = [key for key, value in hashes.items() if platform.get(key, value) != value]
    findings.append(
        Finding(
            check="build fields",
            verdict="warn" if odd else "ok",
            found=f"{', '.join(odd)} differ from the server's"
            if odd
            else "the same here and on the server",
            help="compare `kici version --json` with /health of each process; the odd one out drifted"
            if odd
            else "",
        )
    )
    return findings
