"""The words in which an agent refuses a lock file that does not belong to its tree (AU-101, AU-102, AU-103)."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kici.agent.drift import DriftGuard, LockFileStale
from kici.agent.workspace import Workspace
from kici.protocol.agent_v1 import Checkout, JobDispatch
from kici.runtime.buildinfo import build_fields, build_info
from kici.spec.events import Event
from kici.spec.lock import LockFile, LockJob, SourceLocation
from tests.support.repository import Repository


def compiled(root: Path) -> LockFile:
    repository = Repository(root).write({"helper.py": "A = 1\n"})
    repository.workflow('import helper\na = job("a", runs_on="linux", steps=[build])')
    result = repository.compile()
    assert result.data is not None
    assert result.document is not None
    (root / ".kici/kici.lock.json").write_bytes(result.data)
    return result.document


def dispatch(
    content_hash: str, *, compile_schema_version: int = 1, resolved_hash_files: Sequence[str] = ()
) -> JobDispatch:
    return JobDispatch(
        run_id="r",
        job_id="j",
        attempt=1,
        job_name="a",
        base_job_name="a",
        workflow_name="ci",
        workflow_file=".kici/workflows/ci.py",
        workflow_export="ci",
        content_hash=content_hash,
        compile_schema_version=compile_schema_version,
        sdk_version="0.1.0",
        resolved_hash_files=[*resolved_hash_files],
        job=LockJob(name="a", source=SourceLocation(file=".kici/workflows/ci.py"), checkout=False),
        matrix={},
        checkout=Checkout(repo_url="file:///nowhere", sha="0" * 40, ref="main"),
        event=Event(type="push"),
        env={},
        upstream_outputs={},
        upstream_statuses={},
        org_id="o",
        repo_identifier="r",
        request_id="q",
        timestamp=0,
    )


async def refusal(root: Path, asked: JobDispatch) -> list[str]:
    workspace = Workspace(str(root), str(root), str(root))
    try:
        await DriftGuard().check(workspace, asked)
    except LockFileStale as stale:
        return str(stale).split("\n")
    return []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda root: (root / ".kici/helper.py").unlink(), ".kici/helper.py (not committed?)"),
        (lambda root: (root / ".kici/helper.py").write_text("A = 2\n"), ".kici/helper.py"),
        (lambda root: (root / ".kici/more.py").touch(), ".kici/more.py (not in the lock file)"),
    ],
)
async def test_the_message_and_the_first_differing_path(
    tmp_path: Path, change: Callable[[Path], object], difference: str
) -> None:
    """AU-101: word for word, so that troubleshooting pages and people find it; the path on a second line."""
    expected = compiled(tmp_path).workflows[0].content_hash
    assert await refusal(tmp_path, dispatch(expected)) == []
    change(tmp_path)

    first, second = await refusal(tmp_path, dispatch(expected))

    build = build_info()
    pattern = re.compile(
        "Lock file is out of date: workflow source changed without regenerating kici.lock.json "
        rf"\(expected contentHash {expected}, got ([0-9a-f]{{64}}), "
        rf"agent baked kici-sdk@{re.escape(build.sdk_version)} bundleHash={build.sdk_bundle_hash}\)\. "
        r"Run 'kici compile' and commit the updated lock file\."
    )
    found = pattern.fullmatch(first)
    assert found is not None, first
    assert found[1] != expected
    assert second == f"First difference: {difference}"


async def test_line_endings_are_no_difference(tmp_path: Path) -> None:
    """AU-99: a checkout with CR LF is the same source."""
    expected = compiled(tmp_path).workflows[0].content_hash
    helper = tmp_path / ".kici/helper.py"
    helper.write_bytes(helper.read_bytes().replace(b"\n", b"\r\n"))
    assert await refusal(tmp_path, dispatch(expected)) == []


async def test_files_outside_of_kici_are_pinned_by_hash_files(tmp_path: Path) -> None:
    """AU-99, AU-101: what `hash_files` names is part of the source, and of the message when it differs."""
    pinned = tmp_path / "tools" / "build.sh"
    pinned.parent.mkdir()
    pinned.write_text("make\n")
    repository = Repository(tmp_path).workflow(
        "ci = workflow('ci', on=push(), hash_files=['tools/*'], jobs=[job('a', runs_on='x', steps=[build])])"
    )
    data = repository.compile().data
    assert data is not None
    (tmp_path / ".kici/kici.lock.json").write_bytes(data)
    (workflow,) = repository.lock().workflows
    asked = dispatch(workflow.content_hash, resolved_hash_files=workflow.resolved_hash_files)
    assert await refusal(tmp_path, asked) == []

    pinned.write_text("make evil\n")

    first, second = await refusal(tmp_path, asked)
    assert first.startswith("Lock file is out of date: ")
    assert second == "First difference: tools/build.sh"


async def test_a_newer_compiler_is_named_as_such(tmp_path: Path) -> None:
    """AU-102: which side is older."""
    expected = compiled(tmp_path).workflows[0].content_hash
    (text,) = await refusal(tmp_path, dispatch(expected, compile_schema_version=99))
    assert "compile schema 99, this agent knows up to 1" in text
    assert "the agent is older than the compiler" in text


async def test_an_older_compiler_is_named_as_such(tmp_path: Path) -> None:
    """AU-102: the other way round."""
    expected = compiled(tmp_path).workflows[0].content_hash
    (text,) = await refusal(tmp_path, dispatch(expected, compile_schema_version=0))
    assert "compile schema 0, this agent knows 1 and later" in text
    assert "the compiler is older than the agent" in text


def test_the_six_build_fields() -> None:
    """AU-103: the same six on every side; each hash is computable here."""
    fields = build_fields()
    six = {f"{part}{kind}" for part in ("sdk", "shared", "engine") for kind in ("Version", "BundleHash")}
    assert six <= fields.keys()
    assert "unknown" not in {fields[name] for name in six}
