"""What a run came to, as one document, whoever ran it.

A job is {kind, title, status, error, timeout, category, outputs, secrets, rules, steps}, a step {name, type,
status, exit, error, check, drift, rules, summary, annotations, secrets, log}; times, folders and ids are gone.

What may differ, and why, is in `ALLOWED` and `comparable`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

Document = dict[str, Any]

_REPLACED = (
    (re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]"), ""),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(-\d+)?\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{40}\b"), "<sha>"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s)\b(?! timed out)"), "<time>"),
    (re.compile(r"\b\d+ checks\b"), "<n> checks"),
    (re.compile(r"^(Interrupted|cancelled by Local operator)$"), "<somebody stopped it>"),
)
_OURS = re.compile(r"^(▶|✓|✗|■|○) ")


def plain(text: str | None, folders: Iterable[str] = ()) -> str | None:
    """`text` without what differs from run to run."""
    if not text:
        return None
    for folder in sorted(folders, key=len, reverse=True):
        text = text.replace(folder, "<folder>")
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return text


def _rules(rules: Iterable[Mapping[str, Any]]) -> list[tuple[str, bool, str | None]]:
    return [(rule["label"], rule["passed"], plain(rule["error"])) for rule in rules]


def _annotations(annotations: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(each["level"], each["message"], each["file"], each["line"]) for each in annotations]


def _step(step: Mapping[str, Any], *, name: str, kind: str, log: list[str]) -> Document:
    return {
        "name": name,
        "type": kind,
        "status": step["status"],
        "exit": step["exitCode"],
        "error": plain(step["errorMessage"]),
        "check": step["checkOutcome"],
        "drift": step["driftSummary"],
        "rules": _rules(step["rules"]),
        "summary": step["summary"],
        "annotations": _annotations(step["annotations"]),
        "secrets": step["secretsAccessed"],
        "log": log,
    }


# ── kici run local ───────────────────────────────────────────────────────────────────────────────


def shown_lines(stderr: str) -> dict[str, list[str]]:
    """What stands behind `who │ `, by who."""
    found: dict[str, list[str]] = {}
    for line in stderr.splitlines():
        who, bar, rest = line.partition(" │ ")
        if not bar:
            who, bar, rest = line.partition(" │")
        if bar:
            found.setdefault(who.rstrip(), []).append(rest)
    return found


def _logs_of_steps(who: str, lines: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Lines by step, of a job shown as `who`."""
    logs: dict[str, list[str]] = {}
    for name, printed in lines.items():
        if name != who and not name.startswith(f"{who} › "):
            continue
        step: str | None = None
        for line in printed:
            if line.startswith("▶ "):
                step = line[2:]
            elif _OURS.match(line):
                step = None
            elif step is not None:
                logs.setdefault(step, []).append(line)
    return logs


def local_run(
    report: Mapping[str, Any], lines: Mapping[str, list[str]], folders: Iterable[str]
) -> Document:
    """`report`: one of `runs` of the document of `kici run local --json`; `lines`: of its standard error."""
    folders = list(folders)
    jobs: dict[str, Document] = {}
    for job in report["jobs"]:
        logs = _logs_of_steps(f"{report['workflow']}/{job['title']}", lines)
        steps = sorted(job["steps"], key=lambda step: step["index"])
        jobs[job["name"]] = _job(
            job,
            title=job["title"],
            timeout=job["timeoutReason"],
            category=job["failureCategory"],
            secrets=job["secretOutputs"],
            steps=[
                _step(
                    step,
                    name=step["name"],
                    kind=step["type"],
                    log=[str(plain(line, folders) or "") for line in logs.get(step["name"], [])],
                )
                for step in steps
            ],
            folders=folders,
        )
    return {
        "status": report["status"],
        "error": plain(report["errorMessage"], folders),
        "timeout": report["timeoutReason"],
        "rules": _rules(report["rules"]),
        "inputs": report["inputs"],
        "jobs": jobs,
    }


# ── a run of the server ──────────────────────────────────────────────────────────────────────────


def server_run(
    detail: Mapping[str, Any], log: Callable[[str, int], bytes], folders: Iterable[str]
) -> Document:
    """`detail`: RunDetailView. `log`: (job id, step index) → its log."""
    folders = list(folders)
    jobs: dict[str, Document] = {}
    for job in detail["jobs"]:
        steps: list[Document] = []
        for step in sorted(job["steps"], key=lambda step: step["stepIndex"]):
            if step["stepType"] in {"prepare", "outside"}:  # `kici run local` has no rows for these
                continue
            text = log(job["jobId"], step["stepIndex"]).decode() if step["startedAt"] else ""
            steps.append(
                _step(
                    step,
                    name=step["stepName"],
                    kind=step["stepType"],
                    log=[str(plain(line, folders) or "") for line in text.splitlines()],
                )
            )
        failure = job["initFailure"] or {}
        jobs[job["jobName"]] = _job(
            job,
            title=job["displayName"],
            timeout=job["timeoutReason"],
            category=failure.get("category"),
            secrets=job["secretOutputKeys"],
            steps=steps,
            folders=folders,
        )
    run = detail["run"]
    return {
        "status": run["status"],
        "error": plain(run["failureReason"], folders),
        "timeout": run["timeoutReason"],
        "rules": _rules(run["rules"]),
        "inputs": run["inputs"],
        "jobs": jobs,
    }


def _job(
    job: Mapping[str, Any],
    *,
    title: str,
    timeout: str | None,
    category: str | None,
    secrets: list[str],
    steps: list[Document],
    folders: Iterable[str],
) -> Document:
    return {
        "kind": job["kind"],
        # The dashboard labels the values of a matrix, a terminal shows the names that `--job` takes.
        "title": title if job["kind"] != "job" else None,
        "status": job["status"],
        "error": plain(job["errorMessage"], folders),
        "timeout": timeout,
        "category": category,
        "outputs": job["outputs"] or {},
        "secrets": sorted(secrets),
        "rules": _rules(job["rules"]),
        "steps": steps,
    }


# ── comparison ───────────────────────────────────────────────────────────────────────────────────

ALLOWED = {
    # workflow, job → why all of it may differ
    ("events", "far"): "who takes events of other repositories is known to a server alone",
}
_LOCAL_ONLY = "a local run sends no events"  # said in the log of who emits
_OF_ITS_MACHINE = {"repositories/conformance": "conformance"}  # named by its remote; by its source


def comparable(workflow: str, local: Document, server: Document) -> tuple[Document, Document]:
    """Both sides without what may differ.

    A run names the job that failed first, and which that is depends on the machine: it must be one of the jobs
    that failed. A skipped run has its reason among its rules; the terminal also says it in one line.
    """
    return _comparable(workflow, local), _comparable(workflow, server)


def _comparable(workflow: str, run: Document) -> Document:
    reasons = {job["error"] for job in run["jobs"].values() if job["status"] == "failed"}
    error = run["error"]
    if run["status"] == "skipped":
        error = None
    elif run["status"] == "failed" and reasons:
        error = "of a job that failed" if error in reasons else error
    jobs = {
        name: "may differ" if (workflow, name) in ALLOWED else {**job, "steps": [*map(_told, job["steps"])]}
        for name, job in run["jobs"].items()
    }
    return {**run, "error": error, "jobs": jobs}


def _told(step: Document) -> Document:
    lines = [line for line in step["log"] if _LOCAL_ONLY not in line]
    for name, other in _OF_ITS_MACHINE.items():
        lines = [line.replace(name, other) for line in lines]
    return {**step, "log": lines}


def differences(local: Any, server: Any, where: str = "") -> Iterator[str]:
    """What is not the same, one line each."""
    if isinstance(local, dict) and isinstance(server, dict):
        ours, theirs = cast("Document", local), cast("Document", server)
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            yield from differences(ours.get(key, "absent"), theirs.get(key, "absent"), f"{where}/{key}")
    elif isinstance(local, list) and isinstance(server, list) and len(local) == len(server):
        for at, (ours, theirs) in enumerate(
            zip(cast("list[Any]", local), cast("list[Any]", server), strict=True)
        ):
            yield from differences(ours, theirs, f"{where}/{at}")
    elif local != server:
        yield f"{where}: {local!r} here, {server!r} there"
