"""`--junit FILE`: a suite per workflow, a case per step (AU-117)."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from msgspec import Struct

from kici.cli.local.results import JobReport, RunReport, StepReport
from kici.engine.reasons import as_sentence
from kici.spec.states import JobStatus, RunStatus, StepStatus


class Rejected(Struct, frozen=True, kw_only=True):
    """What was asked for and started no run: the event or the fixture, and why."""

    name: str
    message: str


def document(runs: Sequence[RunReport], *, rejected: Sequence[Rejected] = ()) -> bytes:
    """UTF-8 XML. A job that ran no step is one case of its own name; so is a run that failed without blaming
    any, and what was rejected, in a suite of its own: nothing that failed looks well to who counts cases."""
    root = ET.Element("testsuites")
    for run in runs:
        suite = ET.SubElement(root, "testsuite", name=run.workflow, time=_seconds(run.duration_ms))
        for job in run.jobs:
            for step in job.steps:
                _step(suite, job, step)
            blamed = any(step.status in {StepStatus.FAILED, StepStatus.CANCELLED} for step in job.steps)
            if not job.steps or (job.status == JobStatus.FAILED and not blamed):
                _whole_job(suite, job)
        if (run.status == RunStatus.FAILED or run.timeout_reason) and not _failures(suite):
            _failed_case(suite, run.workflow, run.error_message)
        _count(suite)
    for entry in rejected:
        suite = ET.SubElement(root, "testsuite", name=_clean(entry.name), time=_seconds(0))
        _failed_case(suite, entry.name, entry.message)
        _count(suite)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _failures(suite: ET.Element) -> int:
    return sum(case.find("failure") is not None for case in suite)


def _count(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(_failures(suite)))
    suite.set("skipped", str(sum(case.find("skipped") is not None for case in suite)))


def _failed_case(suite: ET.Element, name: str, message: str | None) -> None:
    """One that stands for the whole suite."""
    case = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(name), time=_seconds(0))
    _failure(case, message, None)


def _step(suite: ET.Element, job: JobReport, step: StepReport) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=job.name, name=step.name, time=_seconds(step.duration_ms)
    )
    match step.status:
        case StepStatus.FAILED:
            _failure(case, step.error_message, step.excerpt)
        case StepStatus.SKIPPED | StepStatus.CANCELLED | StepStatus.PENDING:
            ET.SubElement(case, "skipped", message=_why(step.error_message, step.status))
        case _:
            pass


def _whole_job(suite: ET.Element, job: JobReport) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=job.name, name=job.name, time=_seconds(job.duration_ms)
    )
    if job.status == JobStatus.FAILED:
        _failure(case, job.error_message, None)
    elif job.status != JobStatus.SUCCESS:
        ET.SubElement(case, "skipped", message=_why(job.error_message, job.status))


def _why(message: str | None, status: str) -> str:
    return _clean(as_sentence(message or "") or status)


def _failure(case: ET.Element, message: str | None, excerpt: str | None) -> None:
    message = as_sentence(message or "")
    lines = (message or "failed").strip().splitlines()
    failure = ET.SubElement(case, "failure", message=_clean(lines[0] if lines else "failed"))
    failure.text = _clean("\n".join(filter(None, [message, excerpt])))


def _clean(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(
        character
        for character in text
        if character in "\t\n\r"
        or " " <= character <= "\ud7ff"
        or "\ue000" <= character <= "\ufffd"
        or character > "\uffff"
    )


def _seconds(duration_ms: int | None) -> str:
    return f"{(duration_ms or 0) / 1000:.3f}"
