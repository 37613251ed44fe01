"""A repository that `kici run local` is called in."""

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path
from typing import Any

KICI = [sys.executable, "-m", "kici.cli.main"]
HEADER = """
import asyncio, os, sys, time
from dataclasses import dataclass
from pathlib import Path
from kici import *

LINUX = "kici:os:linux"
"""


class Project:
    """Runs, caches, locks and history stay below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.runs = folder / "runs"
        self.home = folder / "home"
        (folder / "runtime").mkdir()
        self.env = {
            **{name: value for name, value in os.environ.items() if name not in {"CI", "NO_COLOR"}},
            "KICI_RUN_DIR": str(self.runs),
            "KICI_CONFIG_DIR": str(self.home),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_RUNTIME_DIR": str(folder / "runtime"),
        }
        (self.root / ".kici" / "workflows").mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout

    def write(self, source: str, *, name: str = "workflows/ci.py") -> None:
        path = self.root / ".kici" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + source)

    def commit(self, source: str) -> None:
        self.write(source)
        self.git("add", ".")
        self.git("commit", "-qm", "workflows")

    def kici(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*KICI, *arguments],
            cwd=self.root,
            env=self.env,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def on_terminal(self, question: str, answer: str, *arguments: str) -> tuple[int, str]:
        """(exit code, all that was shown): somebody sits there, and answers once the question is there."""
        main, side = pty.openpty()
        with subprocess.Popen(
            [*KICI, *arguments],
            cwd=self.root,
            env={**self.env, "TERM": "xterm"},
            stdin=side,
            stdout=side,
            stderr=side,
            start_new_session=True,
            # Its own terminal, so that Ctrl-C reaches it.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - nothing else runs yet
        ) as command:
            os.close(side)
            shown, answered = "", False
            while True:
                if not select.select([main], [], [], 60)[0]:
                    command.kill()  # it waits for something else
                    break
                try:
                    data = os.read(main, 65536)
                except OSError:  # nobody holds the other end any more
                    break
                shown += data.decode("utf-8", "replace")
                if question in shown and not answered:
                    answered = True
                    os.write(main, answer.encode())
            code = command.wait(30)
        os.close(main)
        return code, shown

    def run(self, *options: str, event: str | None = "push") -> "subprocess.CompletedProcess[str]":
        return self.kici("run", "local", *([event] if event else []), *options)

    def report(self, *options: str, event: str | None = "push", code: int = 0) -> dict[str, Any]:
        """The document of `--json`."""
        done = self.run("--json", *options, event=event)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    def only_run(self, *options: str, event: str | None = "push", code: int = 0) -> "Run":
        (run,) = self.report(*options, event=event, code=code)["runs"]
        return Run(run)

    def kept(self) -> Sequence[Path]:
        return list(self.runs.glob("kici-run-*"))


class Run:
    """One run of the document, by name of its jobs."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.status: str = document["status"]
        self.jobs: dict[str, dict[str, Any]] = {job["title"]: job for job in document["jobs"]}

    def statuses(self) -> dict[str, str]:
        return {title: job["status"] for title, job in self.jobs.items()}

    def output(self, job: str) -> Any:
        """Of a job with one step."""
        (value,) = self.jobs[job]["outputs"].values()
        return value
