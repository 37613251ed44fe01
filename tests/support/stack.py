"""A whole KiCI for a test: `kici up` on a throw-away data directory, as a user would start it.

    with Stack.started(agents=1) as stack:
        repo = stack.repository("demo", {"ci.py": WORKFLOW})
        sha = repo.push("Say hello")
        run = stack.wait_for_run(sha=sha)

Processes are found by name (`platform`, `orchestrator`, `agent-1`, `postgres`) and may be killed or
paused; the supervisor brings killed ones back.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

TERMINAL = frozenset({"success", "failed", "cancelled", "skipped"})
T = TypeVar("T")


def eventually(probe: Callable[[], T], *, within_seconds: float = 30.0, what: str = "it") -> T:
    """The first truthy answer of `probe`, asked again until the bound."""
    give_up = time.monotonic() + within_seconds
    pause = 0.01
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > give_up:
            raise AssertionError(f"{what} did not happen within {within_seconds} s")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_offset(agents: int) -> int:
    """A --port-offset whose ports are all free now."""
    for _ in range(200):
        offset = random.randrange(1000, 45_000)
        ports = [10_142 + offset, 10_143 + offset, *(8_080 + offset + n for n in range(max(agents, 1)))]
        if all(_free(port) for port in ports):
            return offset
    raise AssertionError("no free ports")


@dataclass
class Repository:
    """A bare repository that KiCI watches, and a working clone to push from."""

    name: str
    bare: Path
    clone: Path

    def git(self, *arguments: str) -> str:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.clone.parent),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_NAME": "Test",
            "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "Test",
            "GIT_COMMITTER_EMAIL": "test@example.org",
        }
        return subprocess.run(
            ["git", "-C", str(self.clone), *arguments], env=env, check=True, capture_output=True, text=True
        ).stdout.strip()

    def write(self, files: Mapping[str, str]) -> None:
        """Files by path; bare names go to `.kici/workflows/`."""
        for name, content in files.items():
            path = self.clone / (name if "/" in name else f".kici/workflows/{name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def compile(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "kici.cli.main", "compile", "--kici-dir", str(self.clone / ".kici")],
            cwd=self.clone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def commit(self, message: str = "Change") -> str:
        self.compile()
        self.git("add", "-A")
        self.git("commit", "--quiet", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def push(self, message: str = "Change", branch: str = "main") -> str:
        """Compile, commit, push; the commit's id."""
        sha = self.commit(message)
        self.git("push", "--quiet", "origin", f"HEAD:{branch}")
        return sha


@dataclass
class Stack:
    data_dir: Path
    offset: int
    agents: int
    environment: Mapping[str, str]
    extra: Sequence[str] = ()
    process: subprocess.Popen[bytes] | None = None
    repositories: dict[str, Repository] = field(default_factory=dict[str, Repository])

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        *,
        agents: int = 1,
        settings: Mapping[str, str] | None = None,
        sample: bool = False,
        offset: int | None = None,
        external_database_url: str | None = None,
    ) -> Generator["Stack"]:
        """`settings`: {"orchestrator:KICI_X": "1"} as `kici up --set`."""
        data_dir = Path(tempfile.mkdtemp(prefix="kici-stack-", dir="/tmp"))
        os.chmod(data_dir, 0o755)
        extra = [part for name, value in (settings or {}).items() for part in ("--set", f"{name}={value}")]
        if external_database_url:
            extra += ["--external-database-url", external_database_url]
        if not sample:
            extra.append("--no-sample")
        environment = {**os.environ, "KICI_CONFIG_DIR": str(data_dir / "config")}
        stack = cls(data_dir / "data", offset or free_offset(agents), agents, environment, extra)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()
            shutil.rmtree(data_dir, ignore_errors=True)

    def start(self) -> None:
        with open(self.data_dir.parent / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "kici.cli.main",
                    "up",
                    "--data-dir",
                    str(self.data_dir),
                    "--port-offset",
                    str(self.offset),
                    "--agents",
                    str(self.agents),
                    *self.extra,
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        process = self.process

        def ready() -> bool:
            assert process.poll() is None, f"kici up ended:\n{self.up_log()}\n{self.logs()}"
            state = self.state()
            return state is not None and state["supervisorPid"] == process.pid and state["ready"]

        eventually(ready, within_seconds=60, what="kici up ready")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def up_log(self) -> str:
        return (self.data_dir.parent / "up.log").read_text(errors="replace")

    def logs(self, lines: int = 30) -> str:
        """Last lines of every process, for a failing test's message."""
        return "\n".join(
            f"── {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted((self.data_dir / "logs").glob("*.log"))
        )

    # ── facts ────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any] | None:
        try:
            return json.loads((self.data_dir / "state.json").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def platform_url(self) -> str:
        return f"http://127.0.0.1:{10_142 + self.offset}"

    @property
    def orchestrator_url(self) -> str:
        return f"http://127.0.0.1:{10_143 + self.offset}"

    @property
    def org_id(self) -> str:
        state = self.state()
        assert state is not None
        return state["orgId"]

    @property
    def token(self) -> str:
        return (self.data_dir / "api-token").read_text().strip()

    @property
    def admin_token(self) -> str:
        return (self.data_dir / "admin-token").read_text().strip()

    def pid(self, name: str) -> int | None:
        state = self.state()
        assert state is not None
        return next((p["pid"] for p in state["processes"] if p["name"] == name), None)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal one process; its pid."""
        pid = self.pid(name)
        assert pid is not None, f"{name} is not running"
        os.kill(pid, number)
        return pid

    def wait_back(self, name: str, old_pid: int, *, within_seconds: float = 60.0) -> None:
        def back() -> bool:
            state = self.state()
            assert state is not None
            return any(
                p["name"] == name and p["state"] == "ready" and p["pid"] != old_pid
                for p in state["processes"]
            )

        eventually(back, within_seconds=within_seconds, what=f"{name} back")

    # ── clients ──────────────────────────────────────────────────────────────────────────────────

    def api(self, method: str, path: str, **options: Any) -> Any:
        """The Platform's REST API; `path` below the organisation when it starts with `/runs` etc."""
        base = self.platform_url + (
            path if path.startswith("/api/") else f"/api/v1/orgs/{self.org_id}{path}"
        )
        response = httpx.request(
            method,
            base,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
            trust_env=False,
            **options,
        )
        assert response.status_code < 400, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def admin(self, method: str, path: str, **options: Any) -> Any:
        response = httpx.request(
            method,
            f"{self.orchestrator_url}/api/v1/admin{path}",
            headers={"Authorization": f"Bearer {self.admin_token}"},
            timeout=30,
            trust_env=False,
            **options,
        )
        assert response.status_code < 400, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def cli(
        self, *arguments: str, program: str = "kici.cli.main", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """`kici …` (or `kici-admin` with program="kici.cli.admin.main") signed in to this stack."""
        done = subprocess.run(
            [sys.executable, "-m", program, *arguments],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, done.stderr + done.stdout
        return done

    def watch_latest(self, folder: Path) -> subprocess.CompletedProcess[str]:
        """`kici runs watch latest --json` in an author's clone."""
        return subprocess.run(
            [sys.executable, "-m", "kici.cli.main", "runs", "watch", "latest", "--json"],
            cwd=folder,
            env={**self.environment, "KICI_PLATFORM_URL": self.platform_url, "KICI_TOKEN": self.token},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def sign_in_url(self) -> str:
        return self.api("POST", "/api/v1/sign-in-links", json={})["url"]

    # ── work ─────────────────────────────────────────────────────────────────────────────────────

    def repository(self, name: str, files: Mapping[str, str]) -> Repository:
        """A watched repository with these workflow files (not yet pushed) and the push hook."""
        home = self.data_dir.parent / "repositories"
        bare, clone = home / f"{name}.git", home / name
        bare.mkdir(parents=True)
        clone.mkdir()
        repository = Repository(name, bare, clone)
        subprocess.run(["git", "init", "--bare", "-q", "-b", "main", str(bare)], check=True)
        subprocess.run(["git", "init", "-q", "-b", "main", str(clone)], check=True)
        repository.git("remote", "add", "origin", str(bare))
        repository.write(files)
        self.admin("POST", "/sources", json={"kind": "local", "name": name, "path": str(bare)})
        self.cli(
            "source", "install-hook", name, "--data-dir", str(self.data_dir), program="kici.cli.admin.main"
        )
        self.repositories[name] = repository
        return repository

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        return self.api("GET", "/runs", params=filters)["runs"]

    def find_run(self, *, within_seconds: float = 30.0, **filters: Any) -> dict[str, Any]:
        return eventually(
            lambda: self.runs(**filters), within_seconds=within_seconds, what=f"a run with {filters}"
        )[0]

    def wait_for_run(self, *, within_seconds: float = 60.0, **filters: Any) -> dict[str, Any]:
        """The newest run with these filters, once it ended; the detail view."""
        run_id = self.find_run(within_seconds=within_seconds, **filters)["runId"]
        return self.wait_for_end(run_id, within_seconds=within_seconds)

    def wait_for_end(self, run_id: str, *, within_seconds: float = 60.0) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            detail = self.detail(run_id)
            return detail if detail["run"]["status"] in TERMINAL else None

        detail = eventually(ended, within_seconds=within_seconds, what=f"run {run_id} ended")
        assert detail is not None
        return detail

    def detail(self, run_id: str) -> dict[str, Any]:
        return self.api("GET", f"/runs/{run_id}/detail")

    def log(self, run_id: str, job_id: str, step_index: int) -> bytes:
        """The raw log of a step."""
        response = httpx.get(
            f"{self.platform_url}/api/v1/orgs/{self.org_id}/runs/{run_id}/jobs/{job_id}/steps/{step_index}/logs/raw",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=120,
            trust_env=False,
        )
        assert response.status_code == 200, response.text
        return response.content
