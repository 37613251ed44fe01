"""`kici compile` keeps the type stub of secrets fresh for people who are signed in (AU-135)."""

import json
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from kici.cli.config import Config, save
from kici.cli.main import app
from tests.support.repository import Repository

ANSWERS: dict[str, Any] = {
    "/api/v1/orgs/acme/environments?includeSecrets=true": {
        "environments": [{"name": "staging", "secretNames": ["TOKEN", "DB_URL"]}]
    },
    "/api/v1/auth/config": {"version": "0.0.1"},
}


class Platform(BaseHTTPRequestHandler):
    answers: dict[str, Any] = {}

    def do_GET(self) -> None:
        found = self.answers.get(self.path)
        body = json.dumps(found or {"error": "no such route", "code": "not_found"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None: ...


@contextmanager
def platform(answers: dict[str, Any]) -> Generator[str]:
    Platform.answers = answers
    with ThreadingHTTPServer(("127.0.0.1", 0), Platform) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KICI_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("KICI_PLATFORM_URL", "KICI_TOKEN", "KICI_ORG"):
        monkeypatch.delenv(name, raising=False)
    return Repository(tmp_path).workflow('a = job("a", runs_on="linux", steps=[build])')


def sign_in(url: str) -> None:
    save(Config(platform_url=url, token="kici_pat_x", org_id="acme"))


def compiled(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["compile", *arguments])


def test_signed_in_the_stub_is_renewed(repository: Repository) -> None:
    """AU-135, AU-90 (W303): the next compilation knows the names."""
    with platform(ANSWERS) as url:
        sign_in(url)
        assert compiled().exit_code == 0
    stub = repository.kici_dir / "types/kici_secrets.pyi"
    assert "Staging = Literal['DB_URL', 'TOKEN']  # staging" in stub.read_text()
    repository.workflow('a = job("a", runs_on="linux", steps=[build], environment="stagging")')
    assert "warning[W303]: environment 'stagging' is unknown" in compiled("--no-sync").stderr


@pytest.mark.parametrize("arguments", [["--check"], ["--no-sync"]])
def test_nothing_is_asked_when_nothing_may_change(repository: Repository, arguments: list[str]) -> None:
    """AU-96, AU-97: `--check` writes nothing, `--no-sync` stays off the network."""
    compiled("--no-sync")
    sign_in("http://127.0.0.1:9")  # would be a warning
    done = compiled(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")


def test_a_failure_is_a_warning_and_a_server_without_secrets_is_none(repository: Repository) -> None:
    """AU-135: compiling never depends on a server."""
    sign_in("http://127.0.0.1:9")
    alone = compiled()
    assert alone.exit_code == 0
    assert alone.stderr.startswith("warning: .kici/types is as it was: ")
    with platform({"/api/v1/auth/config": {"version": "0.0.1"}}) as url:
        sign_in(url)
        done = compiled()
    assert (done.exit_code, done.stderr) == (0, "")
    assert not (repository.kici_dir / "types").exists()
