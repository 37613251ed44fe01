"""What earlier steps and needed jobs left, as a test says (AU-26)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kici.sdk.definitions import Job, JobDefinition, Step
from kici.sdk.errors import OutputError
from kici.sdk.results import NeedResult
from kici.spec.states import JobStatus


class GivenOutputs:
    """Outputs of one job with several steps."""

    def __init__(self, job: str, values: Mapping[Step[Any], Any]) -> None:
        self._job = job
        self._values = {step.name: value for step, value in values.items()}

    def of(self, step: Step[Any], /) -> Any:
        if step.name not in self._values:
            raise OutputError(
                f"the test gave no output of step {step.name!r} in job {self._job!r}: "
                f"ctx.give_job({self._job}, {{{step.name}: …}})"
            )
        return self._values[step.name]

    def plain(self) -> dict[str, Any]:
        return dict(self._values)

    def __repr__(self) -> str:
        return f"StepOutputs({self._job!r}, {self._values!r})"


class GivenMatrix:
    def __init__(self, by_matrix: Mapping[str, Any]) -> None:
        self.by_matrix = dict(by_matrix)

    def __repr__(self) -> str:
        return f"MatrixOutputs({self.by_matrix!r})"

    @property
    def merged(self) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for name in sorted(self.by_matrix):
            joined |= _plain(self.by_matrix[name])
        return joined


class GivenHosts:
    def __init__(self, by_host: Mapping[str, Any], failed: Sequence[str]) -> None:
        self.by_host = dict(by_host)
        self.succeeded = sorted(by_host)
        self.failed = sorted(failed)

    def __repr__(self) -> str:
        return f"HostOutputs({self.by_host!r}, failed={self.failed!r})"

    def column(self, key: str, /) -> dict[str, Any]:
        return {host: _plain(value).get(key) for host, value in sorted(self.by_host.items())}


def _plain(value: Any) -> dict[str, Any]:
    return value.plain() if isinstance(value, GivenOutputs) else dict(msgspec.to_builtins(value))


class Given:
    """Everything a test gave, by the names of steps and jobs."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}
        self.needs: dict[str, NeedResult[Any] | list[NeedResult[Any]]] = {}
        self._outputs: dict[str, Any] = {}

    def job(self, job: JobDefinition, output: Any, status: JobStatus) -> None:
        value = self._of(job, output)
        self._outputs[job.name] = value
        self.needs[job.name] = NeedResult(name=job.name, status=status, result=value)

    def matrix(self, job: JobDefinition, outputs: Mapping[str, Any]) -> None:
        values = {name: self._of(job, output) for name, output in outputs.items()}
        self._outputs[job.name] = GivenMatrix(values)
        self._children(job, values, {})

    def hosts(self, job: JobDefinition, outputs: Mapping[str, Any], failed: Sequence[str]) -> None:
        values = {name: self._of(job, output) for name, output in outputs.items()}
        self._outputs[job.name] = GivenHosts(values, failed)
        self._children(job, values, dict.fromkeys(failed, JobStatus.FAILED))

    def group(self, name: str, results: Sequence[NeedResult[Any]]) -> None:
        self.needs[name] = list(results)

    def output(self, job: JobDefinition, kind: type[Any] | None, call: str) -> Any:
        """`kind`: what a fan-out was given as; None for a single job."""
        found = self._outputs.get(job.name, _MISSING)
        if found is _MISSING:
            raise OutputError(f"the test gave no output of job {job.name!r}: ctx.{call}({job.name}, …)")
        single = not isinstance(found, GivenMatrix | GivenHosts)
        if (kind is None) != single or (kind is not None and not isinstance(found, kind)):
            raise OutputError(f"the test gave another kind of output of job {job.name!r}: use ctx.{call}")
        return found

    def need(self, job: JobDefinition | str) -> NeedResult[Any]:
        name = job if isinstance(job, str) else job.name
        found = self.needs.get(name)
        if found is None:
            raise OutputError(f"the test gave nothing about job {name!r}: ctx.give_job({name}, …)")
        if isinstance(found, list):
            raise OutputError(f"{name!r} is a group or a fan-out: use ctx.needs[{name!r}]")
        return found

    def _children(
        self, job: JobDefinition, values: Mapping[str, Any], other: Mapping[str, JobStatus]
    ) -> None:
        self.needs[job.name] = [
            NeedResult(
                name=f"{job.name} ({child})",
                status=other.get(child, JobStatus.SUCCESS),
                result=values.get(child),
            )
            for child in sorted({*values, *other})
        ]

    def _of(self, job: JobDefinition, output: Any) -> Any:
        if isinstance(job, Job):
            return output
        if output is None:
            return GivenOutputs(job.name, {})
        if isinstance(output, Mapping) and all(isinstance(step, Step) for step in output):
            return GivenOutputs(job.name, output)
        raise OutputError(f"job {job.name!r} has several steps: give their outputs as {{step: value}}")


_MISSING = object()
