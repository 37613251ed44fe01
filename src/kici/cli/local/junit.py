"""`--junit FILE`: a suite per workflow, a case per step (AU-117)."""

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from kici.cli.local.results import JobReport, RunReport, StepReport
from kici.spec.states import JobStatus, StepStatus


def document(runs: Sequence[RunReport]) -> bytes:
    """UTF-8 XML. A job that ran no step is one case of its own name."""
    root = ET.Element("testsuites")
    for run in runs:
        suite = ET.SubElement(root, "testsuite", name=run.workflow, time=_seconds(run.duration_ms))
        for job in run.jobs:
            for step in job.steps:
                _step(suite, job, step)
            blamed = any(step.status in {StepStatus.FAILED, StepStatus.CANCELLED} for step in job.steps)
            if not job.steps or (job.status == JobStatus.FAILED and not blamed):
                _whole_job(suite, job)
        cases = list(suite)
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        suite.set("skipped", str(sum(case.find("skipped") is not None for case in cases)))
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _step(suite: ET.Element, job: JobReport, step: StepReport) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=job.name, name=step.name, time=_seconds(step.duration_ms)
    )
    match step.status:
        case StepStatus.FAILED:
            _failure(case, step.error_message, step.excerpt)
        case StepStatus.SKIPPED | StepStatus.CANCELLED | StepStatus.PENDING:
            ET.SubElement(case, "skipped", message=step.error_message or str(step.status))
        case _:
            pass


def _whole_job(suite: ET.Element, job: JobReport) -> None:
    case = ET.SubElement(
        suite, "testcase", classname=job.name, name=job.name, time=_seconds(job.duration_ms)
    )
    if job.status == JobStatus.FAILED:
        _failure(case, job.error_message, None)
    elif job.status != JobStatus.SUCCESS:
        ET.SubElement(case, "skipped", message=job.error_message or str(job.status))


def _failure(case: ET.Element, message: str | None, excerpt: str | None) -> None:
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
