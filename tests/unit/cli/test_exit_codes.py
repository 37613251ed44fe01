"""How a command ends when something goes wrong inside it (AU-135, AU-136)."""

import asyncio
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kici.cli.client import Client, Refused, Unreachable, find_target
from kici.cli.errors import errors_as_exit_codes
from kici.cli.remote.transfer import BadRequest, refusals
from kici.spec.errors import InvalidInput, KiciError


class _NotSignedIn(KiciError):
    code = "not_signed_in"


class _Unreachable(KiciError):
    code = "unreachable"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KiciError("the run failed"), 1),
        (InvalidInput("no such event"), 2),
        (Refused("status 'faild' is unknown", 400, reason="invalid_input"), 2),
        (Refused("it has ended", 409, reason="conflict"), 1),
        (_NotSignedIn("log in first"), 4),
        (_Unreachable("nobody answers"), 5),
        (KeyboardInterrupt(), 130),
        (PermissionError(13, "Permission denied", "/etc/x"), 1),
        (RecursionError("too\ndeep"), 1),
    ],
)
def test_each_error_has_its_exit_code_and_no_traceback(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """AU-136: foreseen or not, an error is a few lines on stderr; AU-135: tracebacks are for --debug."""
    monkeypatch.delenv("KICI_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended, errors_as_exit_codes():
        raise error
    assert ended.value.code == status
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    if isinstance(error, RecursionError):
        assert "a mistake in kici, not in what you wrote: RecursionError: too deep\n" in err
        assert "KICI_DEBUG=true" in err
    monkeypatch.setenv("KICI_DEBUG", "true")
    with pytest.raises(type(error) if isinstance(error, Exception) else SystemExit), errors_as_exit_codes():
        raise error


def test_a_reader_that_has_read_enough_is_no_reason_to_complain() -> None:
    """AU-136: `kici … | head -1`."""
    program = (
        "from kici.cli.errors import errors_as_exit_codes\n"
        "with errors_as_exit_codes():\n"
        "    for _ in range(100_000): print('line', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr:
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait(30) == 1


@pytest.mark.parametrize("address", ["notaurl", "ftp://host", "host:10142"])
def test_an_address_that_is_none_is_a_wrong_word(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AU-136: exit 2, and not "is it running?"."""
    monkeypatch.setenv("KICI_PLATFORM_URL", address)
    with pytest.raises(InvalidInput, match=f"not '{address}'"):
        find_target(token="kici_pat_x")


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("kici_pat_x", "it came from KICI_TOKEN"),
        ("", "run `kici login --platform-endpoint http://127.0.0.1:"),
    ],
)
def test_a_token_that_nobody_knows_says_where_it_came_from(
    variable: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """AU-136: exit 4, with the next command."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"error": "unknown token", "code": "token_unknown", "details": null, "traceId": "t"}'
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    async def ask(address: str) -> None:
        async with Client(find_target(platform_url=address, token="kici_pat_x")) as client:
            await client.org_id()

    monkeypatch.setenv("KICI_TOKEN", variable)
    monkeypatch.delenv("KICI_ORG", raising=False)
    monkeypatch.delenv("KICI_DEBUG", raising=False)
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(SystemExit) as ended, errors_as_exit_codes():
                asyncio.run(ask(f"http://127.0.0.1:{server.server_port}"))
        finally:
            server.shutdown()
            thread.join()
    assert ended.value.code == 4
    assert f"unknown token (token_unknown, trace t): {told}" in capsys.readouterr().err


@pytest.mark.parametrize(("clusters", "error"), [([], Unreachable), (["north"], BadRequest)])
def test_no_orchestrator_is_away_and_an_unknown_one_is_a_mistake(
    clusters: list[str], error: type[Exception]
) -> None:
    """AU-136: 5 while none is connected, 2 for a name that none has."""
    with pytest.raises(error), refusals():
        raise Refused("no cluster", 422, reason="no_cluster", details={"clusters": clusters})


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(1)"])
def test_what_is_still_to_be_written_is_no_reason_either(end: str) -> None:
    """AU-136: little output leaves only at the end."""
    program = (
        "import sys\n"
        "from kici.cli.errors import errors_as_exit_codes\n"
        "with errors_as_exit_codes():\n"
        f"    sys.stdin.read(); print('line'); {end}\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdin, process.stdout, process.stderr:
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.wait(30) == 1
