"""Five shapes of real repositories among the examples: previewed and run locally as their authors would (AU-7)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[3] / "examples"
VERSIONS = ["3.11, fixed", "3.11, random", "3.12, fixed", "3.13, fixed", "3.13, random"]

# example, fixture → jobs of every workflow that ran, by name, with how they ended
RUNS: list[tuple[str, str, dict[str, dict[str, str]]]] = [
    (
        "python_library",
        "push-main",
        {
            "ci": {
                **{f"test-{system} ({v})": "success" for system in ("linux", "macos") for v in VERSIONS},
                "package": "success",
            }
        },
    ),
    (
        "python_library",
        "release-tag",
        {
            "release": {
                **{f"test-linux ({v})": "success" for v in VERSIONS},
                "package": "success",
                "announce": "success",
            }
        },
    ),
    (
        "monorepo",
        "api-only",
        {
            "packages": {
                "Init: test": "success",
                "test (services/api)": "success",
                "report": "success",
            }
        },
    ),
    (
        "monorepo",
        "everything",
        {
            "packages": {
                "Init: test": "success",
                "test (libs/text)": "success",
                "test (services/api)": "success",
                "test (services/web)": "success",
                "report": "success",
            },
            "web": {"preview": "success"},
        },
    ),
    (
        "container_build",
        "changed-app",
        {
            "container": {
                "image": "success",
                "reproduce": "success",
                "publish": "skipped",
                "report": "success",
            }
        },
    ),
    (
        "container_build",
        "version-tag",
        {"container": dict.fromkeys(("image", "reproduce", "publish", "report"), "success")},
    ),
    ("docs_site", "changed-page", {"site": {"site": "success"}}),
    ("docs_site", "links-now", {"nightly": {"nightly-links": "success"}}),
    ("docs_site", "schedule:nightly", {"nightly": {"nightly-links": "success"}}),
    ("service", "push-main", {"service": {"unit": "success", "end-to-end": "success"}}),
    ("service", "opened", {"service": {"unit": "success", "end-to-end": "success"}}),
]


class Clone:
    """An example as a repository of its own, with one commit."""

    def __init__(self, example: str, tmp_path: Path) -> None:
        self.root = tmp_path / example
        shutil.copytree(EXAMPLES / example, self.root, ignore=shutil.ignore_patterns("__pycache__"))
        self._environment = {
            **os.environ,
            "HOME": str(tmp_path),
            "KICI_CONFIG_DIR": str(tmp_path / "config"),
            "KICI_RUN_DIR": str(tmp_path / "runs"),
            "XDG_RUNTIME_DIR": str(tmp_path),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "NO_COLOR": "1",
        }
        identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "First commit"]):
            subprocess.run(
                ["git", *identity, *arguments],
                check=True,
                capture_output=True,
                cwd=self.root,
                env=self._environment,
            )

    def kici(self, *arguments: str, exit_code: int = 0) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "kici.cli.main", *arguments, "--json"],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env=self._environment,
            timeout=110,
        )
        assert done.returncode == exit_code, done.stderr + done.stdout
        return json.loads(done.stdout)


@pytest.mark.parametrize(("example", "event", "expected"), RUNS, ids=lambda value: str(value)[:20])
def test_an_event_runs_what_its_author_expects(
    example: str, event: str, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """AU-110, AU-111, AU-121: compiled, matched, expanded and executed, by fixture or by word."""
    document = Clone(example, tmp_path).kici("run", "local", event)

    assert document["ok"] is True
    assert {
        run["workflow"]: {job["title"]: job["status"] for job in run["jobs"]} for run in document["runs"]
    } == expected


@pytest.mark.parametrize(("example", "event", "expected"), RUNS, ids=lambda value: str(value)[:20])
def test_preview_foretells_it(
    example: str, event: str, expected: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    """AU-120: the same workflows, without running anything."""
    clone = Clone(example, tmp_path)
    document = clone.kici("preview", event)

    assert {found["name"] for found in document["workflows"] if found["matched"]} >= set(expected)
    assert not (tmp_path / "runs").exists()


def test_outputs_are_what_the_examples_say(tmp_path: Path) -> None:
    """AU-25, AU-58: a wheel that imports, an image that can be made again, a sold-out tea."""

    def outputs(example: str, event: str) -> dict[str, Any]:
        (run,) = Clone(example, tmp_path).kici("run", "local", event)["runs"]
        return {job["name"]: job["outputs"] for job in run["jobs"]}

    package = outputs("python_library", "push-main")["package"]["package"]
    assert (package["file"], package["version"]) == ("slugline-2.1.0-py3-none-any.whl", "2.1.0")
    image = outputs("container_build", "version-tag")["image"]["build"]
    assert (image["tag"], len(image["digest"])) == ("v1.0.0", len("sha256:") + 64)
    assert outputs("service", "push-main")["end-to-end"] == {
        "migrate": 3,
        "end-to-end": {"sencha": 500, "assam": 0},
    }


def test_check_mode_changes_nothing_and_says_what_it_would(tmp_path: Path) -> None:
    """AU-48, AU-49, AU-136: exit 0 with --check, 3 with --fail-on-drift."""
    clone = Clone("service", tmp_path)
    (run,) = clone.kici("run", "local", "push-main", "--check")["runs"]
    (tested,) = [job for job in run["jobs"] if job["name"] == "end-to-end"]
    migrate = tested["steps"][0]
    assert (migrate["name"], migrate["checkOutcome"]) == ("migrate", "would_change")
    assert migrate["driftSummary"] == "3 migrations are missing"
    clone.kici("run", "local", "push-main", "--check", "--fail-on-drift", exit_code=3)


def test_a_broken_link_is_annotated_at_its_line(tmp_path: Path) -> None:
    """AU-136: a failed run is exit 1; the annotation names file and line."""
    clone = Clone("docs_site", tmp_path)
    page = clone.root / "docs/start.md"
    page.write_text(page.read_text() + "\n[gone](gone.md)\n")

    (run,) = clone.kici("run", "local", "changed-page", exit_code=1)["runs"]

    (links,) = [step for step in run["jobs"][0]["steps"] if step["name"] == "links"]
    assert links["status"] == "failed"
    assert [(entry["file"], entry["line"]) for entry in links["annotations"]] == [("docs/start.md", 7)]
