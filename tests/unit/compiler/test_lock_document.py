"""What stands in the lock file, and that it is a pure function of the sources (AU-95…101)."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest

from kici.compiler import lockfile
from kici.compiler.content import content_hash, first_difference
from kici.compiler.pipeline import check_against_disk, compile_repository
from kici.spec import lock, triggers
from tests.support.repository import BUILD, Repository

PIPELINE = """
from dataclasses import dataclass
from datetime import timedelta

@dataclass
class Built:
    version: str

def note(ctx): ...

@step("make it", timeout="5m", retry=Retry(attempts=3, delay="500ms", backoff="fixed"), continue_on_error=True)
async def make(ctx: Context) -> Built: ...

@step
def untyped(ctx): ...

package = job(
    "package",
    runs_on=["kici:os:linux", "gpu-*", "!slow", re.compile("Zone-[ab]", re.I)],
    steps=[make, lambda ctx: None, parallel(build, scan.bind(target="x"), fail_fast=False, max_parallel=1), untyped],
    env={"B": "2", "A": "1"},
    timeout=timedelta(hours=1),
    grace_period=90,
    description="Makes it",
    checkout=False,
    on_failure=note,
    before_step=hook(note, timeout="1s"),
)

@job(
    runs_on=Runner(labels="kici:os:linux", exclude=["spot", "!old-*"], pick="any"),
    needs=[need(package, when="always"), need("package-2", when={"failed", "skipped"})],
    matrix={"os": ["linux", "mac"], "fast": [True, False], "n": [1, 1.5]},
    include=[{"os": "bsd", "fast": True, "n": 1}],
    exclude=[{"os": "mac", "fast": False}],
    max_parallel=2,
    fail_fast=True,
)
def run_tests(ctx: Context, *, fast: bool) -> dict[str, int]: ...

bare = job("package-2", runs_on="x", matrix=["a", "b"], steps=[build])

ci = workflow(
    "ci",
    on=[
        push(branches=["main", "!wip/**", re.compile("^v\\\\d+$", re.I)], tags="v*", paths="src/**"),
        push(tags=["v1"]),
        pr(events="labeled", target="main", source="feature/*", description="labels"),
        tag(),
        webhook(events="deployment", actions=["created"]),
        generic_webhook(source="grafana", events=["alert"], match={"$.a[0]": [1, None]}, not_={"$['b c']": "/x/"}, path="/p"),
    ],
    jobs=[package, run_tests, bare],
    description="All of it",
    hash_files=["pins/*.txt", "!pins/no.txt"],
    timeout="2h",
)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    files = {"/pins/yes.txt": "1", "/pins/no.txt": "2", "data.json": "{}"}
    return Repository(tmp_path).write(files).workflow(PIPELINE)


def test_every_key_of_a_workflow(repository: Repository) -> None:
    (workflow,) = repository.lock().workflows

    assert (workflow.name, workflow.description, workflow.timeout) == ("ci", "All of it", 7_200_000)
    assert workflow.source.file == ".kici/workflows/ci.py"
    assert workflow.source.export == "#ci"
    assert workflow.hash_files == ["pins/*.txt", "!pins/no.txt"]
    assert workflow.resolved_hash_files == ["pins/yes.txt"]
    glob, regex = "glob", "regex"
    assert workflow.triggers == [
        triggers.PushTrigger(
            branches=[
                triggers.Pattern(type=glob, pattern="main"),
                triggers.Pattern(type=glob, pattern="!wip/**"),
                triggers.Pattern(type=regex, pattern=r"^v\d+$", flags="i"),
            ],
            paths=[triggers.Pattern(type=glob, pattern="src/**")],
        ),
        triggers.TagTrigger(
            patterns=[triggers.Pattern(type=glob, pattern="v*")],
            paths=[triggers.Pattern(type=glob, pattern="src/**")],
        ),
        triggers.TagTrigger(patterns=[triggers.Pattern(type=glob, pattern="v1")]),
        triggers.PrTrigger(
            events=["labeled"],
            target=[triggers.Pattern(type=glob, pattern="main")],
            source=[triggers.Pattern(type=glob, pattern="feature/*")],
            description="labels",
        ),
        triggers.TagTrigger(),
        triggers.WebhookTrigger(events=["deployment"], actions=["created"]),
        triggers.GenericWebhookTrigger(
            source="grafana",
            events=["alert"],
            match={"$.a[0]": [1, None]},
            not_={"$['b c']": "/x/"},
            path="/p",
        ),
    ]


def test_every_key_of_a_job(repository: Repository) -> None:
    jobs = repository.jobs()
    package, tests = jobs["package"], jobs["run-tests"]

    assert package.runs_on == [
        lock.LabelMatcher(kind="exact", value="kici:os:linux"),
        lock.LabelMatcher(kind="regex", source=r"^gpu-[^/]*$"),
        lock.LabelMatcher(kind="regex", source="Zone-[ab]", flags="i"),
    ]
    assert package.exclude_labels == [lock.LabelMatcher(kind="exact", value="slow")]
    assert list(package.env.items()) == [("B", "2"), ("A", "1")]
    assert (package.timeout, package.grace_period, package.checkout) == (3_600_000, 90_000, False)
    assert package.description == "Makes it"
    assert (package.has_on_failure, package.has_before_step) == (True, True)
    assert not any(
        [package.has_on_cancel, package.has_cleanup, package.has_on_success, package.has_after_step]
    )

    assert tests.runs_on_pick == "any"
    assert tests.exclude_labels == [
        lock.LabelMatcher(kind="exact", value="spot"),
        lock.LabelMatcher(kind="regex", source=r"^old-[^/]*$"),
    ]
    assert [(need.name, need.run_on) for need in tests.needs] == [
        ("package", ["cancelled", "drift_dropped", "failed", "skipped", "success", "timed_out_stale"]),
        ("package-2", ["failed", "skipped"]),
    ]
    assert tests.matrix is not None
    assert list(tests.matrix.values.items()) == [
        ("os", ["linux", "mac"]),
        ("fast", [True, False]),
        ("n", [1, 1.5]),
    ]
    assert [type(value) for value in tests.matrix.values["n"]] == [int, float]
    assert (tests.include, tests.exclude) == (
        [{"os": "bsd", "fast": True, "n": 1}],
        [{"os": "mac", "fast": False}],
    )
    assert (tests.max_parallel, tests.fail_fast) == (2, True)
    assert jobs["package-2"].matrix == lock.Matrix(values={"value": ["a", "b"]})


def test_every_key_of_a_step(repository: Repository) -> None:
    steps = repository.jobs()["package"].steps

    assert [(step.name, step.has_outputs, step.parallel_group) for step in steps] == [
        ("make it", True, ""),
        ("step-1", False, ""),
        ("build", True, "parallel-1"),
        ("scan", True, "parallel-1"),
        ("untyped", False, ""),
    ]
    assert steps[0].timeout == 300_000
    assert steps[0].retry == lock.Retry(attempts=3, delay=500, backoff="fixed")
    assert steps[0].continue_on_error is True
    assert [step.name for step in repository.jobs()["run-tests"].steps] == ["run-tests"]


def test_locations_are_where_the_author_wrote(repository: Repository) -> None:
    text = (repository.kici_dir / "workflows/ci.py").read_text().splitlines()
    jobs = repository.jobs()

    def written_at(source: lock.SourceLocation) -> str:
        assert source.file == ".kici/workflows/ci.py"
        return text[source.line - 1][source.column - 1 :]

    assert written_at(jobs["package"].source) == "job("
    assert written_at(jobs["run-tests"].source) == "job("
    assert text[jobs["run-tests"].source.line - 1] == "@job("
    assert written_at(jobs["package"].steps[0].source_location).startswith('step("make it"')
    assert "lambda ctx: None" in text[jobs["package"].steps[1].source_location.line - 1]
    assert written_at(jobs["package"].steps[4].source_location) == "step"


def test_unnamed_jobs_are_numbered_and_edges_follow(tmp_path: Path) -> None:
    jobs = (
        Repository(tmp_path)
        .workflow(
            """
            first = job(runs_on="x")(lambda ctx: None)
            named = job("named", runs_on="x", needs=[first], steps=[build])
            second = job(runs_on="x", needs=[first, named])(lambda ctx: None)
            """
        )
        .jobs()
    )

    assert list(jobs) == ["job-1", "named", "job-2"]
    assert [need.name for need in jobs["named"].needs] == ["job-1"]
    assert [need.name for need in jobs["job-2"].needs] == ["job-1", "named"]


def test_same_bytes_from_another_place(
    repository: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "with space"
    shutil.copytree(repository.root, elsewhere)
    compiled = repository.compile()

    assert compiled.data is not None
    assert compiled.data == Repository(elsewhere).compile().data
    assert str(repository.root).encode() not in compiled.data
    assert compiled.data.endswith(b"}\n")
    assert b"\r" not in compiled.data
    assert b"\t" not in compiled.data


def test_sets_in_author_code_have_one_order(tmp_path: Path) -> None:
    names = "{'alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta'}"
    repository = Repository(tmp_path).workflow(
        f"a = job('a', runs_on='x', steps=[build], matrix=list({names}))"
    )

    assert len({repository.compile().data for _ in range(3)}) == 1


def test_workflows_are_sorted_and_found_in_lists_and_helpers(tmp_path: Path) -> None:
    repository = Repository(tmp_path).write(
        {
            "helpers/__init__.py": "",
            "helpers/shared.py": """
                from kici import job, push, step, workflow
                @step
                async def build(ctx) -> str: ...
                package = job("package", runs_on="x", steps=[build])
                def make(name):
                    return workflow(name, on=push(), jobs=[package])
                """,
            "workflows/b.py": """
                from helpers.shared import make, package
                from workflows.a import alone
                many = [make("z"), make("y")]
                """,
            "workflows/a.py": """
                from helpers.shared import make
                alone = make("m")
                """,
            "workflows/_skipped.py": "raise RuntimeError",
        }
    )

    found = repository.lock().workflows

    assert [(workflow.name, workflow.source.file, workflow.source.export) for workflow in found] == [
        ("m", ".kici/workflows/a.py", "#alone"),
        ("y", ".kici/workflows/b.py", "#many"),
        ("z", ".kici/workflows/b.py", "#many"),
    ]
    assert found[0].jobs[0].source.file == ".kici/helpers/shared.py"


def test_hashes_are_what_an_agent_computes(repository: Repository) -> None:
    document = repository.lock()
    (workflow,) = document.workflows

    assert workflow.content_hash == content_hash(repository.root, workflow.resolved_hash_files, 1)
    assert first_difference(repository.root, document.sources) is None
    assert [entry.path for entry in document.sources] == [
        ".kici/data.json",
        ".kici/workflows/ci.py",
        "pins/yes.txt",
    ]

    repository.write({"data.json": '{"a": 1}'})
    assert workflow.content_hash != content_hash(repository.root, workflow.resolved_hash_files, 1)
    assert first_difference(repository.root, document.sources) == ".kici/data.json"


def test_the_compiling_build_changes_no_hash(repository: Repository) -> None:
    document = repository.lock()
    other = compile_repository(
        repository.kici_dir,
        compiler=lock.CompilerInfo(sdk_version="9.9", sdk_bundle_hash="f", requires_python=""),
    ).document

    assert other is not None
    assert other.compiler.sdk_version == "9.9"
    assert other.content_hash == document.content_hash
    assert other.workflows == document.workflows


def test_project_file_and_dependency_lock(repository: Repository) -> None:
    repository.write(
        {"pyproject.toml": '[project]\nrequires-python = ">=3.12"', "requirements.txt": "x==1"}
    )

    document = repository.lock()

    assert document.compiler == lock.CompilerInfo(
        sdk_version=BUILD.sdk_version, sdk_bundle_hash=BUILD.sdk_bundle_hash, requires_python=">=3.12"
    )
    assert document.lockfile_hash is not None


def test_written_once_and_atomically(repository: Repository) -> None:
    path = repository.kici_dir / "kici.lock.json"
    data = repository.compile().data
    assert data is not None

    assert lockfile.write(path, data) is True
    before = path.stat().st_mtime_ns
    assert lockfile.write(path, data) is False
    assert path.stat().st_mtime_ns == before
    assert path.read_bytes() == data
    assert [entry for entry in os.listdir(repository.kici_dir) if entry.endswith(".tmp")] == []
    assert repository.compile().data == data  # the lock file is no source of itself


def test_check_says_what_is_stale(repository: Repository) -> None:
    path = repository.kici_dir / "kici.lock.json"

    def why() -> str | None:
        problem = check_against_disk(repository.kici_dir, repository.compile())
        return None if problem is None else problem.message.removeprefix("the lock file is out of date: ")

    assert why() == "there is none"
    path.write_text("{}")
    assert "corrupt" in (why() or "")

    data = repository.compile().data
    assert data is not None
    document = json.loads(data)
    document["compiler"]["sdkVersion"] = "0.0.1"
    path.write_text(json.dumps(document))
    assert why() is None  # another build alone is no drift

    other = 'other = workflow("other", on=push(), jobs=[job("a", runs_on="x", steps=[build])])'
    repository.workflow(other, name="other")
    assert why() == "ci (changed), other (new); .kici/workflows/other.py is new"
    (repository.kici_dir / "workflows/other.py").unlink()
    assert why() is None
    document["workflows"][0]["name"] = "old"
    path.write_text(json.dumps(document))
    assert why() == "ci (new), old (gone)"


def test_readers_ignore_unknown_keys(repository: Repository) -> None:
    data = repository.compile().data
    assert data is not None
    document = json.loads(data)
    document["later"] = document["workflows"][0]["later"] = document["workflows"][0]["jobs"][0]["later"] = 1

    decoded = msgspec.json.decode(json.dumps(document).encode(), type=lock.LockFile)

    assert decoded == repository.lock()
