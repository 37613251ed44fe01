"""How a command ends when something goes wrong inside it (AU-135, AU-136)."""

import subprocess
import sys

import pytest

from kici.cli.errors import errors_as_exit_codes
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
