"""The two sides: one repository, pushed to a whole stack, and run by `kici run local` in its clone."""

import concurrent.futures
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.process.conformance import graphs, rules_and_hooks, steps, surroundings
from tests.process.conformance.documents import Document, local_run, server_run, shown_lines
from tests.support.stack import Repository, Stack

HEADER = """
import os, sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from kici import *

LINUX = "kici:os:linux"
"""
FILES = {
    f"{name.lower()}.py": HEADER + source
    for module in (rules_and_hooks, graphs, steps, surroundings)
    for name, source in vars(module).items()
    if name.isupper()
} | {"notes/a.txt": "a note\n", "docs/README.md": "# Conformance\n"}

Runs = Mapping[str, Document]


class Sides:
    """`repository` has all workflows, pushed to nowhere yet."""

    @classmethod
    @contextlib.contextmanager
    def of(cls, stack: Stack, folder: Path) -> Generator["Sides"]:
        with httpx.Client(
            headers={"Authorization": f"Bearer {stack.token}"}, timeout=60, trust_env=False
        ) as client:
            yield cls(stack, folder, client)

    def __init__(self, stack: Stack, folder: Path, client: httpx.Client) -> None:
        self.stack = stack
        self.repository: Repository = stack.repository("conformance", FILES)
        self.repository.commit("The workflows")
        self._folder = folder
        self._org_id = stack.org_id
        self._client = client
        (folder / "runtime").mkdir()
        self.env = {
            **os.environ,
            "KICI_RUN_DIR": str(folder / "runs"),
            "KICI_CONFIG_DIR": str(folder / "home"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
        }

    # ── on this machine ─────────────────────────────────────────────────────────────────────────

    def author(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`kici …` in the clone, signed in."""
        return subprocess.run(
            [sys.executable, "-m", "kici.cli.main", *arguments],
            cwd=self.repository.clone,
            env={**self.stack.environment, "CI": "true"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start_locally(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "kici.cli.main", "run", "local", *arguments, "--json", "--keep-going"],
            cwd=self.repository.clone,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def locally(self, *arguments: str) -> Runs:
        return self.told(self.start_locally(*arguments))

    def told(self, command: "subprocess.Popen[str]", shown: str = "") -> Runs:
        """Documents by workflow, once it ended. `shown`: what was read of its standard error."""
        out, err = command.communicate(timeout=120)
        err = shown + err
        assert out, err
        report: dict[str, Any] = json.loads(out)
        lines = shown_lines(err)
        if len(report["runs"]) == 1:  # then its name does not stand before those of its jobs
            lines = {f"{report['runs'][0]['workflow']}/{who}": text for who, text in lines.items()}
        return {
            run["workflow"]: local_run(run, lines, _folders(self._folder / "runs", "kici-run-*/*/*"))
            for run in report["runs"]
        }

    # ── on the server ───────────────────────────────────────────────────────────────────────────

    def pushed(self, branch: str, workflows: Sequence[str]) -> Runs:
        """Push what is committed, and wait for the runs of these workflows."""
        self.push(branch)
        return self.ended([self.run_of(branch, name) for name in workflows])

    def push(self, branch: str) -> None:
        self.repository.git("push", "--quiet", "origin", f"HEAD:{branch}")

    def run_of(self, branch: str, workflow: str) -> str:
        """The id of the only run of a workflow on a branch."""
        return self.stack.find_run(branch=branch, workflow=workflow, within_seconds=60)["runId"]

    def ended(self, run_ids: Sequence[str]) -> Runs:
        found: dict[str, Document] = {}
        for run_id in run_ids:
            detail = self.stack.wait_for_end(run_id, within_seconds=120)
            found[detail["run"]["workflowName"]] = self.document(detail)
        return found

    def document(self, detail: Mapping[str, Any]) -> Document:
        run_id = detail["run"]["runId"]

        def read(where: tuple[str, int]) -> bytes:
            return self.log(run_id, *where)

        wanted = [
            (job["jobId"], step["stepIndex"])
            for job in detail["jobs"]
            for step in job["steps"]
            if step["stepIndex"] >= 0 and step["startedAt"]
        ]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            logs = dict(zip(wanted, pool.map(read, wanted), strict=True))
        folders = _folders(self.stack.data_dir / "agents", "*/work/*")
        return server_run(detail, lambda job, step: logs[job, step], folders)

    def log(self, run_id: str, job_id: str, step_index: int) -> bytes:
        base = f"{self.stack.platform_url}/api/v1/orgs/{self._org_id}/runs/{run_id}/jobs"
        answer = self._client.get(f"{base}/{job_id}/steps/{step_index}/logs/raw")
        assert answer.status_code == 200, answer.text
        return answer.content


def _folders(base: Path, pattern: str) -> list[str]:
    return [str(path) for path in base.glob(pattern)]
